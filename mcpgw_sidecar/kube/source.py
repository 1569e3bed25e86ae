"""The configuration from the watched objects."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from functools import partial

import attrs
import trio

from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.kube.targets import Targets
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources import objects
from mcpgw_sidecar.resources.external import judged
from mcpgw_sidecar.resources.index import Index, policies_of
from mcpgw_sidecar.resources.kinds import (
    ACCESS_POLICY,
    ESSENTIAL,
    EVERYWHERE,
    MCP_SERVER,
    SECRET,
    VIRTUAL_SERVER,
    WATCHED,
    ResourceKind,
    watch_name,
)
from mcpgw_sidecar.resources.lookup import NOTHING, Permissions
from mcpgw_sidecar.resources.objects import Ref, read, ref_of
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

LOOK_UP = 5  # seconds between two looks at the addresses of names, and for one
COLLECT = 0.05  # seconds: the changes within that time become one configuration
_NO_SUCH_KIND = 404
PATIENCE = 2.0  # seconds that the start waits for kinds that are not essential


class KubernetesSource:
    """`desired` from MCPServers and the objects that they refer to.

    `targets` are the objects that may need another status.
    """

    def __init__(
        self,
        api: KubeApi,
        desired: Watched[Desired],
        publish: Callable[[Desired], None],
        allowed: Permissions = NOTHING,
    ) -> None:
        self._api = api
        self._desired = desired
        self._push = publish
        self.index = Index(allowed)
        self.targets = Targets()
        self.loaded = trio.Event()
        namespaces: list[str | None] = [None] if EVERYWHERE in allowed.secrets_in else [*dict.fromkeys(allowed.secrets_in)]
        self._sinks = [_KindSink(self, kind) for kind in WATCHED] + [_KindSink(self, SECRET, each) for each in namespaces]
        self._unlisted = {sink.name for sink in self._sinks}
        self._absent: set[str] = set()
        self._dirty = trio.Event()
        self._resolving = trio.CapacityLimiter(8)  # of its own: a silent resolver takes no thread of others

    async def wait_following(self) -> None:
        """Publish the configuration after each change of the objects, for ever."""
        async with trio.open_nursery() as nursery:
            for sink in self._sinks:
                reflector = Reflector(self._api, sink.kind, sink, namespace=sink.namespace)
                nursery.start_soon(reflector.wait_reflecting)
            await self._wait_first()
            nursery.start_soon(self._wait_resolving)
            while True:
                self._publish()
                await self._dirty.wait()
                await trio.sleep(COLLECT)
                self._dirty = trio.Event()

    async def _wait_first(self) -> None:
        """Wait for the essential kinds, and up to `PATIENCE` seconds for the others."""
        while self._unlisted & (ESSENTIAL | ({ACCESS_POLICY.name} - self._absent)):
            await self._dirty.wait()
            self._dirty = trio.Event()
        with trio.move_on_after(PATIENCE):
            while self._unlisted:
                await self._dirty.wait()
                self._dirty = trio.Event()

    async def _wait_resolving(self) -> None:
        """Resolve the names outside of the cluster again and again, new ones soon, for ever."""
        for turn in itertools.count():
            hosts = self.index.external_hosts()
            self.index.forget_names(hosts)
            async with trio.open_nursery() as nursery:
                for host in hosts if turn % LOOK_UP == 0 else hosts - set(self.index.resolved):
                    nursery.start_soon(self._wait_resolved, host)
            await trio.sleep(1.0)

    async def _wait_resolved(self, host: str) -> None:
        before, found = self.index.resolved.get(host), list[str]()
        try:
            with trio.fail_after(LOOK_UP):
                look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
                infos = await trio.to_thread.run_sync(look_up, limiter=self._resolving, abandon_on_cancel=True)
                found = [str(info[4][0]) for info in infos]
        except (OSError, trio.TooSlowError, UnicodeError) as error:
            if before is not None and before.addresses:
                return  # a resolver that is away for a while changes nothing
            log.debug("Name not resolved", host=host, error=repr(error))
        changed = self.index.resolve_name(host, judged(found, before))
        if changed:
            self.targets.add(MCP_SERVER.name, changed)
            self._dirty.set()

    def changed(self, kind: ResourceKind, ref: Ref | None, servers: set[Ref]) -> None:
        """The object `ref` of a kind (None: any) has changed, and with it these MCPServers."""
        for server in servers:
            log.info("Reconciling MCPServer", name=server.name, namespace=server.namespace)
        self.targets.add(MCP_SERVER.name, servers)
        if ref is not None:
            self.targets.add(kind.name, {ref})
        # A Service or route that no MCPServer uses changes nothing.
        if servers or kind in {VIRTUAL_SERVER, ACCESS_POLICY}:
            self._dirty.set()

    def synced(self, watch: str) -> None:
        """The first list of a watch is complete."""
        self._unlisted.discard(watch)
        self._dirty.set()

    def absent(self, watch: str) -> None:
        """The API has no such kind: there is nothing to list."""
        self._absent.add(watch)
        self._dirty.set()

    def incomplete(self) -> str | None:
        """The kinds that were never listed: servers may be missing. None if there are none."""
        watches = sorted(self._unlisted - self._absent)
        return f"a first list of {', '.join(watches)}" if watches else None

    def troubled(self) -> None:
        """A kind cannot be watched, or can be again: publish that for `/status`."""
        self._dirty.set()
        if not self.loaded.is_set():
            self._push(attrs.evolve(self._desired.value, error=self._error()))

    def _error(self) -> str | None:
        return "\n".join(dict.fromkeys(self.index.troubles.values())) or None

    def _publish(self) -> None:
        current = self._desired.value
        servers, virtual, error = self.index.servers(), self.index.virtual_servers(), self._error()
        refusals, policies = self.index.refused(), policies_of(self.index)
        before = current.servers, current.virtual_servers, current.policies
        if self.loaded.is_set() and (servers, virtual, policies) == before:
            self._push(attrs.evolve(current, error=error, refused=refusals))
            return
        self.loaded.set()
        self._push(
            attrs.evolve(
                current,
                servers=servers,
                virtual_servers=virtual,
                policies=policies,
                refused=refusals,
                generation=current.generation + 1,
                loaded_at=time.time(),
                error=error,
            )
        )
        log.info("Config push completed", successful=1, failed=0, total=1, serverCount=len(servers))


@attrs.define
class _KindSink:
    """The index as the sink of one kind, or of one kind in a namespace.

    An object that cannot be read is left out alone.
    """

    source: KubernetesSource
    kind: ResourceKind
    namespace: str | None = None

    @property
    def name(self) -> str:
        return watch_name(self.kind.name, self.namespace)

    def reset(self, raws: list[Raw]) -> None:
        values = [value for value in map(self._value, raws) if value is not None]
        self.source.changed(self.kind, None, self.source.index.reset(self.kind.name, values, self.namespace))
        self.source.targets.add(self.kind.name, {value.ref for value in values})
        self.source.synced(self.name)

    def apply(self, raw: Raw) -> None:
        value = self._value(raw)
        if value is None:
            self.delete(raw)
        else:
            self.source.changed(self.kind, value.ref, self.source.index.apply(self.kind.name, value))

    def delete(self, raw: Raw) -> None:
        ref = ref_of(raw)
        self.source.changed(self.kind, ref, self.source.index.delete(self.kind.name, ref))

    def trouble(self, reason: str | None, status: int = 0) -> None:
        if status == _NO_SUCH_KIND:
            self.source.absent(self.name)
        if self.source.index.troubles.get(self.name) != reason:
            self.source.targets.add(MCP_SERVER.name, self.source.index.trouble(self.kind.name, reason, self.namespace))
            self.source.troubled()

    def _value(self, raw: Raw) -> objects.WatchedObject | None:
        if raw["metadata"].get("deletionTimestamp") and self.kind in {MCP_SERVER, VIRTUAL_SERVER, ACCESS_POLICY}:
            return None  # it is deleted, although a finalizer of somebody keeps it
        try:
            return read(self.kind.name, raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning(
                "Object left out: it cannot be read", kind=self.kind.name, object=str(ref_of(raw)), error=repr(error)
            )
            return None
