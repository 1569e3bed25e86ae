"""A session with a server, sealed for its client: whoever holds the gateway's key can use it again, and nobody can read it.

A request of a server to the client carries one in its id (protocol/owners.py), so that the answer finds the session that asked without
a table: at another replica, after a restart. The session store holds the same texts. A ticket is bound to the client's session, to the server
and to where that server lives: anywhere else it opens nothing.

AES-SIV (RFC 5297): the same session always gives the same ticket, so no randomness is needed and a ticket is made once.
"""

from __future__ import annotations

import json

from cryptography.exceptions import InvalidTag

from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.sessions.tokens import SessionKeys, decode, encode

MAX_TICKET = 4096  # characters; a session id that needs more is none that common servers would take as a header


def seal_ticket(keys: SessionKeys, session_key: str, server: Server, upstream: UpstreamSession) -> str:
    """The ticket of a session with a server: URL-safe characters, "" when it would be too long."""
    said = json.dumps([upstream.id, upstream.protocol_version], separators=(",", ":")).encode()
    ticket = encode(keys.keys[0].tickets.encrypt(said, _bound(session_key, server)))
    return ticket if len(ticket) <= MAX_TICKET else ""


def open_ticket(keys: SessionKeys, session_key: str, server: Server, ticket: str) -> UpstreamSession | None:
    """What a ticket says, None when it was not made here for this session and server."""
    if not ticket or len(ticket) > MAX_TICKET or not ticket.isascii():
        return None
    try:
        sealed = decode(ticket)
    except ValueError:
        return None
    for key in keys.keys:
        try:
            said = key.tickets.decrypt(sealed, _bound(session_key, server))
        except (InvalidTag, ValueError):
            continue
        ident, version = json.loads(said)
        return UpstreamSession(id=ident, protocol_version=version, ticket=ticket)
    return None


def _bound(session_key: str, server: Server) -> list[bytes]:
    return [session_key.encode(), server.name.encode(), server.url.encode()]
