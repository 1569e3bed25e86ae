"""The cluster's DNS for Envoy: every Service is on this machine."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Self

_A = 1
_SUFFIX = b"\x03svc\x07cluster\x05local\x00"


class ClusterDns:
    """Answers A queries for *.svc.cluster.local with 127.0.0.1, anything else with nothing."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            is_cluster_name = query[12 : end - 4].lower().endswith(_SUFFIX)
            has_address = is_cluster_name and struct.unpack(">H", query[end - 4 : end - 2])[0] == _A
            flags = 0x8580 if is_cluster_name else 0x8583  # answer, authoritative; NXDOMAIN for a name that is none of ours
            reply = query[:2] + struct.pack(">HHHHH", flags, 1, int(has_address), 0, 0) + query[12:end]
            if has_address:
                reply += b"\xc0\x0c" + struct.pack(">HHIH", _A, 1, 5, 4) + bytes([127, 0, 0, 1])
            self._socket.sendto(reply, peer)

    @property
    def envoy_config(self) -> str:
        """What Envoy's bootstrap needs to ask here."""
        kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
        return (
            f'{{typed_dns_resolver_config: {{name: envoy.network.dns_resolver.cares, typed_config: {{"@type": {kind}, '
            f"resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {self.port}}}}}], "
            "dns_resolver_options: {use_tcp_for_dns_lookups: false, no_default_search_domain: true}}}}"
        )

    def stop(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
