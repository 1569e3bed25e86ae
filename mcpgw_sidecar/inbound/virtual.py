"""Reads the virtual server that a request names. Each request names it anew, by path or header.

1. the path is the endpoint, or the endpoint and a name (`/mcp/NS/NAME`)         else 404
2. path and header (`x-mcp-virtualserver`) do not name two different servers     else 400
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ENDPOINT, Scope, VirtualName
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import INVALID_REQUEST

_BELOW = f"{ENDPOINT}/"
_SHOWN = 200  # characters of a name that an error repeats


def scope_of(path: str, headers: Mapping[str, str]) -> Scope | Reject:
    """The scope of a request (the rungs above). `path` is as it was sent, without its query."""
    path = unquote(path)
    if path != ENDPOINT and not path.startswith(_BELOW):
        return Reject(status=404, code=INVALID_REQUEST, message=f"Not found: the endpoint is {ENDPOINT}")
    path_name = path.removeprefix(_BELOW).rstrip("/") if path != ENDPOINT else ""
    header_name = headers.get(h.X_VIRTUAL)
    if path_name and header_name is not None and path_name != header_name:
        message = f"Two virtual servers are named, one by the path and another by {h.X_VIRTUAL}: name one"
        return Reject(status=400, code=INVALID_REQUEST, message=message)
    name = path_name or header_name
    return Scope(VirtualName(name) if name is not None else None)


def unknown(scope: Scope) -> Reject:
    """The refusal of an unknown virtual server: its name never means the whole catalog.

    Without a name the bare endpoint is closed.
    """
    if scope.virtual is None:
        message = f"Not found: this gateway serves virtual servers alone, at {_BELOW}NAMESPACE/NAME"
        return Reject(status=404, code=INVALID_REQUEST, message=message)
    name = scope.virtual[:_SHOWN]
    message = f"Virtual server not found: {name!r}; without a name all tools are served"
    return Reject(status=404, code=INVALID_REQUEST, message=message)
