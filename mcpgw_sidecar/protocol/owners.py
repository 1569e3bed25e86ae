"""Puts the owner, an upstream session, into each id of a server that the client sends back.

The id becomes `mcpgw:<server>:<ticket>:<id as the server wrote it>`.

=========================================  ======================================================
id in the server's stream                  the client sends it back as
=========================================  ======================================================
`id` of a server's request                 `id` of its answer
`requestId` of a server's cancellation     (nothing: it names a request that the client has)
`params._meta.progressToken` of a request  `params.progressToken` of notifications/progress
`id:` of an event                          `Last-Event-ID`, when it resumes the stream of a call
                                           (with the call's id before it, `~<in hex>~`)
=========================================  ======================================================

Envoy writes the owner into the server's event stream (envoy/lua/events.lua), and this module
reads it. The ticket is the sealed session with the server (sessions/tickets.py), so neither a
replica nor a restarted process needs a table. A client can write anything into an id, but a
ticket opens only a session that was sealed for the client's own session.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from mcpgw_sidecar.model.names import NULL, JsonText, ServerName
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, Response, parse_message
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps, last, parse_object
from mcpgw_sidecar.protocol.methods import CANCELLED

PREFIX = "mcpgw:"
PING = "mcpgw-ping-"
"""The ids of the broker's own requests begin so: pings, whose answers nobody waits for."""

ASK = "mcpgw-ask-"
"""The ids of questions begin so that a call asks which the broker carries."""

_OF_CALL = re.compile(r"~((?:[0-9a-f]{2})*)~")
MAX_HEARING = 4000  # characters of the tickets in an event's id, which has to come back as a header


@attrs.frozen
class Owner:
    """The origin of an id: a server, and the ticket of the session with it.

    `id` is the server's own: JSON, or the text of an event's id.
    """

    server: ServerName
    ticket: str
    id: JsonText


def owner_text(server: ServerName, ticket: str) -> str:
    """The text between `mcpgw:` and the server's own id."""
    return f"{server}:{ticket}"


def name_owner(message: Request | Notification, owner: str) -> str:
    """A server's message with `owner` in its ids, as events.lua writes it in Envoy's answers."""
    spans: list[tuple[int, int]] = []
    if isinstance(message, Request):
        spans = [(message.id_start, message.id_end), *_token(message)]
    elif message.method == CANCELLED:
        request_id = last(message.params, "requestId")
        spans = [(request_id.start, request_id.end)] if request_id is not None else []
    text = message.text
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}{dumps(f'{PREFIX}{owner}:{text[start:end]}')}{text[end:]}"
    return text


def read_owner(ident: object) -> Owner | None:
    """The owner that an id or a progress token names; None if it names no owner."""
    owner = read_event_owner(ident) if isinstance(ident, str) else None
    if owner is None:
        return None
    # The id is written into a message, so the common parser must find a string or a number, and no
    # more.
    message = parse_message(f'{{"jsonrpc":"2.0","id":{owner.id},"result":0}}')
    return owner if isinstance(message, Response) and message.id == owner.id else None


def read_event_owner(text: str) -> Owner | None:
    """The owner that the id of an event names."""
    if not text.startswith(PREFIX):
        return None
    server, _, rest = text.removeprefix(PREFIX).partition(":")
    ticket, colon, raw = rest.partition(":")
    return Owner(ServerName(server), ticket, JsonText(raw)) if server and colon else None


def read_call(text: JsonText) -> tuple[JsonText, JsonText]:
    """The id of the call whose stream an event was in, or null, and the server's own id of it."""
    found = _OF_CALL.match(text)
    if found is None:
        return NULL, text
    ident = bytes.fromhex(found[1]).decode("utf-8", "replace")
    message = parse_message(f'{{"jsonrpc":"2.0","id":{ident},"result":0}}')
    is_id = isinstance(message, Response) and message.id == ident
    return JsonText(ident) if is_id else NULL, JsonText(text[found.end() :])


def hearing_text(tickets: Mapping[ServerName, str], wishes: str) -> str:
    """What the id of an event says of a session: `<server>:<ticket>,...`, `:<wishes>` the last.

    At most MAX_HEARING characters: else without the wishes, or nothing.
    """
    owners = [owner_text(server, ticket) for server, ticket in sorted(tickets.items())]
    texts = (",".join([*owners, f":{wishes}"] if wishes else owners), ",".join(owners))
    return next((text for text in texts if len(text) <= MAX_HEARING), "")


def read_hearing(event_id: str) -> tuple[dict[ServerName, str], str]:
    """Tickets of the upstream sessions that the gateway listened to at an event, and the wishes.

    The id of an event of the broker is `<stream>.<number>.<state>[.<hearing>]`
    (front/streams.py), the last as `hearing_text` writes it.
    """
    tail = event_id.split(".", 3)[3:]
    owners = [owner.partition(":") for owner in (tail[0].split(",") if tail else ())]
    tickets = {ServerName(server): ticket for server, _, ticket in owners if ticket}
    return tickets, tickets.pop(ServerName(""), "")


def _token(request: Request) -> list[tuple[int, int]]:
    """The span of a request's progress token; empty without a token that can be found."""
    meta = last(request.params, "_meta")
    if meta is None or not isinstance(meta.value, dict):
        return []
    try:
        token = last(parse_object(request.text[meta.start : meta.end]), "progressToken")
    except JsonTextError:  # more than MAX_MEMBERS members
        return []
    return [(meta.start + token.start, meta.start + token.end)] if token is not None else []
