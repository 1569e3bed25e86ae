"""Opens sessions with servers, each once however many calls wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import attrs
import trio

from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.sharing import Sharing
from mcpgw_sidecar.directory.store import SessionStore
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, UpstreamSession, short
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.sessions import events as e
from mcpgw_sidecar.sessions.hub import SessionHub
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient
from mcpgw_sidecar.upstream.words import ClientWords, rejection

log = get_logger(__name__)


@attrs.define(eq=False)
class _Opening:
    """An attempt to open a session with a server; `headers` is what it gets of a client's.

    `replaced` is the dead session in whose place it is opened, `dead_ticket` the ticket of another
    dead one that a replica still has.
    """

    server: Server
    headers: Mapping[str, str]
    replaced: UpstreamSession | None
    dead_ticket: str | None = None
    started: bool = False
    done: trio.Event = attrs.field(factory=trio.Event)
    failure: Reject | None = None


@attrs.define(kw_only=True, eq=False)
class Opener:
    """Opens sessions. `feed` takes the events that answer.

    `wait_audible` lets a server be heard before the first call goes out.
    """

    hub: SessionHub
    sessions: OpenSessions
    client: UpstreamClient
    store: SessionStore
    sharing: Sharing
    nursery: trio.Nursery
    feed: Callable[[e.Event], None]
    wait_audible: Callable[[Session, Server], Awaitable[None]]
    _openings: dict[tuple[str, ServerName], _Opening] = attrs.field(factory=dict)

    async def wait_open(
        self, session: Session, server: Server, headers: Mapping[str, str], replaced: UpstreamSession | None
    ) -> Reject | None:
        """Open a session with a server, not the dead `replaced` one; None when it is open."""
        key = (session.key, server.name)
        opening = self._openings.get(key)
        if opening is None:
            opening = self._openings[key] = _Opening(server, headers, replaced)
            self.feed(e.Wanted(session, server.name))
            if not opening.started:
                # It is open already, or the client's session is over: the next decision sees that.
                del self._openings[key]
                return None
        await opening.done.wait()
        return opening.failure

    def start(self, session: Session, server: ServerName) -> None:
        """Start the attempt that was asked for, in a task of its own.

        The client that asked first may go away, and the others still wait.
        """
        opening = self._openings[session.key, server]
        opening.started = True
        self.nursery.start_soon(self._wait_opening, session, opening)

    async def _wait_opening(self, session: Session, opening: _Opening) -> None:
        server = opening.server
        try:
            if not await self._wait_adopted(session, opening):
                await self.sharing.wait_wishes(session)  # the session that is opened here repeats them
                client, left = ClientWords.of(session), partial(self._close, server)
                shake = await self.client.wait_initialized(server, client=client, headers=opening.headers, left=left)
                log.debug("Upstream session opened", server=server.name, session=short(session.key))
                await self._wait_kept(session, opening, self.sessions.seal(session, server, shake.session))
            await self.wait_audible(session, server)
        except UpstreamError as error:
            log.warning("Upstream session not opened", server=server.name, reason=error.reason, error=str(error))
            opening.failure = rejection(server, error)
        except Exception:  # a bug of ours costs this call, not the process
            log.exception("Opening a session failed", server=server.name)
            opening.failure = refusal(INTERNAL_ERROR, "Internal error of the gateway")
        finally:
            self.feed(e.OpeningOver(session.key, server.name))
            del self._openings[session.key, server.name]
            opening.done.set()

    async def _wait_adopted(self, session: Session, opening: _Opening) -> bool:
        """Adopt the session that a replica has opened, unless its server has forgotten it too."""
        name, replaced = opening.server.name, opening.replaced
        ticket = await self.store.wait_ticket(session, name)
        if not ticket or (replaced is not None and ticket == replaced.ticket):
            return False
        if replaced is not None and not await self._wait_alive(session, opening, ticket):
            opening.dead_ticket = ticket
            return False
        return self._adopt(session, {name: ticket})

    async def _wait_alive(self, session: Session, opening: _Opening, ticket: str) -> bool:
        """Whether the server knows the session of a ticket: it has just forgotten another one."""
        upstream = self.sessions.unseal(session.key, opening.server, ticket)
        if upstream is None:
            return False
        try:
            return await self.client.wait_alive(Upstream(opening.server, upstream, opening.headers), ClientWords.of(session))
        except UpstreamError as error:
            log.debug("Session of a replica not adopted", server=opening.server.name, error=str(error))
            return False

    def _adopt(self, session: Session, tickets: Mapping[ServerName, str]) -> bool:
        """Offer the sessions of tickets to the hub; True if these servers have a session then."""
        for server, upstream in self.sessions.unsealed(session.key, tickets.items()):
            self.feed(e.Adopted(session, server.name, upstream))
        return all(self.hub.upstream(session.key, name) is not None for name in tickets)

    async def _wait_kept(self, session: Session, opening: _Opening, upstream: UpstreamSession) -> None:
        """Keep a session, unless a replica was first, the client is gone, or the server moved."""
        name, replaced = opening.server.name, opening.replaced
        dead_ticket = opening.dead_ticket or (replaced.ticket if replaced is not None else None)
        if self.hub.upstream(session.key, name) is not None:  # adopted meanwhile: nobody is to use this one
            self._close(opening.server, upstream)
            return
        ticket = await self.store.wait_keep(session, name, upstream.ticket, instead_of=dead_ticket)
        server = self.sessions.servers().get(name)
        is_first = ticket == upstream.ticket or not self._adopt(session, {name: ticket})
        if is_first and server is not None and not server.moved_from(opening.server):
            self.feed(e.Opened(session, name, upstream))
        else:  # where it was opened: the server of that name may live elsewhere now
            self._close(opening.server, upstream)

    def _close(self, server: Server, upstream: UpstreamSession) -> None:
        self.nursery.start_soon(self.client.wait_closed, Upstream.of(server, upstream))
