"""The configuration from a ConfigMap that another sidecar wrote."""

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
from mcpgw_sidecar.resources.configmap import KEY, STALE
from mcpgw_sidecar.resources.kinds import CONFIG_MAP
from mcpgw_sidecar.resources.objects import Ref, ref_of
from mcpgw_sidecar.runtime.watch import Watched


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
        stale = ((raw.get("metadata") or {}).get("annotations") or {}).get(STALE)
        fault = f"{source}: {stale}" if stale else None
        if not isinstance(text, str):
            self._refuse(fault or f"{source}: has no key {KEY}")
            return
        try:
            content: Content = decode(text, source)
            _check_files(content, source)
        except ConfigurationError as error:
            self._refuse(str(error))
            return
        access = content.access or now.access
        new, old = ((each.servers, each.virtual_servers, each.policies) for each in (content, now))
        unchanged = (new, access) == (old, now.access)
        if unchanged and now.error == fault and self.loaded.is_set():
            return
        self.loaded.set()
        self._publish(
            attrs.evolve(
                now,
                servers=content.servers,
                virtual_servers=content.virtual_servers,
                access=access,
                policies=content.policies,
                generation=now.generation + 1,
                loaded_at=time.time(),
                error=fault,
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
