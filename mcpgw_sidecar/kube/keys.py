"""Session keys in a Secret, shared by all sidecars of a namespace and followed while they change."""

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
    """Where the session keys come from; `loaded` is set once that is settled.

    =================================  ==========================================================
    the Secret                         the keys
    =================================  ==========================================================
    holds keys                         are these, also when they change
    is there without keys, or missing  are made and kept there; tried again until that works
    holds what cannot be used          stay what they were; the process's own at start, and it is said
    may not be read or made (403)      are the process's own: sessions end with it, and it is said
    has been deleted                   stay what they were, and are kept in a new one
    =================================  ==========================================================
    """

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._where = Ref(namespace, SESSION_KEY_NAME)
        self._missing = trio.Event()
        self._version: str | None = None
        self._text = secrets.token_urlsafe(32)
        self.loaded = trio.Event()
        self.keys: SessionKeys = parse_keys(self._text, "memory")

    async def wait_following(self) -> None:
        """Follow the Secret for ever; make it when it is missing."""
        async with trio.open_nursery() as nursery:
            reflector = Reflector(self._api, ANY_SECRET, self, namespace=self._where.namespace, name=self._where.name)
            nursery.start_soon(reflector.wait_reflecting)
            backoff = Backoff(RETRY_BASE, RETRY_CAP)
            while True:
                await self._missing.wait()
                self._missing = trio.Event()
                if await self._wait_made():
                    backoff.reset()
                else:
                    self._missing.set()
                    await trio.sleep(backoff.next())

    async def _wait_made(self) -> bool:
        """Keep the keys of the moment in the Secret; False to try again."""
        data = {KEY: base64.b64encode(f"{self._text}\n".encode()).decode()}
        meta = {"name": self._where.name, "namespace": self._where.namespace}
        try:
            if self._version is not None:  # with its version: a conflict says that another sidecar was faster
                patch = {"metadata": {"resourceVersion": self._version}, "data": data}
                await self._api.wait_json("PATCH", ANY_SECRET.path(self._where.namespace, self._where.name), body=patch)
            else:
                new = {"apiVersion": "v1", "kind": SECRET.name, "metadata": meta, "type": "Opaque", "data": data}
                await self._api.wait_json("POST", ANY_SECRET.path(self._where.namespace), body=new)
        except ApiError as error:
            if error.status == _CONFLICT:
                return True  # the watch brings the keys of who was faster
            if error.status == _FORBIDDEN:
                self._on_our_own(str(error))
                return True
            log.warning("Session keys not kept, will retry", secret=str(self._where), error=str(error))
            return False
        log.info("Session keys made", secret=str(self._where))
        return True

    def reset(self, found: list[Raw]) -> None:
        """It is there, or not."""
        for raw in found:
            self.apply(raw)
        if not found:
            self._missing.set()

    def apply(self, raw: Raw) -> None:
        """It is there, or is different (the table above)."""
        self._version = raw["metadata"]["resourceVersion"]
        values = raw.get("data") or {}
        if KEY not in values:
            self._missing.set()
            return
        text = Secret(ref=self._where, values=values).text(KEY)
        try:
            keys = parse_keys(text or "", f"Secret {self._where}, key {KEY}")
        except ConfigurationError as error:
            log.error("Session keys not read, the last good ones stay", error=str(error))  # noqa: TRY400
            self.loaded.set()
            return
        if keys != self.keys:
            self.keys, self._text = keys, text or ""
            log.info("Session keys read", secret=str(self._where), keys=len(keys.keys))
        self.loaded.set()

    def delete(self, raw: Raw) -> None:
        """It has gone: the keys of the moment live on in memory, and a new Secret is made."""
        del raw
        log.warning("Session keys were deleted: keeping them in a new Secret", secret=str(self._where))
        self._version = None
        self._missing.set()

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """The Secret cannot be followed."""
        if reason is not None and status == _FORBIDDEN:
            self._on_our_own(reason)

    def _on_our_own(self, reason: str) -> None:
        if not self.loaded.is_set():
            log.warning("Sessions end with this process: its keys cannot be kept", secret=str(self._where), error=reason)
            self.loaded.set()
