"""The session keys in a Secret, which all sidecars of a namespace share and watch."""

from __future__ import annotations

import base64
import secrets

import trio

from mcpgw_sidecar.errors import ApiError, ConfigurationError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.kinds import ANY_SECRET, SECRET, SESSION_KEY_NAME
from mcpgw_sidecar.resources.objects import Ref, Secret
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.sessions.tokens import SessionKeys, parse_keys

log = get_logger(__name__)

KEY = "keys"
RETRY_BASE, RETRY_CAP = 0.5, 30.0  # seconds
_FORBIDDEN, _CONFLICT = 403, 409


class SecretKeys:
    """The session keys of this process; `loaded` is set once it is settled where they come from.

    =================================  ==========================================================
    the Secret                         the keys
    =================================  ==========================================================
    holds keys                         are these, also when they change
    has no keys, or is missing         are made and written to it; tried again until that works
    holds keys that cannot be used     stay (at start those of the process); an error is logged
    may not be read or created (403)   are those of the process: sessions end with it; logged
    was deleted                        stay, and are written to a new Secret
    =================================  ==========================================================
    """

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._ref = Ref(namespace, SESSION_KEY_NAME)
        self._needs_keys = trio.Event()
        self._version: str | None = None
        self._text = secrets.token_urlsafe(32)
        self.loaded = trio.Event()
        self.error: str | None = None
        self.keys: SessionKeys = parse_keys(self._text, "memory")

    async def wait_following(self) -> None:
        """Watch the Secret for ever, and create it when it is missing."""
        async with trio.open_nursery() as nursery:
            reflector = Reflector(self._api, ANY_SECRET, self, namespace=self._ref.namespace, name=self._ref.name)
            nursery.start_soon(reflector.wait_reflecting)
            backoff = Backoff(RETRY_BASE, RETRY_CAP)
            while True:
                await self._needs_keys.wait()
                self._needs_keys = trio.Event()
                if await self._wait_made():
                    backoff.reset()
                else:
                    self._needs_keys.set()
                    await trio.sleep(backoff.next())

    async def _wait_made(self) -> bool:
        """Write the current keys to the Secret. False when that has to be tried again."""
        data = {KEY: base64.b64encode(f"{self._text}\n".encode()).decode()}
        meta = {"name": self._ref.name, "namespace": self._ref.namespace}
        try:
            if self._version is not None:
                # With the version: a conflict says that another sidecar was faster.
                patch = {"metadata": {"resourceVersion": self._version}, "data": data}
                await self._api.wait_json("PATCH", ANY_SECRET.path(self._ref.namespace, self._ref.name), body=patch)
            else:
                document = {"apiVersion": "v1", "kind": SECRET.name, "metadata": meta, "type": "Opaque", "data": data}
                await self._api.wait_json("POST", ANY_SECRET.path(self._ref.namespace), body=document)
        except ApiError as error:
            if error.status == _CONFLICT:
                return True  # the watch brings the keys of the faster sidecar
            if error.status == _FORBIDDEN:
                self._on_our_own(str(error))
                return True
            log.warning("Session keys not kept, will retry", secret=str(self._ref), error=str(error))
            return False
        log.info("Session keys made", secret=str(self._ref))
        return True

    def reset(self, raws: list[Raw]) -> None:
        """The Secret exists, or `raws` is empty."""
        for raw in raws:
            self.apply(raw)
        if not raws:
            self._version = None  # it was deleted while nobody watched: there is nothing to patch
            self._needs_keys.set()

    def apply(self, raw: Raw) -> None:
        """The Secret was added or modified (the table above)."""
        self._version = raw["metadata"]["resourceVersion"]
        values = raw.get("data") or {}
        if KEY not in values:
            self._needs_keys.set()
            return
        text = Secret(ref=self._ref, values=values).text(KEY)
        try:
            keys = parse_keys(text or "", f"Secret {self._ref}, key {KEY}")
        except ConfigurationError as error:
            self.error = str(error)
            log.error("Session keys not read, the last good ones stay", error=self.error)  # noqa: TRY400
            self.loaded.set()
            return
        self.error = None
        if keys != self.keys:
            self.keys, self._text = keys, text or ""
            log.info("Session keys read", secret=str(self._ref), keys=len(keys.keys))
        self.loaded.set()

    def delete(self, raw: Raw) -> None:
        """The Secret was deleted: the current keys stay in memory, and a new Secret is created."""
        del raw
        log.warning("Session keys were deleted: keeping them in a new Secret", secret=str(self._ref))
        self._version = None
        self._needs_keys.set()

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """The Secret cannot be watched."""
        if reason is not None and status == _FORBIDDEN:
            self._on_our_own(reason)

    def _on_our_own(self, reason: str) -> None:
        if not self.loaded.is_set():
            log.warning("Sessions end with this process: its keys cannot be kept", secret=str(self._ref), error=reason)
            self.loaded.set()
