"""Tickets: a ticket is a session with a server, sealed for its client.

A process with the gateway's key can open it, and nobody else can read it. A request of a server to
the client carries a ticket in its id (protocol/owners.py), so that the answer finds the session of
the request without a table: at another replica, or after a restart. The session store holds the
same texts. A ticket is bound to the client's session, to the server and to the server's URL, and
cannot be opened for any other.

The cipher is AES-SIV (RFC 5297): the same session always gives the same ticket, so no randomness is
needed and a ticket is made once.

Wishes of clients for notifications are sealed likewise, for the ids of events and the journal; and
the ids of questions in the calls that the broker carries, and servers' tokens for callers.
"""

from __future__ import annotations

import json
import zlib

from cryptography.exceptions import InvalidTag

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import AllWishes, UpstreamSession
from mcpgw_sidecar.sessions.tokens import SessionKeys, decode, encode

MAX_TICKET = 4096  # characters; common servers would refuse a header with a session id that needs more
MAX_TOKEN = 1 << 14  # characters of a sealed token
MAX_WISHES = 1 << 17  # characters of wishes that are opened


def seal_ticket(keys: SessionKeys, session_key: str, server: Server, upstream: UpstreamSession) -> str:
    """The ticket of a session with a server: URL-safe characters, "" when it would be too long."""
    claims = json.dumps([upstream.id, upstream.protocol_version], separators=(",", ":")).encode()
    ticket = encode(keys.keys[0].tickets.encrypt(claims, _binding(session_key, server)))
    return ticket if len(ticket) <= MAX_TICKET else ""


def open_ticket(keys: SessionKeys, session_key: str, server: Server, ticket: str) -> UpstreamSession | None:
    """The session in a ticket; None for a ticket that is not of this session and server."""
    claims = _opened(keys, ticket, _binding(session_key, server))
    if claims is None:
        return None
    ident, version = json.loads(claims)
    return UpstreamSession(id=ident, protocol_version=version, ticket=ticket)


def seal_wishes(keys: SessionKeys, session_key: str, wishes: AllWishes) -> str:
    """The wishes of a session's client, sealed: URL-safe characters, "" when they are too many."""
    resources = {server: sorted(uris) for server, uris in sorted(wishes.resources.items())}
    claims = zlib.compress(json.dumps([wishes.level, resources], separators=(",", ":")).encode())
    sealed = encode(keys.keys[0].tickets.encrypt(claims, _wishes_of(session_key)))
    return sealed if len(sealed) <= MAX_TICKET else ""


def open_wishes(keys: SessionKeys, session_key: str, sealed: str) -> AllWishes:
    """The wishes that `seal_wishes` has sealed for a session; none for any other text."""
    claims = _opened(keys, sealed, _wishes_of(session_key))
    if claims is None:
        return AllWishes()
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(claims, MAX_WISHES)
    if not unpacking.eof:  # a few bytes may have been megabytes
        return AllWishes()
    level, resources = json.loads(text)
    return AllWishes(level=level, resources={ServerName(name): frozenset(uris) for name, uris in resources.items()})


def seal_question(keys: SessionKeys, session_key: str, nonce: bytes) -> str:
    """The id of a question to a session's client, made of random bytes: URL-safe characters.

    Any process with the gateway's key knows it for one that was asked.
    """
    return encode(keys.keys[0].tickets.encrypt(nonce, _question_of(session_key)))


def seal_token(keys: SessionKeys, key: str, text: str) -> str:
    """A server's token for a caller, sealed for replicas under the key of both."""
    return encode(keys.keys[0].tickets.encrypt(text.encode(), _token_of(key)))


def open_token(keys: SessionKeys, key: str, sealed: str) -> str | None:
    """The text that `seal_token` has sealed; None for any other text."""
    opened = _opened(keys, sealed, _token_of(key), MAX_TOKEN)
    return None if opened is None else opened.decode()


def is_question(keys: SessionKeys, session_key: str, text: str) -> bool:
    """Whether a text is the id of a question to a session's client."""
    return _opened(keys, text, _question_of(session_key)) is not None


def _opened(keys: SessionKeys, text: str, binding: list[bytes], longest: int = MAX_TICKET) -> bytes | None:
    """What was sealed with one of the keys; None for any other text."""
    if not text or len(text) > longest or not text.isascii():
        return None
    try:
        sealed = decode(text)
    except ValueError:
        return None
    for key in keys.keys:
        try:
            return key.tickets.decrypt(sealed, binding)
        except (InvalidTag, ValueError):
            continue
    return None


def _binding(session_key: str, server: Server) -> list[bytes]:
    return [session_key.encode(), server.name.encode(), server.url.encode()]


def _question_of(session_key: str) -> list[bytes]:
    return [session_key.encode(), b"question"]


def _token_of(key: str) -> list[bytes]:
    return [key.encode(), b"token"]


def _wishes_of(session_key: str) -> list[bytes]:
    return [session_key.encode(), b"wishes"]
