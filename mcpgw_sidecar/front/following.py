"""Single resources that a client of the stateless era listens for (`subscriptions/listen`).

Each server is followed as its era has it: by one `subscriptions/listen`, or by a session in which
the resources are subscribed to. What comes from there is for this client alone. After a gap each
resource may have changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

import attrs
import trio

from mcpgw_sidecar.catalog.aliases import read_alias
from mcpgw_sidecar.catalog.offers import CAN_SUBSCRIBE
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.errors import UpstreamError, upstream_in
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.kinds import RESOURCE
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsonrpc import Message, Notification
from mcpgw_sidecar.protocol.jsontext import dumps, last
from mcpgw_sidecar.protocol.methods import SUBSCRIBE, UPDATED
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.protocol.versions import LATEST_STATEFUL
from mcpgw_sidecar.runtime import descriptors
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.messages import Position
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient
from mcpgw_sidecar.upstream.stateless import StatelessClient
from mcpgw_sidecar.upstream.words import ClientWords

log = get_logger(__name__)

MOST: Final = 200  # resources of one client
AGAIN, AGAIN_CAP = 0.5, 30.0  # seconds before a server is followed again; doubled up to the cap


@attrs.frozen
class Followed:
    """Resources of one server, by their URIs there. `is_stateless` says how it is followed."""

    server: Server
    uris: tuple[str, ...]
    is_stateless: bool


def followed(view: Snapshot, uris: Iterable[object]) -> tuple[tuple[str, ...], tuple[Followed, ...]]:
    """Those of a client's URIs that can be followed, as it wrote them, and at which servers."""
    known: dict[str, None] = {}
    at: dict[Server, dict[str, None]] = {}
    for uri in islice(uris, MOST):
        item = view.find(RESOURCE, uri) if isinstance(uri, str) else None
        if item is None or not isinstance(uri, str) or CAN_SUBSCRIBE not in view.offers[item.server.name].capabilities:
            continue
        alias = read_alias(uri)
        there = uri if alias is None or alias[0] != item.server.name else alias[1]
        known[uri] = None
        at.setdefault(item.server, {})[json.loads(item.upstream_key) if item.key == uri else there] = None
    groups = (Followed(server, tuple(there), view.offers[server.name].speaks_stateless) for server, there in at.items())
    return tuple(known), tuple(groups)


@attrs.frozen(kw_only=True)
class Follower:
    """Follows servers for one client. `updated` gets the URI at the server of what has changed.

    `sees` says whether the client may see anything of a server at the moment.
    """

    client: UpstreamClient
    live: Watched[Snapshot]
    info: JsonText
    headers: Mapping[str, str]
    updated: Callable[[Server, str], None]
    sees: Callable[[ServerName], bool] = lambda _server: True

    async def wait_following(self, group: Followed, opened: Callable[[], object] = lambda: None) -> None:
        """Follow one server for ever, while it is configured as it was and may be seen.

        `opened` is called each time it is followed anew.
        """
        again, is_first = Backoff(AGAIN, AGAIN_CAP), True

        def is_open() -> None:
            opened()
            for uri in () if is_first else group.uris:
                self.updated(group.server, uri)

        while True:
            version = self.live.version
            if not self._is_there(group):
                await self.live.wait_after(version)
                continue
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_gone, group, nursery.cancel_scope)
                can_be_followed = await self._wait_once(group, is_open)
                nursery.cancel_scope.cancel()
            if not can_be_followed:
                return
            is_first = False
            if trio.current_time() - began > AGAIN_CAP:
                again.reset()
            await trio.sleep(again.next())

    def _is_there(self, group: Followed) -> bool:
        """Whether the server is still the one that was to be followed."""
        catalog = self.live.value.stateless or EMPTY
        offer = catalog.offers.get(group.server.name)
        is_same = offer is not None and offer.server == group.server and offer.speaks_stateless == group.is_stateless
        return is_same and self.sees(group.server.name)

    async def _wait_gone(self, group: Followed, scope: trio.CancelScope) -> None:
        version = self.live.version
        while self._is_there(group):
            version = await self.live.wait_after(version)
        scope.cancel()

    async def _wait_once(self, group: Followed, opened: Callable[[], None]) -> bool:
        """Follow the server until its stream ends; False if it has none."""
        try:
            if descriptors.has_room(descriptors.STREAMS_TO_SERVERS):
                return await (self._wait_listening if group.is_stateless else self._wait_in_session)(group, opened)
        except UpstreamError as error:
            log.debug("Resources not followed", server=group.server.name, reason=error.reason, error=str(error))
        except Exception:  # a bug of ours costs this client's updates, not the process
            log.exception("Following resources failed", server=group.server.name)
        return True

    def _handle(self, server: Server, message: Message) -> None:
        if not isinstance(message, Notification) or message.method != UPDATED:
            return
        uri = last(message.params, "uri")
        if uri is not None and isinstance(uri.value, str):
            self.updated(server, uri.value)

    async def _wait_listening(self, group: Followed, opened: Callable[[], None]) -> bool:
        server = group.server
        client = StatelessClient(self.client.http, self.info, JsonText("{}"))
        upstream = Upstream.stateless(server, for_server(self.headers, server.wanted))
        return await client.wait_events(
            upstream,
            lambda message: self._handle(server, message),
            kinds=(),
            resources=group.uris,
            position=Position(),
            opened=opened,
        )

    async def _wait_in_session(self, group: Followed, opened: Callable[[], None]) -> bool:
        """The stream is open before anything is subscribed to, so that nothing falls between."""
        server, headers = group.server, for_server(self.headers, group.server.wanted)
        words = ClientWords(protocol_version=LATEST_STATEFUL, info=self.info, capabilities="{}")
        sessions: list[UpstreamSession] = []
        try:
            shake = await self.client.wait_initialized(server, client=words, headers=headers, left=sessions.append)
            sessions.append(shake.session)
            return await self._wait_subscribed(Upstream(server, shake.session, headers), group, opened)
        finally:
            with trio.CancelScope(shield=True):  # bounded by timeouts.CLOSE
                for session in sessions:
                    await self.client.wait_closed(Upstream(server, session, headers))

    async def _wait_subscribed(self, upstream: Upstream, group: Followed, opened: Callable[[], None]) -> bool:
        is_open, has_stream = trio.Event(), True

        async def wait_heard() -> None:
            nonlocal has_stream
            has_stream = await self.client.wait_events(
                upstream,
                lambda message: self._handle(group.server, message),
                own=True,
                position=Position(),
                opened=is_open.set,
            )
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_heard)
                with trio.move_on_after(timeouts.LISTEN):
                    await is_open.wait()
                for uri in group.uris:
                    await self.client.wait_result(upstream, SUBSCRIBE, dumps({"uri": uri}))
                opened()
        except* UpstreamError as errors:
            raise upstream_in(errors) from None
        return has_stream
