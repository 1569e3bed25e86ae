"""One connection for each MCP server, and no server waits for another.

What they offer becomes the catalog.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import attrs
import trio

from mcpgw_sidecar.catalog.federation import Federation, federate_eras, with_access
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.access import OPEN
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TEMPLATE, TOOL
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.patterns import long_name
from mcpgw_sidecar.model.servers import Desired, Server, VirtualServer
from mcpgw_sidecar.model.statuses import Health, ServerStatus
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.connection import CAPABILITIES, CLIENT_INFO, Connection
from mcpgw_sidecar.upstream.listing import ListBudget
from mcpgw_sidecar.upstream.stateful import UpstreamClient
from mcpgw_sidecar.upstream.stateless import StatelessClient

log = get_logger(__name__)

REST, MAX_PAUSE = 3.0, 0.5  # times what a merge took, and seconds at most, until the next one
LOSE_AFTER = 3  # failed checks in a row after which a server's tools leave the catalog

Statuses = tuple[ServerStatus, ...]


@attrs.define
class _Entry:
    server: Server
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    health: Health = attrs.field(factory=Health)
    offer: Discovered = attrs.field(factory=Discovered)
    modern: Discovered | None = None
    connection: Connection | None = None


class Supervisor:
    """Keeps a connection with each desired server, and publishes `live` and `statuses`.

    `changed` is called with a server whose address changed, as it was, or that has gone, so that
    sessions with it can end.
    """

    def __init__(
        self,
        *,
        client: UpstreamClient,
        live: Watched[Snapshot],
        statuses: Watched[Statuses],
        refresh_interval: float,
        changed: Callable[[Server], None],
    ) -> None:
        self._client = client
        self._live = live
        self._statuses = statuses
        self._refresh = refresh_interval
        self._changed = changed
        self._budget = ListBudget()
        self._entries: dict[ServerName, _Entry] = {}
        self._rows: tuple[Server, ...] = ()
        self._virtual: tuple[VirtualServer, ...] = ()
        self._access = OPEN
        self._federation: Federation | None = None
        self._merged: object = None  # of what
        self._dirty = trio.Event()
        self._ruled = trio.Event()  # other rules: they are in force at once
        self.all_tried = trio.Event()

    async def wait_supervising(self, desired: Watched[Desired]) -> None:
        """Follow the desired servers for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_federating)
            version = -1
            while True:
                version = await desired.wait_after(version)
                self._apply(desired.value, nursery)

    def list_again(self, name: ServerName) -> None:
        """List a server again soon: it said in a client's session that its lists changed."""
        entry = self._entries.get(name)
        if entry is not None and entry.connection is not None:
            entry.connection.list_again()

    def _apply(self, desired: Desired, nursery: trio.Nursery) -> None:
        servers = {server.name: server for server in desired.enabled}
        for name in [name for name in self._entries if name not in servers]:
            gone = self._entries.pop(name)
            gone.scope.cancel()
            self._changed(gone.server)
            log.info("Server unregistered", server=name, totalServers=len(servers))
        for name, server in servers.items():
            entry = self._entries.get(name)
            if entry is not None and entry.server == server:
                continue
            new = _Entry(server)
            if entry is not None:
                entry.scope.cancel()
                new.modern = entry.modern
                new.offer = entry.offer  # until the changed server has answered; then what it says counts
                if server.moved_from(entry.server):
                    self._changed(entry.server)
            self._entries[name] = new
            nursery.start_soon(self._wait_connecting, new)
        if desired.allowed != self._access:
            self._ruled.set()
        self._rows, self._virtual, self._access = desired.servers, desired.virtual_servers, desired.allowed
        self._dirty.set()

    async def _wait_federating(self) -> None:
        """Merge whenever something changed; many changes in one tick are one merge.

        Between two merges there is some time for everything else: one of 20,000 tools takes a
        while, and a thousand servers answer one after the other.
        """
        while True:
            await self._dirty.wait()
            self._dirty, begun = trio.Event(), time.perf_counter()
            servers = tuple(self._entries[server.name].server for server in self._rows if server.name in self._entries)
            offers = {name: entry.offer for name, entry in self._entries.items()}
            modern = {name: entry.modern for name, entry in self._entries.items() if entry.modern is not None}
            before, merged = self._federation, (servers, offers, modern, self._virtual)
            if before is not None and merged == self._merged:  # merging thousands of tools takes a while
                self._federation = with_access(before, self._access)
            else:
                self._federation = federate_eras(*merged, access=self._access)
            self._merged = merged
            _log_new_tools(before, self._federation)
            self._live.publish(self._federation.snapshot)
            self._publish_statuses()
            if all(entry.health.tried for entry in self._entries.values()):
                self.all_tried.set()
            with trio.move_on_after(min(MAX_PAUSE, REST * (time.perf_counter() - begun))):
                await self._ruled.wait()
            self._ruled = trio.Event()

    def _publish_statuses(self) -> None:
        self._statuses.publish(tuple(self._status(server) for server in self._rows))

    def _status(self, server: Server) -> ServerStatus:
        entry = self._entries.get(server.name)
        if entry is None:
            health = Health(reason="Disabled", message="disabled in the configuration", tried=True)
            return ServerStatus(server=server, health=health)
        share = self._federation.shares.get(server.name) if self._federation else None
        if share is None:
            return ServerStatus(server=server, health=entry.health)
        return ServerStatus(
            server=server,
            health=entry.health,
            tools=share.count(TOOL),
            prompts=share.count(PROMPT),
            resources=share.count(RESOURCE) + share.count(TEMPLATE),
            conflicts=share.conflicts,
            invalid=share.invalid,
            warnings=share.warnings,
        )

    async def _wait_connecting(self, entry: _Entry) -> None:
        log.info("Registering server", mcpURL=entry.server.shown_url, prefix=entry.server.tool_prefix)
        with entry.scope, self._budget.room() as room, self._budget.room() as modern_room:
            entry.connection = Connection(
                client=self._client,
                modern=StatelessClient(self._client.http, JsonText(CLIENT_INFO), JsonText(CAPABILITIES)),
                server=entry.server,
                room=room,
                modern_room=modern_room,
                refresh=self._refresh,
                discovered=partial(self._discovered, entry),
                failed=partial(self._failed, entry),
            )
            await entry.connection.wait_connecting()

    def _discovered(self, entry: _Entry, offer: Discovered, modern: Discovered | None) -> None:
        was_ready = entry.health.ready
        shown = offer if offer.protocol_versions or modern is None else modern
        tools = len(shown.items.get(TOOL.name, ()))
        message = f"reachable, {tools} tools"
        entry.health = Health(
            ready=True,
            reason="Ready",
            message=message,
            protocol_version=", ".join([*offer.protocol_versions, *(modern.protocol_versions if modern else ())]),
            last_contact=time.time(),
            tried=True,
        )
        changed = not was_ready or (offer, modern) != (entry.offer, entry.modern)
        entry.offer, entry.modern = offer, modern
        if not changed:
            self._publish_statuses()  # the last contact
            return
        log.info("Discovered tools", mcpURL=entry.server.shown_url, **{"#tools": tools})
        for item in shown.unusable:
            name = {item.kind: item.name}
            log.warning(item.kind.capitalize() + " left out", mcpURL=entry.server.shown_url, **name, reason=item.reason)
        if not was_ready:
            total = sum(other.health.ready for other in self._entries.values())
            log.info("Server registered", url=entry.server.shown_url, totalServers=total)
        self._dirty.set()

    def _failed(self, entry: _Entry, error: UpstreamError) -> None:
        before = entry.health
        failures, message = before.failures + 1, str(error) + _hint(entry.server, error)
        entry.health = attrs.evolve(before, ready=False, reason=error.reason, message=message, failures=failures, tried=True)
        if failures == 1 or before.message != message:
            log.warning(
                "MCP server failed, will retry with backoff",
                server=entry.server.name,
                mcpURL=entry.server.shown_url,
                reason=error.reason,
                error=message,
            )
        if failures == LOSE_AFTER and (entry.offer.items or entry.modern):
            log.warning("Tools removed until the server answers again", server=entry.server.name)
        if failures >= LOSE_AFTER:
            entry.offer, entry.modern = Discovered(), None
            if entry.connection is not None:
                entry.connection.room.empty()
                entry.connection.modern_room.empty()
        self._dirty.set()


def _hint(server: Server, error: UpstreamError) -> str:
    """What the operator can do about it."""
    match error.reason, error.status:
        case "Unauthorized", _:
            has_credential = server.credential or server.credential_file
            return (
                ": check its credential"
                if has_credential
                else ": give it a credential (credential or credentialFile; in Kubernetes credentialRef)"
            )
        case "HttpError", 404 | 405:
            return ": check its path"
        case _:
            return ""


def _log_new_tools(before: Federation | None, after: Federation) -> None:
    for name, share in after.shares.items():
        old = before.shares.get(name) if before is not None else None
        if old == share:
            continue
        server = after.snapshot.servers[name]
        for tool in sorted(set(share.tools) - set(old.tools if old else ())):
            log.info("Federating tool", mcpURL=server.shown_url, **{"federated name": tool})
            if long_name(tool):
                log.warning("Tool has a long name: shorten its prefix", server=name, tool=tool, reason=long_name(tool))
        for conflict in set(share.conflicts) - set(old.conflicts if old else ()):
            log.warning(
                conflict.kind.capitalize() + " left out: another server owns its name",
                server=name,
                **{conflict.kind: conflict.name},
                owner=conflict.owner,
            )
