"""A replica's directory with servers that are fakes, for tests under a clock that jumps."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import attrs
import trio

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.directory.driver import Driver
from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.sight import Sight
from mcpgw_sidecar.directory.store import SessionStore, Unshared
from mcpgw_sidecar.directory.telling import Teller
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.front.streams import Streams
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import ForwardedHeader, Server
from mcpgw_sidecar.model.sessions import Session, SessionState, UpstreamSession
from mcpgw_sidecar.protocol.jsonrpc import Message
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.sessions.hub import SessionHub
from mcpgw_sidecar.sessions.tokens import parse_keys
from mcpgw_sidecar.upstream.messages import Position
from mcpgw_sidecar.upstream.stateful import Handshake, Upstream
from mcpgw_sidecar.upstream.words import ClientWords

ONE = Server(
    name=ServerName("ns/one"),
    url="http://one/mcp",
    hostname="one",
    forwarded=(ForwardedHeader("authorization", "authorization"),),
)
KEYS = parse_keys("k" * 40, "test")
ASKED = '{"elicitation":{}}'


@attrs.define
class FakeServer:
    """All servers at once, as `UpstreamClient` sees them."""

    open: dict[str, Server] = attrs.field(factory=dict)
    closed: list[tuple[str, str]] = attrs.field(factory=list)
    posted: list[tuple[str | None, bytes]] = attrs.field(factory=list)
    results: list[tuple[str | None, str, str]] = attrs.field(factory=list)
    heard: dict[str, Callable[[Message], None]] = attrs.field(factory=dict)
    streams: int = 0
    takes: float = 1.0
    fails: UpstreamError | None = None
    breaks: UpstreamError | None = None
    """What ends the handshake after the session stands."""
    offers_streams: bool = True
    count: int = 0

    async def wait_initialized(self, server: Server, *, left: Any, **_: Any) -> Handshake:
        self.count += 1
        ident = f"u{self.count}"
        session = UpstreamSession(id=ident, protocol_version="2025-06-18")
        await trio.sleep(self.takes)
        if self.fails is not None:
            raise self.fails
        self.open[ident] = server
        if self.breaks is not None:
            left(session)
            raise self.breaks
        return Handshake(session, "", frozenset())

    async def wait_closed(self, upstream: Upstream) -> None:
        await trio.lowlevel.checkpoint()
        self.closed.append((str(upstream.session.id), upstream.server.url))
        self.open.pop(str(upstream.session.id), None)

    async def wait_alive(self, upstream: Upstream, client: ClientWords) -> bool:
        del client
        await trio.sleep(self.takes)
        if self.fails is not None:
            raise self.fails
        return upstream.session.id in self.open

    async def wait_posted(self, upstream: Upstream, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.posted.append((upstream.session.id, message))
        if self.fails is not None:
            raise self.fails

    async def wait_result(self, upstream: Upstream, method: str, params: str) -> tuple[str, list[Any]]:
        await trio.lowlevel.checkpoint()
        self.results.append((upstream.session.id, method, params))
        if self.fails is not None:
            raise self.fails
        return "", []

    async def wait_events(
        self, upstream: Upstream, handle: Callable[[Message], None], *, own: bool, position: Position, opened: Any
    ) -> bool:
        del own, position
        self.streams += 1
        await trio.sleep(self.takes / 2)
        if not self.offers_streams:
            return False
        ident = str(upstream.session.id)
        if ident not in self.open:
            raise UpstreamError("HttpError", "answered HTTP 404", status=404)
        opened()
        self.heard[ident] = handle
        try:
            while ident in self.open:  # noqa: ASYNC110  # a server that looks now and then
                await trio.sleep(1)
        finally:
            del self.heard[ident]
        raise UpstreamError("HttpError", "answered HTTP 404", status=404)


def dead_session(ident: str) -> UpstreamSession:
    """A session as Envoy tells of it, once its server has forgotten it."""
    return UpstreamSession(id=ident, protocol_version="2025-06-18")


@attrs.define
class Replica:
    directory: Directory
    streams: Streams
    servers: dict[ServerName, Server]
    over: list[str]
    stale: list[ServerName]

    def state(self, token: str) -> SessionState:
        state = self.directory.lookup(token)
        assert isinstance(state, SessionState)
        return state

    def upstream(self, token: str) -> str | None:
        upstream = self.state(token).upstreams.get(ONE.name)
        return None if upstream is None else upstream.id


@contextlib.asynccontextmanager
async def running(server: FakeServer, store: SessionStore | None = None) -> AsyncIterator[Replica]:
    live: Watched[Snapshot] = Watched(federate((ONE,), {}).snapshot)
    hub, over = SessionHub(shared=store is not None and store.shared), list[str]()
    stale = list[ServerName]()
    streams, servers = Streams(live, hub.hearing), {ONE.name: ONE}
    client: Any = server
    async with trio.open_nursery() as nursery:
        sessions = OpenSessions(lambda: KEYS, lambda: servers)
        sight = Sight(live)
        driver = Driver(
            sight=sight,
            hub=hub,
            sessions=sessions,
            client=client,
            store=store or Unshared(),
            streams=streams,
            live=live,
            nursery=nursery,
            over=over.append,
            stale=stale.append,
        )
        teller = Teller(hub=hub, sessions=sessions, sharing=driver.sharing, sight=sight, client=client, nursery=nursery)
        directory = Directory(hub=hub, driver=driver, teller=teller, keys=lambda: KEYS, lifetime=100.0)
        nursery.start_soon(directory.wait_sharing)
        await trio.sleep(0.01)
        yield Replica(directory, streams, servers, over, stale)
        nursery.cancel_scope.cancel()


def born(replica: Replica, capabilities: str = "{}") -> tuple[str, Session]:
    token, session = replica.directory.create(
        protocol_version="2025-11-25", client_info=JsonText("{}"), capabilities=JsonText(capabilities)
    )
    return token, session


async def opened(replica: Replica, session: Session, headers: Mapping[str, str] | None = None) -> Reject | None:
    return await replica.directory.wait_open(session, replica.servers.get(ONE.name, ONE), headers or {})
