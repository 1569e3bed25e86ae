"""Keeps the ConfigMap `mcp-gateway-config` as the configuration is, while this sidecar holds the Lease."""

from __future__ import annotations

import math

import trio

from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.configmap import KEY, LABELS, MAX_SIZE, render
from mcpgw_sidecar.resources.kinds import CONFIG_MAP, CONFIG_MAP_NAME
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

_CONFLICT = 409
PACE = 1.0  # seconds between two writes: somebody who puts it back each time is no reason for a hot loop
AGAIN = 2.0  # seconds after which what could not be written is tried again


class ConfigMapWriter:
    """Written only when its text or labels differ, so an edit by hand lasts a moment. Other keys and labels in it are left alone."""

    def __init__(
        self, *, api: KubeApi, namespace: str, desired: Watched[Desired], loaded: trio.Event, leading: Watched[bool]
    ) -> None:
        self._api = api
        self._where = Ref(namespace, CONFIG_MAP_NAME)
        self._desired = desired
        self._loaded = loaded
        self._leading = leading
        self._found: Watched[tuple[bool, Raw | None]] = Watched((False, None))
        self._said = ""

    async def wait_writing(self) -> None:
        """Write for ever."""
        async with trio.open_nursery() as nursery:
            reflector = Reflector(self._api, CONFIG_MAP, self, namespace=self._where.namespace, name=self._where.name)
            nursery.start_soon(reflector.wait_reflecting)
            await self._loaded.wait()
            while True:
                versions = self._desired.version, self._leading.version, self._found.version
                done = await self._wait_written()
                with trio.move_on_after(math.inf if done else AGAIN):
                    await self._wait_changed(*versions)

    async def _wait_changed(self, desired: int, leading: int, found: int) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(watched: Watched[Desired] | Watched[bool] | Watched[tuple[bool, Raw | None]], at: int) -> None:
                await watched.wait_after(at)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self._desired, desired)
            nursery.start_soon(wait, self._leading, leading)
            nursery.start_soon(wait, self._found, found)

    async def _wait_written(self) -> bool:
        """True when there is nothing (more) to do for now."""
        listed, found = self._found.value
        if not self._leading.value or not listed:
            return True
        desired = self._desired.value
        text = render(desired.servers, desired.virtual_servers)
        labels = (found or {}).get("metadata", {}).get("labels") or {}
        if found is not None and (found.get("data") or {}).get(KEY) == text and LABELS.items() <= labels.items():
            return True
        if len(text.encode()) > MAX_SIZE:
            self._say(
                f"the configuration has {len(text.encode())} bytes, and a ConfigMap takes {MAX_SIZE}: it stays as it is"
            )
            return True
        try:
            await self._wait_put(found, text)  # what it is now, the watch says
        except ApiError as error:
            if error.status != _CONFLICT:  # another one made it just now: the watch brings it
                self._say(f"{error}; will retry")
            return False
        self._said = ""
        log.info(
            "Successfully regenerated aggregated configuration",
            serverCount=len(desired.servers),
            virtualServerCount=len(desired.virtual_servers),
        )
        await trio.sleep(PACE)
        return True

    async def _wait_put(self, found: Raw | None, text: str) -> None:
        body = {"metadata": {"labels": LABELS}, "data": {KEY: text}}
        if found is not None:
            await self._api.wait_json("PATCH", CONFIG_MAP.path(self._where.namespace, self._where.name), body=body)
            return
        meta = {"name": self._where.name, "namespace": self._where.namespace, "labels": LABELS}
        new = {"apiVersion": "v1", "kind": CONFIG_MAP.name, **body, "metadata": meta}
        await self._api.wait_json("POST", CONFIG_MAP.path(self._where.namespace), body=new)

    def _say(self, error: str) -> None:
        if error != self._said:
            self._said = error
            log.error("ConfigMap not written", configMap=str(self._where), error=error)

    def reset(self, found: list[Raw]) -> None:
        """It is there, or not."""
        self._found.publish((True, found[0] if found else None))

    def apply(self, raw: Raw) -> None:
        """It is there, or is different."""
        self._found.publish((True, raw))

    def delete(self, raw: Raw) -> None:
        """It has gone."""
        del raw
        self._found.publish((True, None))

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """The reflector says it in the log; with nothing to compare with, nothing is written."""
