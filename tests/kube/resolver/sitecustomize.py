"""The cluster's DNS for the sidecar under test: every Service is on this machine. (Envoy asks tests/kube/dns.py.)"""

import socket

_resolve = socket.getaddrinfo


def _getaddrinfo(host, *args, **kwargs):  # type: ignore[no-untyped-def]
    name = host.decode() if isinstance(host, bytes) else host
    return _resolve("127.0.0.1" if name and name.endswith(".svc.cluster.local") else host, *args, **kwargs)


socket.getaddrinfo = _getaddrinfo
