"""List and watch one kind of object, for ever.

==========  ==================================  ==================================================
state       event                               next
==========  ==================================  ==================================================
listing     all pages are there                 watching, from the version of the list
watching    an object, a bookmark               watching, from its version
watching    the server ends the watch           watching again, from the last version
any         the API's version is below ours     listing: etcd was restored from a backup
watching    410: the version is too old         listing
any         an error, silence for `SILENCE` s   waiting (back-off), then as before
any         404: the API has no such kind       waiting (back-off), then listing
==========  ==================================  ==================================================

The version advances only after the sink has the object: so no change is lost, but one may come
twice.
"""

from __future__ import annotations

import json
import random
from typing import Protocol

import attrs
import trio

from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.kinds import ResourceKind
from mcpgw_sidecar.runtime.backoff import Backoff

log = get_logger(__name__)

PAGE = 500  # objects of a page of a list
WATCH_TIME = 290  # seconds of one watch, and up to a fifth more so that not all end at once
SILENCE = 90.0  # seconds after which the API server is lost: it sends a bookmark each minute
RETRY_BASE = 0.25  # seconds
RETRY_CAP = 10.0  # seconds within which we see that an API server or a CRD is (again) there
QUICK = 1.0  # seconds: after a shorter watch we back off, or a faulty proxy would make us loop
MAX_LINE = 16 << 20  # bytes of one event; etcd takes objects of 1.5 MiB
_GONE = 410
_RELIST = frozenset({400, 403, 404, 405, _GONE})  # statuses after which the version is of no use


class Sink(Protocol):
    """Receives the objects of a kind."""

    def reset(self, raws: list[Raw]) -> None:
        """These are all objects that exist."""

    def apply(self, raw: Raw) -> None:
        """An object was added or modified."""

    def delete(self, raw: Raw) -> None:
        """An object was deleted."""

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """Why the watch fails at the moment; None when it works again."""


@attrs.define
class Reflector:
    """Lists and watches one kind: in all namespaces, in one, or a single object in one."""

    api: KubeApi
    kind: ResourceKind
    sink: Sink
    namespace: str | None = None
    name: str | None = None
    _version: str | None = None
    _reason: str | None = None
    _failures: int = 0
    _watch_start: float | None = None

    async def wait_reflecting(self) -> None:
        """List and watch (the table above)."""
        backoff = Backoff(RETRY_BASE, RETRY_CAP)
        while True:
            start, self._watch_start = trio.current_time(), None
            try:
                if self._version is None or await self._wait_went_back(self._version):
                    await self._wait_listed()
                await self._wait_watched()
                if trio.current_time() - start >= QUICK:
                    self._failures = 0
                    backoff.reset()
                    continue
            except ApiError as error:
                if error.status in _RELIST:
                    self._version = None
                self._failures = 1 if self._was_stable() else self._failures + 1
                # One broken connection is not reported: a replaced API server breaks all of them.
                if error.status != _GONE and (error.status or self._failures > 1):
                    self._trouble(self._explanation(error), error.status)
                if trio.current_time() - start >= SILENCE:
                    backoff.reset()
            await trio.sleep(backoff.next())

    def _was_stable(self) -> bool:
        """Whether the watch that has just ended lasted for `QUICK` seconds."""
        return self._watch_start is not None and trio.current_time() - self._watch_start >= QUICK

    def _explanation(self, error: ApiError) -> str:
        match error.status:
            case 404:
                return f"the API server does not know {self.kind.full_name}: {self.kind.needs or 'is it a Kubernetes API?'}"
            case 403:
                return f"not allowed to watch {self.kind.full_name}: see `{_MANIFESTS}` for the rights that are needed"
            case _:
                return str(error)

    def _trouble(self, reason: str | None, status: int = 0) -> None:
        if reason is not None and reason != self._reason:
            log.warning("Kubernetes watch failed, will retry with backoff", resource=self.kind.full_name, error=reason)
        if reason is None and self._reason is not None:
            log.info("Kubernetes watch goes on", resource=self.kind.full_name)
        self._reason = reason
        self.sink.trouble(reason, status)

    def _params(self, more: dict[str, str]) -> dict[str, str]:
        params = {"labelSelector": self.kind.selector} if self.kind.selector else {}
        if self.name is not None:
            params["fieldSelector"] = f"metadata.name={self.name}"
        return params | more

    async def _wait_went_back(self, version: str) -> bool:
        """Whether the API is at an older version than ours: etcd was restored from a backup.

        A watch from a version that is yet to come brings nothing. Versions are numbers that grow
        (Kubernetes API concepts); of others nothing is known.
        """
        page = await self.api.wait_json("GET", self.kind.path(self.namespace), params=self._params({"limit": "1"}))
        newest = str(page["metadata"].get("resourceVersion"))
        return newest.isdecimal() and version.isdecimal() and int(newest) < int(version)

    async def _wait_listed(self) -> None:
        objects: list[Raw] = []
        continuation: dict[str, str] = {}
        while True:
            page = await self.api.wait_json(
                "GET", self.kind.path(self.namespace), params=self._params({"limit": str(PAGE), **continuation})
            )
            items, version = page.get("items"), page["metadata"].get("resourceVersion")
            if not isinstance(items, list) or not all(map(_is_object, items)) or not isinstance(version, str):
                raise ApiError(f"the list of {self.kind.full_name} cannot be read")
            objects += items
            token = page["metadata"].get("continue")
            if not token:
                break
            continuation = {"continue": token}
        self.sink.reset(objects)
        self._version = version

    async def _wait_watched(self) -> None:
        seconds = WATCH_TIME + random.randrange(WATCH_TIME // 5)  # noqa: S311  # jitter, not a secret
        params = {
            "watch": "1",
            "resourceVersion": self._version or "",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        async with self.api.stream(
            "GET", self.kind.path(self.namespace), params=self._params(params), silence=SILENCE
        ) as answer:
            self._watch_start = trio.current_time()
            self._trouble(None)
            buffer = bytearray()
            async for chunk in answer.aiter_bytes():
                buffer += chunk
                while (end := buffer.find(b"\n")) >= 0:
                    self._event(bytes(buffer[:end]))
                    del buffer[: end + 1]
                if len(buffer) > MAX_LINE:
                    raise ApiError(f"sent an event of more than {MAX_LINE >> 20} MiB")

    def _event(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            event = json.loads(line)
            kind, value = event["type"], event["object"]
            version = None if kind == "ERROR" else value["metadata"]["resourceVersion"]
        except (ValueError, KeyError, TypeError):
            raise ApiError(f"an event of {self.kind.full_name} cannot be read") from None
        match kind:
            case "ERROR":
                message, code = _error(value)
                raise ApiError(message, status=code)
            case "DELETED" | "ADDED" | "MODIFIED" if not _is_object(value):
                raise ApiError(f"an event of {self.kind.full_name} cannot be read")
            case "DELETED":
                self.sink.delete(value)
            case "ADDED" | "MODIFIED":
                self.sink.apply(value)
            case _:  # BOOKMARK: only its version counts
                pass
        self._version = version
        self._failures = 0


_MANIFESTS = "mcpgw-sidecar manifests rbac"


def _is_object(value: object) -> bool:
    """Whether a value is an API object with the metadata that reflector and sinks rely on."""
    meta = value.get("metadata") if isinstance(value, dict) else None
    return isinstance(meta, dict) and isinstance(meta.get("name"), str) and isinstance(meta.get("resourceVersion"), str)


def _error(value: object) -> tuple[str, int]:
    status = value if isinstance(value, dict) else {}
    code = status.get("code")
    return str(status.get("message", "unknown error")), code if isinstance(code, int) else 0
