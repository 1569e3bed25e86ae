"""What the cluster is told: status of MCPServers, MCPVirtualServers and HTTPRoutes, and Events.

Only the holder of the Lease writes, and only what differs from what is there. Objects that may need another status are collected in a
set; each is looked at once however often it was touched, and written at most once a second, whoever else writes there. What could not be
written is tried again, ever more slowly, and said once. What was written is not believed before the watch brings it back.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import trio

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.source import KubernetesSource
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.statuses import ServerStatus
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources import objects
from mcpgw_sidecar.resources.conditions import (
    CONTROLLER,
    Document,
    ready_condition,
    ready_of,
    route_parents,
    server_status,
    virtual_status,
)
from mcpgw_sidecar.resources.kinds import EVENT, HTTP_ROUTE, MCP_SERVER, VIRTUAL_SERVER, ResourceKind
from mcpgw_sidecar.resources.objects import HttpRoute, McpServer, Ref, VirtualServerObject
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

COLLECT = 0.1  # seconds in which changes that come together become one write for each object
AT_ONCE = 8  # writes under way
EVENT_AGAIN = 60.0  # seconds until an Event of the same reason is written again: a server that flaps is one Event a minute
PACE = 1.0  # seconds between two writes of one object
AGAIN, AGAIN_CAP = 2.0, 60.0  # seconds after which what could not be written is tried again, and at the most
MAX_REPORTER = 128  # characters of an Event's reportingInstance
_NOT_FOUND, _CONFLICT = 404, 409
_KINDS = {kind.name: kind for kind in (MCP_SERVER, VIRTUAL_SERVER, HTTP_ROUTE)}

Target = tuple[str, Ref]


@attrs.define
class _Failure:
    """What went wrong with an object, and how long to wait."""

    said: str = ""
    backoff: Backoff = attrs.field(factory=lambda: Backoff(AGAIN, AGAIN_CAP))


@attrs.define(kw_only=True)
class Writer:
    """Writes while `leading` says so. `statuses` and `live` are what the broker sees."""

    api: KubeApi
    source: KubernetesSource
    identity: str
    leading: Watched[bool]
    statuses: Watched[tuple[ServerStatus, ...]]
    live: Watched[Snapshot]
    _seen: dict[str, ServerStatus] = attrs.field(factory=dict)
    _routes: dict[Ref, Ref] = attrs.field(factory=dict)
    _dirty: set[Target] = attrs.field(factory=set)
    _due: dict[Target, float] = attrs.field(factory=dict)
    _failed: dict[Target, _Failure] = attrs.field(factory=dict)
    _events: dict[tuple[str, Ref, str], float] = attrs.field(factory=dict)
    _written: dict[Target, tuple[objects.Watched, Raw]] = attrs.field(factory=dict)
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _limit: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(AT_ONCE))

    def __attrs_post_init__(self) -> None:
        self.source.touched = self.touch

    def touch(self, kind: str, refs: set[Ref]) -> None:
        """These objects may need another status."""
        if kind in _KINDS and refs:
            self._dirty |= {(kind, ref) for ref in refs}
            self._wake.set()

    async def wait_writing(self) -> None:
        """Write for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_each, self.leading, self._led)
            nursery.start_soon(_wait_each, self.statuses, self._saw)
            nursery.start_soon(_wait_each, self.live, self._listed)
            await self.source.loaded.wait()
            while True:
                with trio.move_on_at(min(self._due.values(), default=math.inf)):
                    await self._wake.wait()
                await trio.sleep(COLLECT)
                self._wake = trio.Event()
                dirty = self._ready()
                if self.leading.value:
                    await self._wait_written(dirty)

    def _ready(self) -> set[Target]:
        """What may be looked at now; the rest waits until it is due."""
        now = trio.current_time()
        touched, self._dirty = self._dirty, set()
        for target in touched:
            self._due.setdefault(target, now)
        ready = {target for target, due in self._due.items() if due <= now}
        for target in ready:
            del self._due[target]
        return ready

    def _led(self) -> None:
        """From now on it is us: everything is looked at once."""
        for kind in _KINDS:
            self.touch(kind, set(self.source.index.objects[kind]))

    def _saw(self) -> None:
        before, self._seen = self._seen, {status.server.name: status for status in self.statuses.value}
        for name, status in self._seen.items():
            old = before.get(name)
            owner = self.source.index.owner(status.server.name)
            if owner is not None and (old is None or _told(old) != _told(status)):
                self.touch(MCP_SERVER.name, {owner})
            if status.health.ready and not (old is not None and old.health.ready):
                log.info("Successfully got status from endpoint", url=status.server.shown_url)
        if self._is_settled() and not all(status.health.tried for status in before.values()):
            self._listed()

    def _is_settled(self) -> bool:
        """Whether every server was tried: until then, tools that nobody has listed are not missing."""
        return self.live.version > 0 and all(status.health.tried for status in self._seen.values())

    def _listed(self) -> None:
        self.touch(VIRTUAL_SERVER.name, set(self.source.index.objects[VIRTUAL_SERVER.name]))

    async def _wait_written(self, dirty: set[Target]) -> None:
        servers = [ref for kind, ref in dirty if kind == MCP_SERVER.name]
        dirty |= {(HTTP_ROUTE.name, route) for ref in servers for route in self._moved(ref)}
        async with trio.open_nursery() as nursery:
            for kind, ref in dirty:
                nursery.start_soon(self._wait_object, kind, ref)

    def _moved(self, ref: Ref) -> set[Ref]:
        """The HTTPRoutes that an MCPServer refers to, now and when we looked last."""
        found = self.source.index.objects[MCP_SERVER.name].get(ref)
        before = self._routes.pop(ref, None)
        routes = {before} if before is not None else set()
        if isinstance(found, McpServer):
            self._routes[ref] = found.route
            routes.add(found.route)
        return routes

    async def _wait_object(self, kind: str, ref: Ref) -> None:
        async with self._limit:
            found = self.source.index.objects[kind].get(ref)
            if not self.leading.value:
                return
            match found:
                case McpServer():
                    await self._wait_server(found)
                case VirtualServerObject():
                    await self._wait_virtual(found)
                case HttpRoute():
                    await self._wait_route(found)
                case _:  # it has gone meanwhile
                    for memory in (self._failed, self._written, self._due):
                        memory.pop((kind, ref), None)
                    self._events = {said: at for said, at in self._events.items() if said[:2] != (kind, ref)}

    async def _wait_virtual(self, found: VirtualServerObject) -> None:
        if not self._is_settled():
            return
        document = virtual_status(found, self.live.value.of(TOOL).owned, _now())
        if document is not None:
            await self._wait_status(VIRTUAL_SERVER, found, document)

    async def _wait_server(self, found: McpServer) -> None:
        row = self.source.index.row(found.ref)
        if row is None:
            return
        seen = self._seen.get(row.server.name) if row.server is not None else None
        if seen is not None and seen.server != row.server:
            seen = None  # what was seen is of the server before: the broker has not followed yet
        document = server_status(row, seen, _now())
        if document is not None:
            await self._wait_status(MCP_SERVER, found, document)

    async def _wait_route(self, found: HttpRoute) -> None:
        users = self.source.index.users(found.ref)
        parents = route_parents(found, users, _now())
        if parents is None:
            return
        # The version: what another controller wrote meanwhile is not to be overwritten.
        patch = {"metadata": {"resourceVersion": found.version}, "status": {"parents": parents}}
        if await self._wait_patched(HTTP_ROUTE, found, patch):
            log.info(
                "Updated HTTPRoute status", HTTPRoute=found.ref.name, namespace=found.ref.namespace, affected=len(users)
            )

    async def _wait_status(self, kind: ResourceKind, found: McpServer | VirtualServerObject, document: Document) -> None:
        if not await self._wait_patched(kind, found, {"status": document}):
            return
        ready, before = ready_condition(document), ready_of(found.status)
        if ready["status"] != "Unknown" and (ready["status"], ready["reason"]) != before:
            await self._wait_event(kind, found, ready)

    async def _wait_patched(
        self, kind: ResourceKind, found: McpServer | VirtualServerObject | HttpRoute, patch: Raw
    ) -> bool:
        ref, target = found.ref, (kind.name, found.ref)
        if self._written.get(target) == (found, patch) and self._written[target][0] is found:
            return False  # it was written already, and the watch has not brought it back yet
        try:
            await self.api.wait_json("PATCH", kind.path(ref.namespace, ref.name, "status"), body=patch)
        except ApiError as error:
            if error.status != _NOT_FOUND:  # deleted meanwhile: the watch tells
                self._fail(target, error)
            return False
        self._failed.pop(target, None)
        self._written[target] = (found, patch)
        self._due[target] = trio.current_time() + PACE
        return True

    def _fail(self, target: Target, error: ApiError) -> None:
        failure = self._failed.setdefault(target, _Failure())
        self._due[target] = trio.current_time() + failure.backoff.next()
        if error.status != _CONFLICT and str(error) != failure.said:  # a conflict: the watch brings what it is now
            failure.said = str(error)
            log.warning("Status not written, will retry", kind=target[0], object=str(target[1]), error=str(error))

    async def _wait_event(self, kind: ResourceKind, found: McpServer | VirtualServerObject, ready: Raw) -> None:
        ref, now, said = found.ref, _now(), (kind.name, found.ref, ready["reason"])
        if trio.current_time() - self._events.get(said, -math.inf) < EVENT_AGAIN:
            return
        self._events[said] = trio.current_time()
        event = {
            "metadata": {"name": f"{ref.name[:200]}.{secrets.token_hex(8)}", "namespace": ref.namespace},
            "involvedObject": {
                "apiVersion": f"{kind.group}/{kind.version}",
                "kind": kind.name,
                "namespace": ref.namespace,
                "name": ref.name,
                "uid": found.uid,
            },
            "type": "Normal" if ready["status"] == "True" else "Warning",
            "reason": ready["reason"],
            "message": ready["message"],
            "source": {"component": PROGRAM},
            "reportingComponent": CONTROLLER,
            "reportingInstance": self.identity[:MAX_REPORTER],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self.api.wait_json("POST", EVENT.path(ref.namespace), body=event)
        except ApiError as error:
            log.debug("Event not written", object=str(ref), error=str(error))


async def _wait_each(watched: Watched[Any], react: Callable[[], None]) -> None:
    """React to the value of now and to each later one."""
    version = -1
    while True:
        version = await watched.wait_after(version)
        react()


def _told(status: ServerStatus) -> ServerStatus:
    """What a status says of a server: when it was heard last does not count."""
    return attrs.evolve(status, health=attrs.evolve(status.health, last_contact=None, failures=0))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
