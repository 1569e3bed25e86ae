"""Which virtual server a request names, and what its client sees of the catalog. Each request names it anew, by path or by header.

The ladder, first failure wins:

1. the path is the endpoint, or the endpoint and a name (`/mcp/NS/NAME`)      else 404
2. path and header (`x-mcp-virtualserver`) do not name two                    else 400
3. there is one of that name                                                  else 404: an unknown name is never everything

Whoever takes a request in climbs rungs 1 and 2 and leaves the name in the header: from there on it is read there, whichever way it was said.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ENDPOINT, VirtualName
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import INVALID_REQUEST

_BELOW = f"{ENDPOINT}/"
_SHOWN = 200  # characters of a name that an error repeats


def wanted(path: str, headers: Mapping[str, str]) -> VirtualName | Reject | None:
    """The virtual server that a request names (rungs 1 and 2), None when it names none. `path` is without its query."""
    if path != ENDPOINT and not path.startswith(_BELOW):
        return Reject(status=404, code=INVALID_REQUEST, message=f"Not found: the endpoint is {ENDPOINT}")
    by_path = (path.removeprefix(_BELOW).rstrip("/") or None) if path != ENDPOINT else None
    by_header = headers.get(h.X_VIRTUAL)
    if by_path is not None and by_header is not None and by_path != by_header:
        message = f"Two virtual servers are named, one by the path and another by {h.X_VIRTUAL}: name one"
        return Reject(status=400, code=INVALID_REQUEST, message=message)
    return VirtualName(by_path) if by_path is not None else named(headers)


def named(headers: Mapping[str, str]) -> VirtualName | None:
    """The virtual server that the header names."""
    name = headers.get(h.X_VIRTUAL)
    return None if name is None else VirtualName(name)


def seen(snapshot: Snapshot, headers: Mapping[str, str]) -> Snapshot | Reject:
    """What the client of the virtual server sees that the header names (rung 3); everything when it names none."""
    name = named(headers)
    view = snapshot.view(name)
    if view is not None:
        return view
    message = f"Virtual server not found: {(name or '')[:_SHOWN]!r}; without a name all tools are served"
    return Reject(status=404, code=INVALID_REQUEST, message=message)
