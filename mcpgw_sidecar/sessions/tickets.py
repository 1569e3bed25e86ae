"""Tickets: a ticket is a session with a server, sealed for its client.

A process with the gateway's key can open it, and nobody else can read it. A request of a server to
the client carries a ticket in its id (protocol/owners.py), so that the answer finds the session of
the request without a table: at another replica, or after a restart. The session store holds the
same texts. A ticket is bound to the client's session, to the server and to the server's URL, and
cannot be opened for any other.

The cipher is AES-SIV (RFC 5297): the same session always gives the same ticket, so no randomness is
needed and a ticket is made once.
"""

from __future__ import annotations

import json

from cryptography.exceptions import InvalidTag

from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.sessions.tokens import SessionKeys, decode, encode

MAX_TICKET = 4096  # characters; common servers would refuse a header with a session id that needs more


def seal_ticket(keys: SessionKeys, session_key: str, server: Server, upstream: UpstreamSession) -> str:
    """The ticket of a session with a server: URL-safe characters, "" when it would be too long."""
    claims = json.dumps([upstream.id, upstream.protocol_version], separators=(",", ":")).encode()
    ticket = encode(keys.keys[0].tickets.encrypt(claims, _binding(session_key, server)))
    return ticket if len(ticket) <= MAX_TICKET else ""


def open_ticket(keys: SessionKeys, session_key: str, server: Server, ticket: str) -> UpstreamSession | None:
    """The session in a ticket; None for a ticket that is not of this session and server."""
    if not ticket or len(ticket) > MAX_TICKET or not ticket.isascii():
        return None
    try:
        sealed = decode(ticket)
    except ValueError:
        return None
    for key in keys.keys:
        try:
            claims = key.tickets.decrypt(sealed, _binding(session_key, server))
        except (InvalidTag, ValueError):
            continue
        ident, version = json.loads(claims)
        return UpstreamSession(id=ident, protocol_version=version, ticket=ticket)
    return None


def _binding(session_key: str, server: Server) -> list[bytes]:
    return [session_key.encode(), server.name.encode(), server.url.encode()]
