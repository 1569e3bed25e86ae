"""Does what sessions/hub.py decides, and answers it with events: opens, closes, tells and hears.

What concerns replicas alone is done by sharing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

import attrs
import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.hearing import AGAIN, AGAIN_CAP, Hearing
from mcpgw_sidecar.directory.opening import Opener
from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.sharing import Sharing
from mcpgw_sidecar.directory.sight import Sight
from mcpgw_sidecar.directory.store import SessionStore
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.ports import ClientStreams
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, UpstreamSession, Wishes, short
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.methods import SET_LEVEL, SUBSCRIBE
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.sessions import actions as a, events as e
from mcpgw_sidecar.sessions.hub import SessionHub
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient
from mcpgw_sidecar.upstream.words import ClientWords

log = get_logger(__name__)

_REFUSED = frozenset({401, 403})  # statuses for credentials


@attrs.define(kw_only=True, eq=False)
class Driver:
    """Drives the hub.

    `nursery` holds work that outlives a request; `over` learns first of a session that has ended,
    `stale` of a server that says that its lists changed.
    """

    hub: SessionHub
    sessions: OpenSessions
    client: UpstreamClient
    store: SessionStore
    streams: ClientStreams
    live: Watched[Snapshot]
    nursery: trio.Nursery
    sight: Sight
    over: Callable[[str], None]
    stale: Callable[[ServerName], None]
    _hearings: dict[tuple[str, ServerName], Hearing] = attrs.field(factory=dict)
    _closing: int = 0
    _closed: trio.Event = attrs.field(factory=trio.Event)
    sharing: Sharing = attrs.field(init=False)
    opener: Opener = attrs.field(init=False)

    @sharing.default
    def _sharing_of_these(self) -> Sharing:
        return Sharing(sessions=self.sessions, store=self.store, nursery=self.nursery, feed=self.feed)

    @opener.default
    def _opener_of_these(self) -> Opener:
        return Opener(
            hub=self.hub,
            sessions=self.sessions,
            client=self.client,
            store=self.store,
            sharing=self.sharing,
            nursery=self.nursery,
            feed=self.feed,
            wait_audible=self._wait_audible,
        )

    def feed(self, event: e.Event) -> None:
        """Let the hub take an event, and do what it says."""
        for action in self.hub.apply(event):
            self._do(action)

    def _do(self, action: a.Action) -> None:  # noqa: C901, PLR0912  # one case for each action
        match action:
            case a.Over(key):
                self.over(key)
                self.sight.forget(key)
                self.streams.end_session(key)
            case a.Open(session, server):
                self.opener.start(session, server)
            case a.Close(server, upstream):
                self._close(self.sessions.servers().get(server), upstream)
            case a.CloseAt(server, upstream):
                self._close(server, upstream)
            case a.Tell(session, server, upstream, wishes):
                self.nursery.start_soon(self._wait_told, session, server, upstream, wishes)
            case a.Listen():
                self._listen(action)
            case a.Hush(key, server):
                hearing = self._hearings.pop((key, server), None)
                if hearing is not None:
                    hearing.stop()
            case a.Mark(key):
                self.streams.mark(key)
            case a.Deliver(key, message):
                self.streams.send(key, message)
            case a.Hold(key, message):
                self.streams.hold(key, message)
            case a.ShareLevel():
                self.nursery.start_soon(self._wait_level, action)
            case a.Post() | a.FetchMail() | a.FetchRow() | a.ShareSubscription() | a.ShareEnd():
                self.sharing.do(action)
            case _:
                assert_never(action)

    async def _wait_audible(self, session: Session, server: Server) -> None:
        """Listen to the server before the call goes out.

        A server that asks on that stream drops a request to which nobody listens.
        """
        self.feed(e.CallGoesOut(session, server.name))
        hearing = self._hearings.get((session.key, server.name))
        if hearing is not None and not hearing.opened.is_set():
            with trio.move_on_after(timeouts.LISTEN):
                await hearing.opened.wait()

    async def _wait_told(self, session: Session, name: ServerName, upstream: UpstreamSession, wishes: Wishes) -> None:
        """Tell a server what its client wants to hear of. One that refuses has nothing to tell."""
        server = self.sessions.servers().get(name)
        if server is None:
            return
        requests = [(SET_LEVEL, {"level": wishes.level})] if wishes.level else []
        requests += [(SUBSCRIBE, {"uri": uri}) for uri in sorted(wishes.resources)]
        for method, params in requests:
            try:
                await self.client.wait_result(Upstream.of(server, upstream), method, dumps(params))
            except UpstreamError as error:
                log.debug("Server not told", server=name, method=method, reason=error.reason, error=str(error))
                continue
            self.feed(e.ServerTold(session, name, upstream))

    async def _wait_level(self, action: a.ShareLevel) -> None:
        session, wishes = action.session, Wishes(level=action.level)
        await self.sharing.wait_level(session, action.level)
        async with trio.open_nursery() as nursery:
            for name, upstream in list((self.hub.upstreams(session.key) or {}).items()):
                nursery.start_soon(self._wait_told, session, name, upstream, wishes)

    def _listen(self, action: a.Listen) -> None:
        key, name, upstream = action.key, action.server, action.upstream
        server = self.sessions.servers().get(name)
        if server is None:
            self.feed(e.Silenced(key, name, upstream))
            return
        hearing = self._hearings[key, name] = Hearing(
            key=key,
            upstream=Upstream.of(server, upstream),
            headers=lambda: Upstream.of(server, self.hub.upstream(key, name) or upstream).headers,
            client=self.client,
            store=self.store,
            live=self.live,
            # A client may not see this server any more: then nothing of it is passed on.
            said=lambda message: self.feed(e.Said(key, message)) if self.sight.sees(key, name) else None,
            stale=lambda: self.stale(name),
            resources=lambda: self.hub.wishes(key).resources.get(name, frozenset()),
            resumed=action.resumed,
        )
        self.nursery.start_soon(self._wait_hearing, hearing)

    async def _wait_hearing(self, hearing: Hearing) -> None:
        key, upstream = hearing.key, hearing.upstream
        name, again = upstream.server.name, Backoff(AGAIN, AGAIN_CAP)
        while not hearing.is_stopped:
            status, session = await hearing.wait_hearing(), self.hub.session(key)
            if status is not None and session is not None and upstream.session.id is not None:
                # If this session is dead, another one repeats the client's wishes and is heard.
                await self.wait_healed(session, upstream.server, upstream.session, hearing.headers())
            if status not in _REFUSED or self.hub.upstream(key, name) != upstream.session:
                break
            await trio.sleep(again.next())  # the client's next credentials may be better
        if self._hearings.get((key, name)) is hearing:  # else it was hushed
            del self._hearings[key, name]
            self.feed(e.Silenced(key, name, upstream.session))

    async def wait_healed(
        self, session: Session, server: Server, dead: UpstreamSession, headers: Mapping[str, str]
    ) -> UpstreamSession | None:
        """The session that lives in place of `dead`, or None; `headers` go to the server.

        A status alone does not make a session dead (a server may have reasons of its own): the
        server is asked. After a restart only Envoy and the server know of the session.
        """
        key = session.key
        known = self.hub.upstream(key, server.name)
        is_another = known is not None and known.id != dead.id  # opened in its place, or before it
        dead = known or dead
        try:
            if await self.client.wait_alive(Upstream(server, dead, headers), ClientWords.of(session)):
                return known if is_another else None
        except UpstreamError as error:
            log.debug("Session not healed", server=server.name, error=str(error))
            return None
        self.feed(e.Forgotten(key, server.name, dead))
        log.info("Server forgot a session, opening another", server=server.name, session=short(key))
        if await self.opener.wait_open(session, server, headers, dead) is not None:
            return None
        return self.hub.upstream(key, server.name)

    async def wait_left(self) -> None:
        """Leave what this process hears to replicas, because it ends; alone it hears to the end."""
        for hearing in self._hearings.values() if self.store.shared else ():
            hearing.stop()
        await self.store.wait_left()

    async def wait_all_closed(self) -> None:
        """Wait until the sessions with servers that are to be closed are, which has a limit."""
        with trio.move_on_after(timeouts.CLOSE):
            while self._closing:
                await self._closed.wait()

    def _close(self, server: Server | None, upstream: UpstreamSession) -> None:
        if server is not None:
            self._closing += 1
            self.nursery.start_soon(self._wait_closed, Upstream.of(server, upstream))

    async def _wait_closed(self, upstream: Upstream) -> None:
        try:
            await self.client.wait_closed(upstream)
        finally:
            self._closing -= 1
            if not self._closing:
                self._closed.set()
                self._closed = trio.Event()
