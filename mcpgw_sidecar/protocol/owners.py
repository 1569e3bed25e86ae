"""The id of a server's request to the client, made to name its server: `mcpgw:<server>:<the id as the server wrote it>`.

Envoy writes it into the server's event stream (envoy/events.lua), the client answers with it, and it is read here. A client can write
any server's name into an id: what it then answers reaches its own session with that server, which it may talk to anyway.
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.protocol.jsonrpc import Response, parse_message

PREFIX = "mcpgw:"


@attrs.frozen
class Owner:
    """Who asked, and the id under which."""

    server: ServerName
    id: JsonText


def read_owner(ident: object) -> Owner | None:
    """The owner that an id names; None for an id of anybody else."""
    if not isinstance(ident, str) or not ident.startswith(PREFIX):
        return None
    server, _, raw = ident.removeprefix(PREFIX).partition(":")
    # An id is a string or a number by the same reader as everywhere, and nothing besides: it is written into a message.
    message = parse_message(f'{{"jsonrpc":"2.0","id":{raw},"result":0}}')
    if not server or not isinstance(message, Response) or message.id != raw:
        return None
    return Owner(ServerName(server), message.id)
