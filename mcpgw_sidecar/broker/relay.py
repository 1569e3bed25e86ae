"""Notifications that servers send outside calls, each to the client in whose session it came.

A session's stream with a server is opened when there may be something to hear on it: the client subscribed to a resource there, set a
log level, or can be asked something (some servers ask there and not on the stream of the call). Changes of lists are not relayed: the broker hears of them itself and tells of its own, merged lists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from mcpgw_sidecar.broker.client import FORGOTTEN, Position, UpstreamClient
from mcpgw_sidecar.broker.store import LEASE, SessionStore
from mcpgw_sidecar.broker.streams import Streams
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.kinds import KINDS
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.observability.logs import get_logger, short
from mcpgw_sidecar.protocol.jsonrpc import Message, Notification, Request
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.owners import name_owner, owner_text
from mcpgw_sidecar.protocol.sse import one_line
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

AGAIN = 0.5  # seconds before a stream that ended is opened again; doubled up to AGAIN_CAP
AGAIN_CAP = 30.0
_UPDATED = "notifications/resources/updated"
_OURS = frozenset(kind.changed for kind in KINDS)


async def _wait_nothing(_session: str, _server: Server, _upstream: UpstreamSession) -> None:
    """Before somebody can heal."""


@attrs.frozen
class _Listener:
    upstream: UpstreamSession
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    opened: trio.Event = attrs.field(factory=trio.Event)


class Relay:
    """The open streams of clients' sessions with servers. `heal` is asked when a server has forgotten a session."""

    def __init__(
        self,
        *,
        client: UpstreamClient,
        streams: Streams,
        live: Watched[Snapshot],
        store: SessionStore,
        nursery: trio.Nursery,
    ) -> None:
        self._store = store
        self._live = live
        self._client = client
        self._streams = streams
        self._nursery = nursery
        self._listeners: dict[str, dict[ServerName, _Listener]] = {}
        streams.hearing = self.hearing
        self.heal: Callable[[str, Server, UpstreamSession], Awaitable[object]] = _wait_nothing

    def listen(self, session: str, server: Server, upstream: UpstreamSession) -> trio.Event:
        """Hear what the server says in this session from now on; once, however often it is asked for.

        The event is set when the stream stands, or will not.
        """
        listeners = self._listeners.setdefault(session, {})
        running = listeners.get(server.name)
        if running is not None and running.upstream == upstream:
            return running.opened
        if running is not None:
            running.scope.cancel()
        listener = listeners[server.name] = _Listener(upstream)
        self._nursery.start_soon(self._wait_listening, (session, server.name), server, listener)
        self._streams.mark(session)
        return listener.opened

    def hearing(self, session: str) -> str:
        """The sessions with servers that are heard for a session, as event ids hold them."""
        heard = self._listeners.get(session)
        if not heard:
            return ""
        return ",".join(owner_text(name, listener.upstream.ticket) for name, listener in sorted(heard.items()))

    def stop_session(self, session: str) -> None:
        """The session is over."""
        for listener in self._listeners.pop(session, {}).values():
            listener.scope.cancel()

    def stop_server(self, server: ServerName) -> None:
        """The server has gone or lives elsewhere."""
        for listeners in self._listeners.values():
            listener = listeners.pop(server, None)
            if listener is not None:
                listener.scope.cancel()

    def _current(self, key: tuple[str, ServerName]) -> _Listener | None:
        return self._listeners.get(key[0], {}).get(key[1])

    async def _wait_leased(self, key: tuple[str, ServerName], listener: _Listener) -> None:
        """Wait until no other replica hears this server in this session, then keep that right for as long as it is heard here."""
        if not self._store.shared:
            return
        while not await self._store.wait_lease(*key):
            listener.opened.set()  # somebody listens
            await trio.sleep(LEASE / 3)

        async def wait_prolonging() -> None:
            while self._current(key) is listener:
                await self._store.wait_lease(*key)
                await trio.sleep(LEASE / 3)

        self._nursery.start_soon(wait_prolonging)

    def _shown(self, message: Request | Notification, server: Server) -> Request | Notification:
        """An update of a resource under the URI by which clients know it."""
        if not isinstance(message, Notification) or message.method != _UPDATED:
            return message
        named = next((member for member in message.params or [] if member.key == "uri"), None)
        shown = self._live.value.shown_uri(server.name, named.value) if named and isinstance(named.value, str) else None
        if named is None or shown in {None, named.value}:
            return message
        return attrs.evolve(message, text=f"{message.text[: named.start]}{dumps(shown)}{message.text[named.end :]}")

    async def _wait_listening(self, key: tuple[str, ServerName], server: Server, listener: _Listener) -> None:
        def heard(message: Message) -> None:
            if isinstance(message, Request) or (isinstance(message, Notification) and message.method not in _OURS):
                owner = owner_text(server.name, listener.upstream.ticket)
                self._streams.send(key[0], one_line(name_owner(self._shown(message, server), owner)))

        again, position = Backoff(AGAIN, AGAIN_CAP), Position()
        with listener.scope:
            await self._wait_leased(key, listener)
            while True:
                opened = trio.current_time()
                try:
                    if not await self._client.wait_events(
                        server,
                        listener.upstream,
                        listener.upstream.headers,
                        heard,
                        own=False,
                        position=position,
                        opened=listener.opened.set,
                    ):
                        break
                except UpstreamError as error:
                    log.debug("Stream with a server lost", server=server.name, session=short(key[0]), error=str(error))
                    if error.status == FORGOTTEN:
                        # Another session with the server, if this one is dead, repeats the client's wishes and is heard.
                        self._nursery.start_soon(self.heal, key[0], server, listener.upstream)
                        break
                if trio.current_time() - opened > AGAIN_CAP:
                    again.reset()
                listener.opened.set()  # nobody waits any longer for a stream that is not there
                await trio.sleep(again.next(position.retry))
        listener.opened.set()
        if self._current(key) is listener:
            del self._listeners[key[0]][key[1]]
