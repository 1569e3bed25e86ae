"""Sends a client's notifications to the servers that they may be for."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import attrs
import trio

from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.sharing import Sharing
from mcpgw_sidecar.directory.sight import Sight
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import NOTHING, Session, SessionState, short
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsonrpc import Notification
from mcpgw_sidecar.protocol.jsontext import Member, only
from mcpgw_sidecar.protocol.methods import PROGRESS
from mcpgw_sidecar.protocol.owners import read_owner
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.protocol.relayed import rebuilt
from mcpgw_sidecar.sessions.hub import SessionHub
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient

log = get_logger(__name__)

OF_ONE = 4  # notifications of one client that are with one server at a time: others have their turn
AT_ONCE = 32  # notifications that one server is told at a time: each takes a connection
MAX_WAITING = 256  # notifications of one client on their way; a flood of them is dropped


@attrs.frozen(kw_only=True)
class Teller:
    """Sends clients' notifications to servers, in tasks of its own."""

    hub: SessionHub
    sessions: OpenSessions
    sharing: Sharing
    sight: Sight
    client: UpstreamClient
    nursery: trio.Nursery
    _places: dict[ServerName, trio.CapacityLimiter] = attrs.field(
        factory=lambda: defaultdict(lambda: trio.CapacityLimiter(AT_ONCE)), init=False
    )
    _turns: dict[str, dict[ServerName, trio.CapacityLimiter]] = attrs.field(factory=dict, init=False)
    _waiting: Counter[str] = attrs.field(factory=Counter, init=False)

    def tell(self, state: SessionState, notification: Notification, headers: Mapping[str, str]) -> None:
        """Send a notification to servers.

        Progress goes to the server that requested it, any other that servers know to all servers
        that the session is open with. Raises JsonTextError for members that could be read in two
        ways. The server of a cancellation is not known, because a cancellation
        names only a request id. It need not be known: the ids of one client are unique in its
        session, so a server ignores an id that it does not know, as the specification asks.
        """
        message, key = rebuilt(notification), state.session.key
        if self._waiting[key] >= MAX_WAITING:
            log.warning("Notification of a client dropped: too many of it wait for their servers", session=short(key))
        elif message is None:
            log.debug("Notification not relayed: servers have none of this method", session=short(state.session.key))
        elif notification.method == PROGRESS:
            self._tell_progress(state, notification, headers)
        else:
            self.nursery.start_soon(self._wait_sent_to_all, state.session, message, headers)

    @contextlib.contextmanager
    def _counted(self, key: str) -> Iterator[None]:
        """Count what waits, by session."""
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                self._turns.pop(key, None)

    async def _wait_sent_to_all(self, session: Session, message: bytes, headers: Mapping[str, str]) -> None:
        with self._counted(session.key):
            await self.sharing.wait_adopted(session)
            servers = self.sessions.servers()
            async with trio.open_nursery() as nursery:
                for name, upstream in list((self.hub.upstreams(session.key) or {}).items()):
                    if name in servers and self.sight.sees(session.key, name):
                        passed = for_server({**upstream.brought, **headers}, servers[name].wanted)
                        nursery.start_soon(self._wait_sent, session.key, Upstream(servers[name], upstream, passed), message)

    def _tell_progress(self, state: SessionState, notification: Notification, headers: Mapping[str, str]) -> None:
        token: Member | None = only(notification.params or [], "progressToken")
        owner = read_owner(token.value) if token is not None else None
        server = self.sessions.servers().get(owner.server) if owner is not None else None
        session = state.opens(server, owner.ticket) if owner is not None and server is not None else None
        if token is None or owner is None or server is None or session is None:
            log.debug("Progress not relayed: no server asked for it", session=short(state.session.key))
            return
        message = rebuilt(notification, {"progressToken": owner.id})
        if message is not None:
            known = self.hub.upstream(state.session.key, server.name)
            brought = known.brought if known is not None else NOTHING
            passed = for_server({**brought, **headers}, server.wanted)
            self.nursery.start_soon(self._wait_progress, state.session.key, Upstream(server, session, passed), message)

    async def _wait_progress(self, key: str, upstream: Upstream, message: bytes) -> None:
        with self._counted(key):
            await self._wait_sent(key, upstream, message)

    async def _wait_sent(self, key: str, upstream: Upstream, message: bytes) -> None:
        turn = self._turns.setdefault(key, {}).setdefault(upstream.server.name, trio.CapacityLimiter(OF_ONE))
        try:
            async with turn, self._places[upstream.server.name]:
                await self.client.wait_posted(upstream, message)
        except UpstreamError as error:
            name = upstream.server.name
            log.debug("Notification not relayed", server=name, reason=error.reason, error=str(error))
