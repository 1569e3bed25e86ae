"""Seals sessions with servers, and wishes, for replicas and clients (sessions/tickets.py)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import NOTHING, AllWishes, Session, UpstreamSession
from mcpgw_sidecar.protocol.owners import ASK
from mcpgw_sidecar.sessions.tickets import (
    is_question,
    open_ticket,
    open_wishes,
    seal_question,
    seal_ticket,
    seal_wishes,
)
from mcpgw_sidecar.sessions.tokens import SessionKeys


@attrs.frozen
class OpenSessions:
    """Seals and opens tickets. `keys` and `servers` return the current ones."""

    keys: Callable[[], SessionKeys]
    servers: Callable[[], Mapping[ServerName, Server]]

    def seal(self, session: Session, server: Server, upstream: UpstreamSession) -> UpstreamSession:
        """The upstream session with its ticket."""
        return attrs.evolve(upstream, ticket=seal_ticket(self.keys(), session.key, server, upstream))

    def unseal(self, session_key: str, server: Server, ticket: str) -> UpstreamSession | None:
        """The upstream session in a ticket; None if it is not of this session and server."""
        return open_ticket(self.keys(), session_key, server, ticket)

    def seal_wishes(self, session_key: str, wishes: AllWishes) -> str:
        """The wishes of a client, sealed; "" if it has none, or too many."""
        return seal_wishes(self.keys(), session_key, wishes) if wishes != AllWishes() else ""

    def unseal_wishes(self, session_key: str, sealed: str) -> AllWishes:
        """The wishes in a sealed text; none if it is not of this session."""
        return open_wishes(self.keys(), session_key, sealed)

    def question_id(self, session_key: str) -> str:
        """An id for a question to a session's client."""
        return ASK + seal_question(self.keys(), session_key, secrets.token_bytes(8))

    def is_question(self, session_key: str, ident: str) -> bool:
        """Whether this process, or a replica, has asked a session's client with this id."""
        return ident.startswith(ASK) and is_question(self.keys(), session_key, ident.removeprefix(ASK))

    def unsealed(
        self, session_key: str, tickets: Iterable[tuple[ServerName, str]], brought: Mapping[str, str] = NOTHING
    ) -> list[tuple[Server, UpstreamSession]]:
        """The upstream sessions in several tickets.

        `brought` has headers of the client, which tickets do not contain.
        """
        servers, sessions = self.servers(), list[tuple[Server, UpstreamSession]]()
        for name, ticket in tickets:
            server = servers.get(name)
            upstream = self.unseal(session_key, server, ticket) if server is not None else None
            if server is not None and upstream is not None:
                sessions.append((server, attrs.evolve(upstream, brought=brought)))
        return sessions
