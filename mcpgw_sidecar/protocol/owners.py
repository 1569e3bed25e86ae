"""What a server's client has to give back, made to name the session that it came from: `mcpgw:<server>:<ticket>:<as the server wrote it>`.

=========================================  ==============================================================
what                                       given back by the client as
=========================================  ==============================================================
`id` of a server's request                 `id` of its answer
`requestId` of a server's cancellation     (nothing: it names the request that the client already has)
`params._meta.progressToken` of a request  `params.progressToken` of notifications/progress
`id:` of an event                          `Last-Event-ID`, when it resumes the stream of a call
=========================================  ==============================================================

Envoy writes it into the server's event stream (envoy/events.lua), and it is read here. The ticket is the session with the server
(sessions/tickets.py): no table is needed, at no replica, after no restart. A client can write anything into an id, but a ticket opens only
what was sealed for its own session.
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, Response, parse_message
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, parse_object

PREFIX = "mcpgw:"


@attrs.frozen
class Owner:
    """Who asked, in which session, and under which id: JSON of the server's own, or the text of an event's id."""

    server: ServerName
    ticket: str
    id: JsonText


def owner_text(server: ServerName, ticket: str) -> str:
    """What stands between `mcpgw:` and the server's own id."""
    return f"{server}:{ticket}"


def name_owner(message: Request | Notification, owner: str) -> str:
    """A server's message in which what comes back names `owner`; what events.lua does to the answers that Envoy carries."""
    spans: list[tuple[int, int]] = []
    if isinstance(message, Request):
        spans = [(message.id_start, message.id_end), *_token(message)]
    elif message.method == "notifications/cancelled":
        named = _last(message.params, "requestId")
        spans = [(named.start, named.end)] if named is not None else []
    text = message.text
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}{dumps(f'{PREFIX}{owner}:{text[start:end]}')}{text[end:]}"
    return text


def read_owner(ident: object) -> Owner | None:
    """The owner that an id or a progress token names; None for one of anybody else."""
    owner = read_event_owner(ident) if isinstance(ident, str) else None
    if owner is None:
        return None
    # An id is a string or a number by the same reader as everywhere, and nothing besides: it is written into a message.
    message = parse_message(f'{{"jsonrpc":"2.0","id":{owner.id},"result":0}}')
    return owner if isinstance(message, Response) and message.id == owner.id else None


def read_event_owner(text: str) -> Owner | None:
    """The owner that the id of an event names."""
    if not text.startswith(PREFIX):
        return None
    server, _, rest = text.removeprefix(PREFIX).partition(":")
    ticket, colon, raw = rest.partition(":")
    return Owner(ServerName(server), ticket, JsonText(raw)) if server and colon else None


def read_hearing(event_id: str) -> list[tuple[ServerName, str]]:
    """Server and ticket of each session with a server that was heard when an event of the broker's was sent.

    Such an id is `<stream>.<number>.<state>[.<server>:<ticket>,...]` (front/streams.py).
    """
    hearing = event_id.split(".", 3)[3:]
    owners = [owner.partition(":") for owner in (hearing[0].split(",") if hearing else ())]
    return [(ServerName(server), ticket) for server, _, ticket in owners if ticket]


def _token(request: Request) -> list[tuple[int, int]]:
    """Where the token of a request for progress stands, if it has one that can be found."""
    meta = _last(request.params, "_meta")
    if meta is None or not isinstance(meta.value, dict):
        return []
    try:
        token = _last(parse_object(request.text[meta.start : meta.end]), "progressToken")
    except JsonTextError:  # more members than are walked
        return []
    return [(meta.start + token.start, meta.start + token.end)] if token is not None else []


def _last(members: list[Member] | None, key: str) -> Member | None:
    return next((member for member in reversed(members or []) if member.key == key), None)
