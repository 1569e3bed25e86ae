"""Session keys in a Secret, shared by all sidecars of a namespace and followed while they change."""

from __future__ import annotations

import base64
import secrets

import trio

from mcpgw_sidecar.errors import ApiError, ConfigurationError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.kinds import SECRET, ResourceKind
from mcpgw_sidecar.resources.objects import Ref, Secret
from mcpgw_sidecar.sessions.tokens import SessionKeys, parse_keys

log = get_logger(__name__)

NAME = "mcpgw-sidecar-session-key"
KEY = "keys"
_ANY_SECRET = ResourceKind(name=SECRET.name, plural=SECRET.plural)
_FORBIDDEN, _CONFLICT = 403, 409


class SecretKeys:
    """`keys` are the process's own until the Secret was read (`loaded`), and stay so where it may not be read."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._where = Ref(namespace, NAME)
        self._missing = trio.Event()
        self.loaded = trio.Event()
        self.keys: SessionKeys = parse_keys(secrets.token_urlsafe(32), "memory")

    async def wait_following(self) -> None:
        """Follow the Secret for ever; make it when it is missing."""
        async with trio.open_nursery() as nursery:
            reflector = Reflector(self._api, _ANY_SECRET, self, namespace=self._where.namespace, name=NAME)
            nursery.start_soon(reflector.wait_reflecting)
            while True:
                await self._missing.wait()
                self._missing = trio.Event()
                await self._wait_made()

    async def _wait_made(self) -> None:
        value = base64.b64encode(f"{secrets.token_urlsafe(32)}\n".encode()).decode()
        meta = {"name": NAME, "namespace": self._where.namespace}
        new = {"apiVersion": "v1", "kind": SECRET.name, "metadata": meta, "type": "Opaque", "data": {KEY: value}}
        try:
            await self._api.wait_json("POST", _ANY_SECRET.path(self._where.namespace), body=new)
            log.info("Session keys made", secret=str(self._where))
        except ApiError as error:
            if error.status == _CONFLICT:
                return  # another sidecar was faster: the watch brings its keys
            self._on_our_own(str(error))

    def reset(self, found: list[Raw]) -> None:
        """It is there, or not."""
        for raw in found:
            self.apply(raw)
        if not found:
            self._missing.set()

    def apply(self, raw: Raw) -> None:
        """It is there, or is different. One that cannot be used leaves the last good keys."""
        text = Secret(ref=self._where, values=raw.get("data") or {}).text(KEY)
        try:
            if text is None:
                raise ConfigurationError([f"Secret {self._where} has no text under the key {KEY}"])  # noqa: TRY301
            keys = parse_keys(text, f"Secret {self._where}")
        except ConfigurationError as error:
            log.error("Session keys not read, the last good ones stay", error=str(error))  # noqa: TRY400
            return
        if keys != self.keys:
            self.keys = keys
            log.info("Session keys read", secret=str(self._where), keys=len(keys.keys))
        self.loaded.set()

    def delete(self, raw: Raw) -> None:
        """It has gone: the keys of the moment live on in memory, and a new Secret is made."""
        del raw
        log.warning("Session keys were deleted, making new ones: clients have to initialize again", secret=str(self._where))
        self._missing.set()

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """The Secret cannot be followed."""
        if reason is not None and status == _FORBIDDEN:
            self._on_our_own(reason)

    def _on_our_own(self, reason: str) -> None:
        if not self.loaded.is_set():
            log.warning("Sessions end with this process: its keys cannot be kept", secret=str(self._where), error=reason)
            self.loaded.set()
