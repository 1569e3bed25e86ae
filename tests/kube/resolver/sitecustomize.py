"""The cluster's DNS for the sidecar under test: every Service is on this machine, and whatever
a tenant names example.com.

Envoy asks tests/kube/dns.py.
"""

from __future__ import annotations

import socket
from typing import Any

_resolve = socket.getaddrinfo


def _getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    return _resolve("127.0.0.1" if name and name.endswith((".svc.cluster.local", ".example.com")) else host, *args, **kwargs)


socket.getaddrinfo = _getaddrinfo
