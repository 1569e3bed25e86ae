"""Checks the `Host` and the `Origin` of a request, against DNS rebinding.

See basic/transports, Security Warning. A browser that was tricked into resolving evil.example to
127.0.0.1 still sends `Host: evil.example` (421). A page of another site sends its own `Origin`
(403). Programs send no Origin, which is allowed.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.protocol.jsonrpc import SERVER_ERROR

ERAS = AUTO, STATEFUL, STATELESS = "auto", "stateful", "stateless"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def host_name(authority: str) -> str:
    """The host of `host:port`, lower case, without brackets; "" for an invalid one."""
    if "@" in authority:  # no part of a Host (RFC 9110, section 7.2)
        return ""
    try:
        parts = urlsplit(f"//{authority}")
        return (parts.hostname or "").rstrip(".") if parts.port != 0 else ""
    except ValueError:
        return ""


@attrs.frozen(kw_only=True)
class Guard:
    """The allowed hosts and origins.

    `hosts` are names without port; `*` allows all, `*.x` every name below x. `origins` are
    `scheme://host[:port]`. Without `batches` no client may send one. `prefer_era` is the era to
    which clients are led that know both.
    """

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    batches: bool = True
    prefer_era: str = STATEFUL

    def refuses(self, authority: str, origin: str | None) -> Reject | None:
        """The rejection of a request; None for a request that is allowed."""
        host = host_name(authority)
        if not self._serves(host):
            message = (
                f"Misdirected Request: this gateway does not serve the host {host[:200]!r}; start it with --public-host"
            )
            return Reject(status=421, code=SERVER_ERROR, message=message)
        if origin is None or origin in self.origins or "*" in self.origins:
            return None
        origin_host = host_name(origin.partition("://")[2])
        if origin_host and (origin_host == host or (origin_host in LOOPBACK and host in LOOPBACK)):
            return None
        message = f"Forbidden: pages of the origin {origin[:200]!r} may not call; start the gateway with --allowed-origin"
        return Reject(status=403, code=SERVER_ERROR, message=message)

    def _serves(self, host: str) -> bool:
        if not host:
            return False
        if host in self.hosts or "*" in self.hosts:
            return True
        return any(pattern.startswith("*.") and host.endswith(pattern[1:]) for pattern in self.hosts)
