"""The sessions with servers that are open for clients: here, and by other replicas of the same store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from mcpgw_sidecar.broker.store import SessionStore, SharedRow
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, UpstreamSession
from mcpgw_sidecar.sessions.table import SessionTable
from mcpgw_sidecar.sessions.tickets import open_ticket, seal_ticket
from mcpgw_sidecar.sessions.tokens import SessionKeys


@attrs.define
class OpenSessions:
    """The table of this process, filled up from the store. `authorization` is always the client's: the store has none."""

    store: SessionStore
    keys: Callable[[], SessionKeys]
    servers: Callable[[], Mapping[ServerName, Server]]
    table: SessionTable = attrs.field(factory=SessionTable)

    def seal(self, session: Session, server: Server, upstream: UpstreamSession) -> UpstreamSession:
        """The session with its ticket."""
        return attrs.evolve(upstream, ticket=seal_ticket(self.keys(), session.key, server, upstream))

    def unseal(self, session: Session, server: Server, ticket: str) -> UpstreamSession | None:
        """What a ticket holds for this session."""
        return open_ticket(self.keys(), session.key, server, ticket)

    async def wait_everywhere(self, session: Session, authorization: str | None) -> list[tuple[Server, UpstreamSession]]:
        """The sessions with servers that are open for a session, here or by another replica."""
        if self.store.shared:
            await self.wait_adopted(session, authorization)
        servers, here = self.servers(), self.table.see(session) or {}
        return [(servers[name], upstream) for name, upstream in here.items() if name in servers]

    async def wait_adopted(self, session: Session, authorization: str | None) -> SharedRow:
        """Take over what other replicas opened for a session."""
        row, servers = await self.store.wait_row(session), self.servers()
        for name, ticket in row.tickets.items():
            server = servers.get(name)
            if server is not None and self.find(session, server) is None:
                self.adopt(session, server, ticket, authorization)
        if row.level is not None:
            self.table.wish_level(session, row.level)
        for name, uris in row.resources.items():
            for uri in uris:
                self.table.wish_resource(session, name, uri, wanted=True)
        return row

    def adopt(self, session: Session, server: Server, ticket: str, authorization: str | None) -> UpstreamSession | None:
        """Take over what a ticket holds; None when it holds nothing for us."""
        found = self.unseal(session, server, ticket)
        if found is None:
            return None
        upstream = attrs.evolve(found, authorization=authorization)
        return upstream if self.table.opened(session, server.name, upstream) else None

    def find(self, session: Session, server: Server) -> UpstreamSession | None:
        """The one that is open here."""
        return (self.table.see(session) or {}).get(server.name)
