"""The stream of one client's session with one server: its messages outside of calls.

Changes of lists are not passed on: they make the broker list the server again, and clients are told
when the merged lists have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import attrs
import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.store import SessionStore
from mcpgw_sidecar.envoy.contract import CHANGES, FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import short
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsonrpc import Message, Notification, Request, notification_text
from mcpgw_sidecar.protocol.jsontext import dumps, last
from mcpgw_sidecar.protocol.methods import UPDATED
from mcpgw_sidecar.protocol.owners import name_owner, owner_text
from mcpgw_sidecar.protocol.sse import one_line
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.messages import Position
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient

log = get_logger(__name__)

AGAIN = 0.5  # seconds before a stream that ended is opened again; doubled up to AGAIN_CAP
AGAIN_CAP = 30.0


@attrs.define(kw_only=True, eq=False)
class Hearing:
    """Listens to one session with a server.

    `headers` returns the newest headers of the client. `opened` is set once its stream is open, or
    cannot be opened. `said` gets each message for the client, `stale` is called when the server
    says that its lists changed. `resources` returns those that the client subscribes to; with
    `resumed` it is told that they may have changed, because nobody listened for a while.
    """

    key: str
    upstream: Upstream
    headers: Callable[[], Mapping[str, str]]
    client: UpstreamClient
    store: SessionStore
    live: Watched[Snapshot]
    said: Callable[[bytes], None]
    stale: Callable[[], None]
    resources: Callable[[], frozenset[str]]
    resumed: bool
    opened: trio.Event = attrs.field(factory=trio.Event)
    is_stopped: bool = False
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def stop(self) -> None:
        """Stop listening."""
        self.is_stopped = True
        self._scope.cancel()

    async def wait_hearing(self) -> int | None:
        """Listen until `stop`, or until the server offers no stream or may not know the session.

        Returns the status (FORGOTTEN) with which the server refuses the session.
        """
        status, self._scope = None, trio.CancelScope()
        with self._scope:
            status = await (self._wait_leased() if self.store.shared else self._wait_streams())
        self.opened.set()
        return status

    async def _wait_streams(self) -> int | None:
        backoff, position = Backoff(AGAIN, AGAIN_CAP), Position()
        while True:
            start = trio.current_time()
            try:
                upstream = attrs.evolve(self.upstream, headers=self.headers())
                if not await self.client.wait_events(
                    upstream, self._handle, own=False, position=position, opened=self._open
                ):
                    return None
            except UpstreamError as error:
                server = self.upstream.server.name
                log.debug("Stream with a server lost", server=server, session=short(self.key), error=str(error))
                if error.status in FORGOTTEN:
                    return error.status
            if trio.current_time() - start > AGAIN_CAP:
                backoff.reset()
            self.opened.set()  # no call waits for the next stream
            await trio.sleep(backoff.next(position.retry))

    async def _wait_leased(self) -> int | None:
        """Listen while no other replica listens to this session with the server."""
        place = self._place
        try:
            while True:
                self.resumed |= await self.store.wait_lease(self.key, place, self.opened.set)
                status, is_lost = None, True
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._wait_lost, nursery.cancel_scope)
                    status, is_lost = await self._wait_streams(), False
                    nursery.cancel_scope.cancel()
                if not is_lost:
                    return status
        finally:
            self.store.release(self.key, place)

    async def _wait_lost(self, listening: trio.CancelScope) -> None:
        await self.store.wait_lease_lost(self.key, self._place)
        listening.cancel()

    @property
    def _place(self) -> ServerName:
        """A name for the session with the server.

        While the store was away, two replicas may have opened one each: a subscription stands in
        one of them, and each has to be heard.
        """
        ident = self.upstream.session.id
        mark = "" if ident is None else f"#{hashlib.sha256(ident.encode()).hexdigest()[:16]}"
        return ServerName(f"{self.upstream.server.name}{mark}")

    def _open(self) -> None:
        """The stream is open."""
        self.opened.set()
        server, is_resumed, self.resumed = self.upstream.server, self.resumed, False
        for uri in sorted(self.resources()) if is_resumed else ():
            params = dumps({"uri": self.live.value.shown_uri(server.name, uri)})
            self.said(notification_text(UPDATED, params))

    def _handle(self, message: Message) -> None:
        if isinstance(message, Notification) and message.method in CHANGES:
            self.stale()
        elif isinstance(message, Request | Notification):
            server = self.upstream.server
            owner = owner_text(server.name, self.upstream.session.ticket)
            self.said(one_line(name_owner(with_shown_uri(message, server, self.live.value), owner)))


def with_shown_uri(message: Request | Notification, server: Server, snapshot: Snapshot) -> Request | Notification:
    """An update of a resource with the URI that clients see; any other message unchanged."""
    if not isinstance(message, Notification) or message.method != UPDATED:
        return message
    uri = last(message.params, "uri")
    if uri is None or not isinstance(uri.value, str):
        return message
    shown_uri = snapshot.shown_uri(server.name, uri.value)
    if shown_uri == uri.value:
        return message
    return attrs.evolve(message, text=f"{message.text[: uri.start]}{dumps(shown_uri)}{message.text[uri.end :]}")
