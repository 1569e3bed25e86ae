"""Writes the status of MCPServers, MCPVirtualServers and HTTPRoutes, and Events.

Only the holder of the Lease writes, and only a status that differs from the one in the object. A
set collects the objects that may need another status. Each is checked once however often it was
added, and written at most once a second, whoever else writes to it. A failed write is tried again
with a growing back-off, and logged once. A written status counts as written only when the watch
brings it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.events import Events
from mcpgw_sidecar.kube.source import KubernetesSource
from mcpgw_sidecar.kube.targets import KINDS, Target
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.statuses import ServerStatus
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources import objects
from mcpgw_sidecar.resources.conditions import (
    Document,
    policy_status,
    ready_condition,
    ready_of,
    route_parents,
    server_status,
    virtual_status,
)
from mcpgw_sidecar.resources.kinds import (
    ACCESS_POLICY,
    HTTP_ROUTE,
    MCP_SERVER,
    VIRTUAL_SERVER,
    ResourceKind,
)
from mcpgw_sidecar.resources.objects import HttpRoute, McpServer, PolicyObject, Ref, VirtualServerObject
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

COLLECT = 0.1  # seconds: the changes of an object within that time become one write
AT_ONCE = 8  # writes at the same time
PACE = 1.0  # seconds between two writes of one object
AGAIN, AGAIN_CAP = 2.0, 60.0  # seconds until a failed write is tried again: first, and at most
_NOT_FOUND, _CONFLICT = 404, 409


@attrs.define
class _Failure:
    """The last error of writes to an object, and the back-off until the next."""

    error: str = ""
    backoff: Backoff = attrs.field(factory=lambda: Backoff(AGAIN, AGAIN_CAP))


@attrs.define(kw_only=True)
class Writer:
    """Writes while `leading` is true. The broker publishes `statuses` and `live`."""

    api: KubeApi
    source: KubernetesSource
    identity: str
    leading: Watched[bool]
    statuses: Watched[tuple[ServerStatus, ...]]
    live: Watched[Snapshot]
    _broker_statuses: dict[str, ServerStatus] = attrs.field(factory=dict)
    _routes: dict[Ref, Ref] = attrs.field(factory=dict)
    _due: dict[Target, float] = attrs.field(factory=dict)
    _failures: dict[Target, _Failure] = attrs.field(factory=dict)
    _events: Events = attrs.field(init=False)
    _last_writes: dict[Target, tuple[objects.WatchedObject, Raw]] = attrs.field(factory=dict)
    _limit: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(AT_ONCE))

    @_events.default
    def _events_of_these(self) -> Events:
        return Events(self.api, self.identity)

    async def wait_writing(self) -> None:
        """Write for ever, as the source reports changes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_each, self.leading, self._add_all)
            nursery.start_soon(_wait_each, self.statuses, self._add_changed)
            nursery.start_soon(_wait_each, self.live, self._add_virtual)
            await self.source.loaded.wait()
            while True:
                with trio.move_on_at(min(self._due.values(), default=math.inf)):
                    await self.source.targets.wait_added()
                await trio.sleep(COLLECT)
                targets = self._due_targets()
                if self.leading.value:
                    await self._wait_objects(targets)

    def _due_targets(self) -> set[Target]:
        """The objects that are due now; the others wait."""
        now = trio.current_time()
        for target in self.source.targets.take():
            self._due.setdefault(target, now)
        due_targets = {target for target, time in self._due.items() if time <= now}
        for target in due_targets:
            del self._due[target]
        return due_targets

    def _add_all(self) -> None:
        """This sidecar may have become the writer: check every object once."""
        for kind in KINDS:
            self.source.targets.add(kind, set(self.source.index.objects[kind]))

    def _add_changed(self) -> None:
        old_statuses, self._broker_statuses = (
            self._broker_statuses,
            {status.server.name: status for status in self.statuses.value},
        )
        for name, status in self._broker_statuses.items():
            old_status = old_statuses.get(name)
            owner = self.source.index.owner(status.server.name)
            if owner is not None and (old_status is None or _lasting(old_status) != _lasting(status)):
                self.source.targets.add(MCP_SERVER.name, {owner})
            if status.health.ready and not (old_status is not None and old_status.health.ready):
                log.info("Successfully got status from endpoint", url=status.server.shown_url)
        if self._is_settled() and not all(status.health.tried for status in old_statuses.values()):
            self._add_virtual()

    def _is_settled(self) -> bool:
        """Whether every server was tried.

        Before that, a tool that no server lists may still appear.
        """
        return self.live.version > 0 and all(status.health.tried for status in self._broker_statuses.values())

    def _add_virtual(self) -> None:
        self.source.targets.add(VIRTUAL_SERVER.name, set(self.source.index.objects[VIRTUAL_SERVER.name]))

    async def _wait_objects(self, targets: set[Target]) -> None:
        servers = [ref for kind, ref in targets if kind == MCP_SERVER.name]
        targets |= {(HTTP_ROUTE.name, route) for ref in servers for route in self._route_refs(ref)}
        async with trio.open_nursery() as nursery:
            for kind, ref in targets:
                nursery.start_soon(self._wait_object, kind, ref)

    def _route_refs(self, ref: Ref) -> set[Ref]:
        """The HTTPRoutes that an MCPServer refers to now, and at the last call."""
        mcp_server = self.source.index.objects[MCP_SERVER.name].get(ref)
        old_route = self._routes.pop(ref, None)
        routes = {old_route} if old_route is not None else set()
        if isinstance(mcp_server, McpServer):
            self._routes[ref] = mcp_server.route
            routes.add(mcp_server.route)
        return routes

    async def _wait_object(self, kind: str, ref: Ref) -> None:
        async with self._limit:
            value = self.source.index.objects[kind].get(ref)
            if not self.leading.value:
                return
            match value:
                case McpServer():
                    await self._wait_server(value)
                case VirtualServerObject():
                    await self._wait_virtual(value)
                case PolicyObject():
                    await self._wait_policy(value)
                case HttpRoute():
                    await self._wait_route(value)
                case _:  # it was deleted meanwhile
                    for memory in (self._failures, self._last_writes, self._due):
                        memory.pop((kind, ref), None)
                    self._events.forget(kind, ref)

    async def _wait_virtual(self, virtual: VirtualServerObject) -> None:
        if not self._is_settled():
            return
        document = virtual_status(virtual, self.live.value.of(TOOL).owned, _now())
        if document is not None:
            await self._wait_status_written(VIRTUAL_SERVER, virtual, document)

    async def _wait_policy(self, policy: PolicyObject) -> None:
        document = policy_status(policy, _now())
        if document is not None:
            await self._wait_status_written(ACCESS_POLICY, policy, document)

    async def _wait_server(self, mcp_server: McpServer) -> None:
        row = self.source.index.row(mcp_server.ref)
        if row is None:
            return
        status = self._broker_statuses.get(row.server.name) if row.server is not None else None
        if status is not None and status.server != row.server:
            # The status of the server before the change: the broker has not tried the new one.
            status = None
        document = server_status(row, status, _now())
        if document is not None:
            await self._wait_status_written(MCP_SERVER, mcp_server, document)

    async def _wait_route(self, route: HttpRoute) -> None:
        users = self.source.index.users(route.ref)
        parents = route_parents(route, users, _now())
        if parents is None:
            return
        if await self._wait_patched(HTTP_ROUTE, route, {"parents": parents}):
            log.info(
                "Updated HTTPRoute status", HTTPRoute=route.ref.name, namespace=route.ref.namespace, affected=len(users)
            )

    async def _wait_status_written(
        self, kind: ResourceKind, value: McpServer | VirtualServerObject | PolicyObject, document: Document
    ) -> None:
        if not await self._wait_patched(kind, value, document):
            return
        ready, old_ready = ready_condition(document), ready_of(value.status)
        if ready["status"] != "Unknown" and (ready["status"], ready["reason"]) != old_ready:
            await self._events.wait_written(kind, value.ref, value.uid, ready)

    async def _wait_patched(
        self, kind: ResourceKind, value: McpServer | VirtualServerObject | PolicyObject | HttpRoute, status: Raw
    ) -> bool:
        # With the version: a list (of conditions, of parents) is replaced whole, and another
        # controller may have written into it meanwhile.
        patch = {"metadata": {"resourceVersion": value.version}, "status": status}
        ref, target = value.ref, (kind.name, value.ref)
        if self._last_writes.get(target) == (value, patch) and self._last_writes[target][0] is value:
            return False  # it was written, and the watch has not brought it back yet
        try:
            await self.api.wait_json("PATCH", kind.path(ref.namespace, ref.name, "status"), body=patch)
        except ApiError as error:
            if error.status != _NOT_FOUND:  # deleted meanwhile: the watch will report it
                self._fail(target, error)
            return False
        self._failures.pop(target, None)
        self._last_writes[target] = (value, patch)
        self._due[target] = trio.current_time() + PACE
        return True

    def _fail(self, target: Target, error: ApiError) -> None:
        failure = self._failures.setdefault(target, _Failure())
        self._due[target] = trio.current_time() + failure.backoff.next()
        # A conflict needs no log line: the watch brings the new object.
        if error.status != _CONFLICT and str(error) != failure.error:
            failure.error = str(error)
            log.warning("Status not written, will retry", kind=target[0], object=str(target[1]), error=str(error))


async def _wait_each(watched: Watched[Any], react: Callable[[], None]) -> None:
    """Call `react` for the current value and for each later one."""
    version = -1
    while True:
        version = await watched.wait_after(version)
        react()


def _lasting(status: ServerStatus) -> ServerStatus:
    """A status without what changes at each contact: these changes need no write."""
    return attrs.evolve(status, health=attrs.evolve(status.health, last_contact=None, failures=0))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
