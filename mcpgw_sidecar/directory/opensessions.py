"""Sessions with servers as replicas and clients hold them: sealed into tickets (sessions/tickets.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, UpstreamSession
from mcpgw_sidecar.sessions.tickets import open_ticket, seal_ticket
from mcpgw_sidecar.sessions.tokens import SessionKeys


@attrs.frozen
class OpenSessions:
    """Seals and opens tickets. `keys` and `servers` give those of the moment."""

    keys: Callable[[], SessionKeys]
    servers: Callable[[], Mapping[ServerName, Server]]

    def seal(self, session: Session, server: Server, upstream: UpstreamSession) -> UpstreamSession:
        """The session with a server, with its ticket."""
        return attrs.evolve(upstream, ticket=seal_ticket(self.keys(), session.key, server, upstream))

    def unseal(self, session: Session, server: Server, ticket: str) -> UpstreamSession | None:
        """What a ticket holds for this session; None when it holds nothing for it."""
        return open_ticket(self.keys(), session.key, server, ticket)

    def unsealed(
        self, session: Session, tickets: Mapping[ServerName, str], authorization: str | None
    ) -> list[tuple[Server, UpstreamSession]]:
        """What several tickets hold. `authorization` is the client's: tickets have none."""
        servers, sessions = self.servers(), list[tuple[Server, UpstreamSession]]()
        for name, ticket in tickets.items():
            server = servers.get(name)
            upstream = self.unseal(session, server, ticket) if server is not None else None
            if server is not None and upstream is not None:
                sessions.append((server, attrs.evolve(upstream, authorization=authorization)))
        return sessions
