"""The servers that may know a URI which no list has: a link in the result of a call, say.

Results pass through Envoy untouched and unread, so nobody has noted which server gave a link. It
can only be one that this session has called. Of these, the servers come first whose listed URIs or
templates share the link's scheme and authority.
"""

from __future__ import annotations

import re

from mcpgw_sidecar.catalog.aliases import SCHEME
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.model.kinds import RESOURCE, TEMPLATE
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import SessionState

_PLACE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)(//[^/?#{]*)?")  # scheme and authority (RFC 3986, section 3)


def candidates(uri: str, snapshot: Snapshot, session: SessionState) -> tuple[Server, ...]:
    """The servers to ask for a URI that no list has, in the order of the configuration."""
    known = session.links.get(uri)
    if uri.startswith(SCHEME):
        return ()  # an alias names its server, which has no such URI
    readable = snapshot.servers if snapshot.readable is None else snapshot.readable
    if known is not None and known in snapshot.servers and known in session.upstreams and known in readable:
        return (snapshot.servers[known],)
    place = _PLACE.match(uri)
    near_by = re.compile(re.escape(place[0]) + (r"(?=[/?#{]|$)" if place[2] else "")) if place else None
    called = [server for name, server in snapshot.servers.items() if name in session.upstreams and name in readable]
    names = {
        owned.server.name
        for kind in (RESOURCE, TEMPLATE)
        for key, owned in snapshot.of(kind).owned.items()
        if owned.server.name in session.upstreams and near_by is not None and near_by.match(key)
    }
    near = tuple(server for server in called if server.name in names)
    return near or tuple(called)
