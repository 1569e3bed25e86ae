"""The configuration from the watched objects, or from a ConfigMap that another sidecar wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import attrs
import trio

from mcpgw_sidecar.config.decode import Content, decode
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.kube.targets import Targets
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources import objects
from mcpgw_sidecar.resources.configmap import KEY
from mcpgw_sidecar.resources.index import Index
from mcpgw_sidecar.resources.kinds import (
    CONFIG_MAP,
    ESSENTIAL,
    EVERYWHERE,
    MCP_SERVER,
    SECRET,
    VIRTUAL_SERVER,
    WATCHED,
    ResourceKind,
    watch_name,
)
from mcpgw_sidecar.resources.objects import Ref, read, ref_of
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

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
        external_names: Collection[str] = (),
        secrets_in: Collection[str] = (),
    ) -> None:
        self._api = api
        self._desired = desired
        self._push = publish
        self.index = Index(external_names, secrets_in)
        self.targets = Targets()
        self.loaded = trio.Event()
        namespaces: list[str | None] = [None] if EVERYWHERE in secrets_in else [*dict.fromkeys(secrets_in)]
        self._sinks = [_KindSink(self, kind) for kind in WATCHED] + [_KindSink(self, SECRET, each) for each in namespaces]
        self._unlisted = {sink.name for sink in self._sinks}
        self._absent: set[str] = set()
        self._dirty = trio.Event()

    async def wait_following(self) -> None:
        """Publish the configuration after each change of the objects, for ever."""
        async with trio.open_nursery() as nursery:
            for sink in self._sinks:
                reflector = Reflector(self._api, sink.kind, sink, namespace=sink.namespace)
                nursery.start_soon(reflector.wait_reflecting)
            await self._wait_first()
            while True:
                self._publish()
                await self._dirty.wait()
                await trio.sleep(COLLECT)
                self._dirty = trio.Event()

    async def _wait_first(self) -> None:
        """Wait for the essential kinds, and up to `PATIENCE` seconds for the others."""
        while self._unlisted & ESSENTIAL:
            await self._dirty.wait()
            self._dirty = trio.Event()
        with trio.move_on_after(PATIENCE):
            while self._unlisted:
                await self._dirty.wait()
                self._dirty = trio.Event()

    def changed(self, kind: ResourceKind, ref: Ref | None, servers: set[Ref]) -> None:
        """The object `ref` of a kind (None: any) has changed, and with it these MCPServers."""
        for server in servers:
            log.info("Reconciling MCPServer", name=server.name, namespace=server.namespace)
        self.targets.add(MCP_SERVER.name, servers)
        if ref is not None:
            self.targets.add(kind.name, {ref})
        # A Service or route that no MCPServer uses changes nothing.
        if servers or kind is VIRTUAL_SERVER:
            self._dirty.set()

    def synced(self, watch: str) -> None:
        """The first list of a watch is complete."""
        self._unlisted.discard(watch)
        self._dirty.set()

    def absent(self, watch: str) -> None:
        """The API has no such kind: there is nothing to list."""
        self._absent.add(watch)

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
        refusals = self.index.refused()
        if self.loaded.is_set() and (servers, virtual) == (current.servers, current.virtual_servers):
            self._push(attrs.evolve(current, error=error, refused=refusals))
            return
        self.loaded.set()
        self._push(
            attrs.evolve(
                current,
                servers=servers,
                virtual_servers=virtual,
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
        try:
            return read(self.kind.name, raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning(
                "Object left out: it cannot be read", kind=self.kind.name, object=str(ref_of(raw)), error=repr(error)
            )
            return None


class ConfigMapSource:
    """`desired` from a ConfigMap, which is watched.

    When the ConfigMap is broken or deleted, the last good configuration stays.
    """

    def __init__(self, api: KubeApi, ref: Ref, desired: Watched[Desired], publish: Callable[[Desired], None]) -> None:
        self._api = api
        self._ref = ref
        self._desired = desired
        self._publish = publish
        self._trouble: str | None = None
        self.loaded = trio.Event()

    async def wait_following(self) -> None:
        """Publish the configuration after each change of the ConfigMap, for ever."""
        reflector = Reflector(self._api, CONFIG_MAP, self, namespace=self._ref.namespace, name=self._ref.name)
        await reflector.wait_reflecting()

    def reset(self, raws: list[Raw]) -> None:
        """The ConfigMap exists, or `raws` is empty."""
        for raw in raws:
            self.apply(raw)
        if not raws:
            self._refuse(f"ConfigMap {self._ref} not found: the sidecar that watches MCPServers writes it")

    def apply(self, raw: Raw) -> None:
        """The ConfigMap was added or modified."""
        now, source = self._desired.value, f"configmap:{self._ref}"
        text = (raw.get("data") or {}).get(KEY)
        if not isinstance(text, str):
            self._refuse(f"{source}: has no key {KEY}")
            return
        try:
            content: Content = decode(text, source)
            _check_files(content, source)
        except ConfigurationError as error:
            self._refuse(str(error))
            return
        access = content.access or now.access
        unchanged = (content.servers, content.virtual_servers, access) == (now.servers, now.virtual_servers, now.access)
        if unchanged and now.error is None and self.loaded.is_set():
            return
        self.loaded.set()
        self._publish(
            attrs.evolve(
                now,
                servers=content.servers,
                virtual_servers=content.virtual_servers,
                access=access,
                generation=now.generation + 1,
                loaded_at=time.time(),
                error=None,
            )
        )

    def delete(self, raw: Raw) -> None:
        """The ConfigMap was deleted."""
        self._refuse(f"ConfigMap {ref_of(raw)} was deleted: the last good configuration stays")

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """Why the watch fails; None when it works again.

        A ConfigMap that changed meanwhile follows by `apply`.
        """
        del status
        now = self._desired.value
        if reason is None and now.error == self._trouble:
            self._publish(attrs.evolve(now, error=None))
        elif reason is not None and now.error != reason:
            self._publish(attrs.evolve(now, error=reason))
        self._trouble = reason

    def _refuse(self, reason: str) -> None:
        now = self._desired.value
        if now.error != reason:
            self._publish(attrs.evolve(now, error=reason, failed_loads=now.failed_loads + 1))


def _check_files(content: Content, source: str) -> None:
    """Refuse file paths in a ConfigMap.

    Somebody who may write it must not make us send files of this pod (its token, say) to a server.
    """
    problems = [
        f"{source}: server {server.name}: credentialFile and caFile are for configuration files alone: remove them"
        for server in content.servers
        if server.credential_file is not None or server.ca_file is not None
    ]
    if problems:
        raise ConfigurationError(problems)
