"""Writes the ConfigMap `mcp-gateway-config`, while this sidecar holds the Lease."""

from __future__ import annotations

import math

import trio

from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.configmap import KEY, LABELS, MAX_SIZE, STALE, render
from mcpgw_sidecar.resources.kinds import CONFIG_MAP, CONFIG_MAP_NAME
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

_CONFLICT = 409
PACE = 1.0  # seconds between two writes: somebody who reverts each write must not cause a hot loop
AGAIN = 2.0  # seconds until a failed write is tried again


class ConfigMapWriter:
    """Writes the ConfigMap when its text or labels differ: an edit by hand lasts only a moment.

    Other keys and labels of the ConfigMap are left alone.
    """

    def __init__(
        self, *, api: KubeApi, namespace: str, desired: Watched[Desired], loaded: trio.Event, leading: Watched[bool]
    ) -> None:
        self._api = api
        self._ref = Ref(namespace, CONFIG_MAP_NAME)
        self._desired = desired
        self._loaded = loaded
        self._leading = leading
        self._config_map: Watched[tuple[bool, Raw | None]] = Watched((False, None))
        self.error: str | None = None
        """Why the ConfigMap is not what it should be."""

    async def wait_writing(self) -> None:
        """Write for ever, after each change of the configuration, the Lease or the ConfigMap."""
        async with trio.open_nursery() as nursery:
            reflector = Reflector(self._api, CONFIG_MAP, self, namespace=self._ref.namespace, name=self._ref.name)
            nursery.start_soon(reflector.wait_reflecting)
            await self._loaded.wait()
            while True:
                versions = self._desired.version, self._leading.version, self._config_map.version
                done = await self._wait_written()
                with trio.move_on_after(math.inf if done else AGAIN):
                    await self._wait_changed(*versions)

    async def _wait_changed(self, desired: int, leading: int, config_map: int) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(
                watched: Watched[Desired] | Watched[bool] | Watched[tuple[bool, Raw | None]], version: int
            ) -> None:
                await watched.wait_after(version)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self._desired, desired)
            nursery.start_soon(wait, self._leading, leading)
            nursery.start_soon(wait, self._config_map, config_map)

    async def _wait_written(self) -> bool:
        """Write if necessary. False when the write failed and has to be tried again."""
        is_listed, config_map = self._config_map.value
        if not self._leading.value or not is_listed:
            return True
        desired = self._desired.value
        text = render(desired.servers, desired.virtual_servers, desired.policies)
        size, stale = len(text.encode()), None
        if size > MAX_SIZE:
            stale = f"the configuration has {size} bytes, and a ConfigMap takes {MAX_SIZE}: it stays as it is"
            self._fail(stale)
        if _is_written(config_map, text, stale):
            return True
        try:
            await self._wait_put(config_map, text, stale)  # the watch will bring the result
        except ApiError as error:
            # After a conflict, another sidecar has just created it: the watch brings it.
            if error.status != _CONFLICT:
                self._fail(f"{error}; will retry")
            return False
        if stale is not None:
            return True
        self.error = None
        log.info(
            "Successfully regenerated aggregated configuration",
            serverCount=len(desired.servers),
            virtualServerCount=len(desired.virtual_servers),
        )
        await trio.sleep(PACE)
        return True

    async def _wait_put(self, config_map: Raw | None, text: str, stale: str | None) -> None:
        data = {KEY: text} if stale is None else {}
        if config_map is not None:
            body = {"metadata": {"labels": LABELS, "annotations": {STALE: stale}}, "data": data}
            await self._api.wait_json("PATCH", CONFIG_MAP.path(self._ref.namespace, self._ref.name), body=body)
            return
        meta = {"name": self._ref.name, "namespace": self._ref.namespace, "labels": LABELS}
        if stale is not None:
            meta |= {"annotations": {STALE: stale}}
        document = {"apiVersion": "v1", "kind": CONFIG_MAP.name, "metadata": meta, "data": data}
        await self._api.wait_json("POST", CONFIG_MAP.path(self._ref.namespace), body=document)

    def _fail(self, error: str) -> None:
        if error != self.error:
            self.error = error
            log.error("ConfigMap not written", configMap=str(self._ref), error=error)

    def reset(self, raws: list[Raw]) -> None:
        """The ConfigMap exists, or `raws` is empty."""
        self._config_map.publish((True, raws[0] if raws else None))

    def apply(self, raw: Raw) -> None:
        """The ConfigMap was added or modified."""
        self._config_map.publish((True, raw))

    def delete(self, raw: Raw) -> None:
        """The ConfigMap was deleted."""
        del raw
        self._config_map.publish((True, None))

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """The reflector logs the reason.

        Without a ConfigMap to compare with, nothing is written.
        """


def _is_written(config_map: Raw | None, text: str, stale: str | None) -> bool:
    """Whether a ConfigMap holds this text, or says why it does not."""
    meta = (config_map or {}).get("metadata", {})
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    has_text = stale is not None or (config_map is not None and (config_map.get("data") or {}).get(KEY) == text)
    return config_map is not None and has_text and LABELS.items() <= labels.items() and annotations.get(STALE) == stale
