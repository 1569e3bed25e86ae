"""The broker's connection to one MCP server: connect, list, listen, check again; for ever.

==============  ==========================  ========================================================
state           event                       next
==============  ==========================  ========================================================
connecting      initialize and list done    connected (failures = 0)
connecting      failure                     waiting (back-off, failures + 1)
connected       list_changed, interval      list again; still connected
connected       its session has ended       connecting, after a first back-off (no failure)
connected       another check fails         waiting (failures + 1)
waiting         back-off over               connecting
any             failures reach LOSE_AFTER   its tools leave the catalog; the state stays
==============  ==========================  ========================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import attrs
import trio

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.envoy.contract import CHANGES, FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError, upstream_in
from mcpgw_sidecar.model.kinds import KINDS, TOOL
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.extensions import DECLARED
from mcpgw_sidecar.protocol.jsonrpc import Message, Notification
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.versions import LATEST_STATEFUL
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.upstream.listing import Room, wait_discovered
from mcpgw_sidecar.upstream.messages import Position
from mcpgw_sidecar.upstream.stateful import Handshake, Upstream, UpstreamClient
from mcpgw_sidecar.upstream.stateless import StatelessClient
from mcpgw_sidecar.upstream.words import ClientWords, own_headers

log = get_logger(__name__)

RETRY_BASE = 1.0  # seconds
RETRY_CAP = 60.0  # seconds: a server that comes back is seen within a minute
LISTEN_AGAIN = 1.0  # seconds before a stream that ended is opened again, doubled up to RETRY_CAP
PROBE = 1.0  # seconds that a server gets to say what it speaks, once a session is open
PACE = 0.1  # seconds between two lists of a server, however often it says that they changed
CLIENT_INFO = dumps({"name": PROGRAM, "version": __version__})
# Servers list tools that ask the client something only to clients that can be asked. Such clients
# are behind the gateway, so the broker's own session has to see these tools; it calls none of them,
# so no server asks it anything.
CAPABILITIES = dumps(
    {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {"form": {}, "url": {}}, "extensions": DECLARED}
)
_OWN_WORDS = ClientWords(protocol_version=LATEST_STATEFUL, info=CLIENT_INFO, capabilities=CAPABILITIES)


class _Wake:
    """Something to do; setting it twice before anybody looked is once."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


@attrs.frozen(kw_only=True)
class Connection:
    """Keeps connected with one server. `failed` gets what went wrong.

    `discovered` gets what it offers to clients of the stateful era, and to those of the stateless
    one if it speaks that. Which eras it speaks is found by asking, at each connect, both at once.
    `room` is for its lists, `refresh` is the longest time between two lists, in seconds.
    """

    client: UpstreamClient
    modern: StatelessClient
    server: Server
    room: Room
    modern_room: Room
    refresh: float
    discovered: Callable[[Discovered, Discovered | None], None]
    failed: Callable[[UpstreamError], None]
    _wake: _Wake = attrs.field(factory=_Wake, init=False)

    def list_again(self) -> None:
        """List the server again soon: its lists are said to have changed."""
        self._wake.set()

    async def wait_connecting(self) -> None:
        """The life of the connection (the table above), for ever."""
        backoff = Backoff(RETRY_BASE, RETRY_CAP)
        while True:
            try:
                await self._wait_connected(backoff)
            except UpstreamError as error:
                self.failed(error)
            except Exception:  # a bug of ours costs this server, not the process
                log.exception("Supervising a server failed", server=self.server.name)
                self.failed(UpstreamError("InternalError", "met a bug of the gateway: see its log"))
            delay = backoff.next()
            log.debug("Will try the server again", server=self.server.name, seconds=round(delay, 1))
            await trio.sleep(delay)

    async def _wait_connected(self, backoff: Backoff) -> None:
        server = self.server
        headers = own_headers(server)
        standing: list[UpstreamSession] = []
        try:
            met = await self._wait_met(headers, standing)
            if not await self._wait_listed(met):
                # Forgotten between two requests: the server restarted just now. Once is no failure.
                met = await self._wait_met(headers, standing)
                await self._wait_listed(met, lives=True)
            backoff.reset()
            async with trio.open_nursery() as nursery:
                for listen in self._listeners(met):
                    nursery.start_soon(self._wait_listening, listen)
                while True:
                    await trio.sleep(PACE)
                    with trio.move_on_after(self.refresh):
                        await self._wake.wait()
                    if own_headers(server) != headers:
                        break  # the credential was rotated: connect again with the new one
                    if not await self._wait_listed(met):
                        break
                nursery.cancel_scope.cancel()
        except* UpstreamError as group:
            raise upstream_in(group) from None
        finally:
            with trio.CancelScope(shield=True):  # bounded by timeouts.CLOSE
                for session in standing:
                    await self.client.wait_closed(Upstream(server, session, headers))

    async def _wait_met(self, headers: Mapping[str, str], standing: list[UpstreamSession]) -> _Met:
        """Open a session, and ask whether the server speaks the stateless era, both at once.

        A server that does not answer that question costs little time.
        """
        found: list[Handshake] = []
        opened: tuple[Upstream | None, Handshake | None] = (None, None)
        fault: UpstreamError | None = None

        async def wait_asked() -> None:
            try:
                found.append(await self.modern.wait_discovered(self.server, headers))
            except UpstreamError as error:
                log.debug("Server does not speak the stateless era", server=self.server.name, error=str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_asked)
            try:
                opened = await self._wait_opened(headers, standing)
                nursery.cancel_scope.deadline = trio.current_time() + PROBE
            except UpstreamError as error:
                fault = error
        if fault is not None and not found:
            raise fault
        return _Met(headers, *opened, found[0] if found else None)

    async def _wait_opened(self, headers: Mapping[str, str], standing: list[UpstreamSession]) -> tuple[Upstream, Handshake]:
        """Open a session; `standing` gets it, and any that a handshake left behind."""
        server, left = self.server, standing.append
        shake = await self.client.wait_initialized(server, client=_OWN_WORDS, headers=headers, left=left)
        standing.append(shake.session)
        return Upstream(server, shake.session, headers), shake

    async def _wait_listed(self, met: _Met, *, lives: bool = False) -> bool:
        """List what it offers. False if the session has ended: servers do that to idle ones."""
        offer = Discovered()
        if met.upstream is not None and met.shake is not None:
            try:
                offer = await wait_discovered(self.client, met.upstream, met.shake, self.room, lives=lives)
            except UpstreamError as error:
                if lives or met.shake.session.id is None or error.status not in FORGOTTEN:
                    raise
                log.debug("Session with a server has ended", server=self.server.name, error=str(error))
                return False
        self.discovered(offer, await self._wait_listed_modern(met))
        return True

    async def _wait_listed_modern(self, met: _Met) -> Discovered | None:
        """What it offers in the stateless era; None if it does not speak that."""
        if met.modern is None:
            return None
        upstream = Upstream(self.server, met.modern.session, met.headers)
        try:
            return await wait_discovered(self.modern, upstream, met.modern, self.modern_room, lives=True)
        except UpstreamError as error:
            if met.upstream is None:
                raise
            log.warning("Stateless lists left out", server=self.server.name, reason=error.reason, error=str(error))
            return None

    def _listeners(self, met: _Met) -> list[_Listen]:
        """The ways in which a server says that its lists changed.

        One of both eras may use either: SDKs tell of changes in the stateless era alone.
        """
        ways: list[_Listen] = []
        if met.upstream is not None:
            ways.append(partial(self.client.wait_events, met.upstream, own=True))
        if met.modern is not None:
            kinds = [kind for kind in KINDS if kind is TOOL or kind.capability in met.modern.capabilities]
            upstream = Upstream(self.server, met.modern.session, met.headers)
            ways.append(partial(self.modern.wait_events, upstream, kinds=kinds))
        return ways

    async def _wait_listening(self, listen: _Listen) -> None:
        """Hold the server's own stream open; without one, the interval alone finds changes."""

        def handle(message: Message) -> None:
            if isinstance(message, Notification) and message.method in CHANGES:
                self.list_again()

        again, position = Backoff(LISTEN_AGAIN, RETRY_CAP), Position()
        while True:
            opened = trio.current_time()
            try:
                if not await listen(handle=handle, position=position):
                    return
            except UpstreamError as error:
                if error.status in FORGOTTEN:  # a server without such a path, or one that forgot the session
                    self.list_again()  # which finds out
                    return
                log.debug("Notification stream lost", server=self.server.name, reason=error.reason, error=str(error))
            if trio.current_time() - opened > RETRY_CAP:
                again.reset()
            await trio.sleep(again.next(position.retry))
            self.list_again()  # what changed while nobody listened


class _Listen(Protocol):
    """Passes to `handle` what a server says, until its stream ends; False if it offers none."""

    def __call__(self, *, handle: Callable[[Message], None], position: Position) -> Awaitable[bool]: ...


@attrs.frozen
class _Met:
    """A server as it was met: the session with it, and what it says of itself without one."""

    headers: Mapping[str, str]
    upstream: Upstream | None
    shake: Handshake | None
    modern: Handshake | None
