"""The id of a server's request to the client, made to name its server: `mcpgw:<server>:<the id as the server wrote it>`.

Envoy writes it into the server's event stream (envoy/events.lua), the client answers with it, and it is read here. A client can write
any server's name into an id: what it then answers reaches its own session with that server, which it may talk to anyway.
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, Response, parse_message
from mcpgw_sidecar.protocol.jsontext import dumps

PREFIX = "mcpgw:"


@attrs.frozen
class Owner:
    """Who asked, and the id under which."""

    server: ServerName
    id: JsonText


def name_owner(message: Request | Notification, server: ServerName) -> str:
    """A server's message with the id of its request, or the id that its cancellation names, made to name the server.

    What events.lua does to the answers that Envoy carries, for what the sidecar itself hands on.
    """
    if isinstance(message, Request):
        start, end = message.id_start, message.id_end
    else:
        named = [member for member in message.params or [] if member.key == "requestId"]
        if message.method != "notifications/cancelled" or len(named) != 1:
            return message.text
        start, end = named[0].start, named[0].end
    text = message.text
    return f"{text[:start]}{dumps(f'{PREFIX}{server}:{text[start:end]}')}{text[end:]}"


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
