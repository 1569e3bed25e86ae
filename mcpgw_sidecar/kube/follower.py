"""The configuration from a ConfigMap that another sidecar wrote, or the access document."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio

from mcpgw_sidecar.config.decode import decode, decode_access
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.resources.configmap import KEY, STALE
from mcpgw_sidecar.resources.kinds import CONFIG_MAP
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched

ACCESS_KEY: Final = "access.yaml"


@attrs.frozen(kw_only=True)
class Followed:
    """What a ConfigMap holds.

    `read` gives the value with its content, or raises ConfigurationError; `error` is the field that
    says why it is refused; `missing` says who should make the ConfigMap.
    """

    error: str
    missing: str
    read: Callable[[Raw, Desired, str], Desired]


class ConfigMapSource:
    """A part of `desired` from a ConfigMap, which is watched.

    When the ConfigMap is broken or deleted, the last good content stays; before the first good one
    nothing is loaded.
    """

    def __init__(
        self, api: KubeApi, ref: Ref, what: Followed, desired: Watched[Desired], publish: Callable[[Desired], None]
    ) -> None:
        self._api = api
        self._ref = ref
        self._what = what
        self._desired = desired
        self._publish = publish
        self._trouble: str | None = None
        self.loaded = trio.Event()

    async def wait_following(self) -> None:
        """Publish the content after each change of the ConfigMap, for ever."""
        reflector = Reflector(self._api, CONFIG_MAP, self, namespace=self._ref.namespace, name=self._ref.name)
        await reflector.wait_reflecting()

    def reset(self, raws: list[Raw]) -> None:
        """The ConfigMap exists, or `raws` is empty."""
        for raw in raws:
            self.apply(raw)
        if not raws:
            self._refuse(f"ConfigMap {self._ref} not found: {self._what.missing}")

    def apply(self, raw: Raw) -> None:
        """The ConfigMap was added or modified."""
        now = self._desired.value
        try:
            new = self._what.read(raw, now, f"configmap:{self._ref}")
        except ConfigurationError as error:
            self._refuse(str(error))
            return
        if new == now and self.loaded.is_set():
            return
        self.loaded.set()
        self._publish(attrs.evolve(new, generation=now.generation + 1, loaded_at=time.time()))

    def delete(self, raw: Raw) -> None:
        """The ConfigMap was deleted."""
        del raw
        self._refuse(f"ConfigMap {self._ref} was deleted: the last good configuration stays")

    def trouble(self, reason: str | None, status: int = 0) -> None:
        """Why the watch fails; None when it works again.

        A ConfigMap that changed meanwhile follows by `apply`.
        """
        del status
        now = self._error
        if (reason is None and now == self._trouble) or (reason is not None and now != reason):
            self._publish(self._with_error(reason))
        self._trouble = reason

    @property
    def _error(self) -> str | None:
        error: str | None = getattr(self._desired.value, self._what.error)
        return error

    def _with_error(self, reason: str | None) -> Desired:
        by_name: dict[str, str | None] = {self._what.error: reason}
        return attrs.evolve(self._desired.value, **by_name)  # type: ignore[arg-type]  # a field of texts

    def _refuse(self, reason: str) -> None:
        if self._error != reason:
            new = self._with_error(reason)
            self._publish(attrs.evolve(new, failed_loads=new.failed_loads + 1))


def _read_configuration(raw: Raw, now: Desired, source: str, *, has_access: bool) -> Desired:
    stale = ((raw.get("metadata") or {}).get("annotations") or {}).get(STALE)
    fault = f"{source}: {stale}" if stale else None
    content = decode(_text(raw, KEY, source, fault), source, has_access=has_access)
    # Who may write it must not make us send files of this pod (its token, say) to a server.
    problems = [
        f"{source}: server {server.name}: {key} is for configuration files alone: remove it"
        for server in content.servers
        for key, path in server.files
        if path is not None
    ]
    if problems:
        raise ConfigurationError(problems)
    return attrs.evolve(
        now,
        servers=content.servers,
        virtual_servers=content.virtual_servers,
        access=content.access or now.access,
        policies=content.policies,
        error=fault,
    )


def _read_access(raw: Raw, now: Desired, source: str) -> Desired:
    access = decode_access(_text(raw, ACCESS_KEY, source), source)
    issuers = access.authentication.issuers if access.authentication is not None else ()
    paths = [path for each in issuers for path in (each.jwks_file, each.ca_file)]
    paths += [access.limits.service.ca_file] if access.limits.service is not None else []
    if any(path is not None for path in paths):  # they would be those of the gateway's pod
        raise ConfigurationError([f"{source}: jwksFile and caFile are for --access FILE alone: remove them"])
    return attrs.evolve(now, access=access, access_error=None)


def _text(raw: Raw, key: str, source: str, fault: str | None = None) -> str:
    text = (raw.get("data") or {}).get(key)
    if not isinstance(text, str):
        raise ConfigurationError([fault or f"{source}: has no key {key}"])
    return text


def configuration(*, has_access: bool) -> Followed:
    """A configuration; with `has_access` the access document is elsewhere."""
    missing, read = "the sidecar that watches MCPServers writes it", partial(_read_configuration, has_access=has_access)
    return Followed(error="error", missing=missing, read=read)


ACCESS: Final = Followed(error="access_error", missing=f"make it, with the key {ACCESS_KEY}", read=_read_access)
