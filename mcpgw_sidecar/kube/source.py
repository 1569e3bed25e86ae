"""Configuration out of Kubernetes: the watched objects, or the ConfigMap that another sidecar made of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import trio

from mcpgw_sidecar.config.decode import Content, decode
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources import objects
from mcpgw_sidecar.resources.configmap import KEY
from mcpgw_sidecar.resources.index import Index
from mcpgw_sidecar.resources.kinds import CONFIG_MAP, ESSENTIAL, MCP_SERVER, VIRTUAL_SERVER, WATCHED, ResourceKind
from mcpgw_sidecar.resources.objects import Ref, read, ref_of
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

COLLECT = 0.05  # seconds in which changes that come together become one configuration
PATIENCE = 2.0  # seconds that a start waits for the kinds that are not essential
Touched = Callable[[str, set[Ref]], None]


class KubernetesSource:
    """`desired` out of MCPServers and what they refer to. `touched` is told which objects may need another status."""

    def __init__(self, api: KubeApi, desired: Watched[Desired], publish: Callable[[Desired], None]) -> None:
        self._api = api
        self._desired = desired
        self._push = publish
        self.index = Index()
        self.touched: Touched = lambda _kind, _refs: None
        self.loaded = trio.Event()
        self._waiting = {kind.name for kind in WATCHED}
        self._dirty = trio.Event()

    async def wait_following(self) -> None:
        """Publish what the objects say each time they have changed, for ever."""
        async with trio.open_nursery() as nursery:
            for kind in WATCHED:
                nursery.start_soon(Reflector(self._api, kind, _KindSink(self, kind)).wait_reflecting)
            await self._wait_first()
            while True:
                self._publish()
                await self._dirty.wait()
                await trio.sleep(COLLECT)
                self._dirty = trio.Event()

    async def _wait_first(self) -> None:
        """The essential kinds are there, and the others too or patience with them is over."""
        while self._waiting & ESSENTIAL:
            await self._dirty.wait()
            self._dirty = trio.Event()
        with trio.move_on_after(PATIENCE):
            while self._waiting:
                await self._dirty.wait()
                self._dirty = trio.Event()

    def changed(self, kind: ResourceKind, ref: Ref | None, servers: set[Ref]) -> None:
        """Something of a kind is different, and with it these MCPServers."""
        for server in servers:
            log.info("Reconciling MCPServer", name=server.name, namespace=server.namespace)
        self.touched(MCP_SERVER.name, servers)
        if ref is not None:
            self.touched(kind.name, {ref})
        if servers or kind is VIRTUAL_SERVER:  # the Services and routes of all the others change nothing here
            self._dirty.set()

    def synced(self, kind: ResourceKind) -> None:
        """All of a kind is there."""
        self._waiting.discard(kind.name)
        self._dirty.set()

    def troubled(self) -> None:
        """Some kind cannot be watched, or can be again: say so in `/status`."""
        self._dirty.set()
        if not self.loaded.is_set():
            self._push(attrs.evolve(self._desired.value, error=self._error()))

    def _error(self) -> str | None:
        return "\n".join(dict.fromkeys(self.index.troubles.values())) or None

    def _publish(self) -> None:
        now = self._desired.value
        servers, virtual, error = self.index.servers(), self.index.virtual_servers(), self._error()
        refused = self.index.refused()
        if self.loaded.is_set() and (servers, virtual) == (now.servers, now.virtual_servers):
            self._push(attrs.evolve(now, error=error, refused=refused))
            return
        self.loaded.set()
        self._push(
            attrs.evolve(
                now,
                servers=servers,
                virtual_servers=virtual,
                refused=refused,
                generation=now.generation + 1,
                loaded_at=time.time(),
                error=error,
            )
        )
        log.info("Config push completed", successful=1, failed=0, total=1, serverCount=len(servers))


@attrs.define
class _KindSink:
    """The index as the sink of one kind. An object that cannot be read is left out, and no other is touched."""

    source: KubernetesSource
    kind: ResourceKind

    def reset(self, found: list[Raw]) -> None:
        read_all = [one for one in map(self._read, found) if one is not None]
        self.source.changed(self.kind, None, self.source.index.reset(self.kind.name, read_all))
        self.source.touched(self.kind.name, {one.ref for one in read_all})
        self.source.synced(self.kind)

    def apply(self, raw: Raw) -> None:
        found = self._read(raw)
        if found is None:
            self.delete(raw)
        else:
            self.source.changed(self.kind, found.ref, self.source.index.apply(self.kind.name, found))

    def delete(self, raw: Raw) -> None:
        ref = ref_of(raw)
        self.source.changed(self.kind, ref, self.source.index.delete(self.kind.name, ref))

    def trouble(self, reason: str | None, status: int = 0) -> None:
        del status
        if self.source.index.troubles.get(self.kind.name) != reason:
            self.source.touched(MCP_SERVER.name, self.source.index.trouble(self.kind.name, reason))
            self.source.troubled()

    def _read(self, raw: Raw) -> objects.Watched | None:
        try:
            return read(self.kind.name, raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning(
                "Object left out: it cannot be read", kind=self.kind.name, object=str(ref_of(raw)), error=repr(error)
            )
            return None


class ConfigMapSource:
    """`desired` out of a ConfigMap, which is followed live. One that is broken or gone leaves the last good configuration."""

    def __init__(self, api: KubeApi, where: Ref, desired: Watched[Desired], publish: Callable[[Desired], None]) -> None:
        self._api = api
        self._where = where
        self._desired = desired
        self._publish = publish
        self._trouble: str | None = None
        self.loaded = trio.Event()

    async def wait_following(self) -> None:
        """Publish what the ConfigMap says each time it has changed, for ever."""
        reflector = Reflector(self._api, CONFIG_MAP, self, namespace=self._where.namespace, name=self._where.name)
        await reflector.wait_reflecting()

    def reset(self, found: list[Raw]) -> None:
        """It is there, or not."""
        for raw in found:
            self.apply(raw)
        if not found:
            self._refuse(f"ConfigMap {self._where} not found: the sidecar that watches MCPServers writes it")

    def apply(self, raw: Raw) -> None:
        """It is there, or is different."""
        now, source = self._desired.value, f"configmap:{self._where}"
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
        unchanged = (content.servers, content.virtual_servers) == (now.servers, now.virtual_servers)
        if unchanged and now.error is None and self.loaded.is_set():
            return
        self.loaded.set()
        self._publish(
            attrs.evolve(
                now,
                servers=content.servers,
                virtual_servers=content.virtual_servers,
                generation=now.generation + 1,
                loaded_at=time.time(),
                error=None,
            )
        )

    def delete(self, raw: Raw) -> None:
        """It has gone."""
        self._refuse(f"ConfigMap {ref_of(raw)} was deleted: the last good configuration stays")

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """Why it cannot be followed; None when it can be again: then what it says follows, if it is different."""
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
    """Whoever may write a ConfigMap is not to have files of this pod (its token, say) shown to a server."""
    problems = [
        f"{source}: server {server.name}: credentialFile and caFile are for configuration files alone: remove them"
        for server in content.servers
        if server.credential_file is not None or server.ca_file is not None
    ]
    if problems:
        raise ConfigurationError(problems)
