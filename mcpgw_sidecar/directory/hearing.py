"""The stream of one client's session with one server: its messages outside of calls.

Changes of lists are not passed on: they make the broker list the server again, and clients are told
when the merged lists have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.store import LEASE, SessionStore
from mcpgw_sidecar.envoy.contract import CHANGES, FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.observability.logs import get_logger, short
from mcpgw_sidecar.protocol.jsonrpc import Message, Notification, Request
from mcpgw_sidecar.protocol.jsontext import dumps, last
from mcpgw_sidecar.protocol.owners import name_owner, owner_text
from mcpgw_sidecar.protocol.sse import one_line
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.exchange import Position
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient

log = get_logger(__name__)

AGAIN = 0.5  # seconds before a stream that ended is opened again; doubled up to AGAIN_CAP
AGAIN_CAP = 30.0
_UPDATED = "notifications/resources/updated"


@attrs.define(kw_only=True, eq=False)
class Hearing:
    """Listens to one session with a server.

    `headers` returns the newest headers of the client. `opened` is set once its stream is open, or
    cannot be opened. `said` gets each message for the client, `stale` is called when the server
    says that its lists changed.
    """

    key: str
    upstream: Upstream
    headers: Callable[[], Mapping[str, str]]
    client: UpstreamClient
    store: SessionStore
    live: Watched[Snapshot]
    said: Callable[[bytes], None]
    stale: Callable[[], None]
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
            if self.store.shared:
                await self._wait_lease()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._wait_renewing)
                    status = await self._wait_streams()
                    nursery.cancel_scope.cancel()
            else:
                status = await self._wait_streams()
        self.opened.set()
        return status

    async def _wait_streams(self) -> int | None:
        backoff, position = Backoff(AGAIN, AGAIN_CAP), Position()
        while True:
            start = trio.current_time()
            try:
                upstream = attrs.evolve(self.upstream, headers=self.headers())
                if not await self.client.wait_events(
                    upstream, self._handle, own=False, position=position, opened=self.opened.set
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

    async def _wait_lease(self) -> None:
        """Wait until no other replica listens to this session with the server."""
        while not await self.store.wait_lease(self.key, self.upstream.server.name):
            self.opened.set()  # a replica listens
            await trio.sleep(LEASE / 3)

    async def _wait_renewing(self) -> None:
        """Renew the lease, for ever."""
        while True:
            await trio.sleep(LEASE / 3)
            await self.store.wait_lease(self.key, self.upstream.server.name)

    def _handle(self, message: Message) -> None:
        if isinstance(message, Notification) and message.method in CHANGES:
            self.stale()
        elif isinstance(message, Request | Notification):
            server = self.upstream.server
            owner = owner_text(server.name, self.upstream.session.ticket)
            self.said(one_line(name_owner(with_shown_uri(message, server, self.live.value), owner)))


def with_shown_uri(message: Request | Notification, server: Server, snapshot: Snapshot) -> Request | Notification:
    """An update of a resource with the URI that clients see; any other message unchanged."""
    if not isinstance(message, Notification) or message.method != _UPDATED:
        return message
    uri = last(message.params, "uri")
    if uri is None or not isinstance(uri.value, str):
        return message
    shown_uri = snapshot.shown_uri(server.name, uri.value)
    if shown_uri == uri.value:
        return message
    return attrs.evolve(message, text=f"{message.text[: uri.start]}{dumps(shown_uri)}{message.text[uri.end :]}")
