"""The sources of the configuration and the session keys: files, or Kubernetes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import trio

from mcpgw_sidecar.app.keyfile import KeyFile
from mcpgw_sidecar.app.settings import Settings, key_file
from mcpgw_sidecar.app.tasks import loaded, publisher, wait_keys
from mcpgw_sidecar.app.values import Values
from mcpgw_sidecar.config.source import load, load_access, wait_following, wait_following_access
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.sessions.tokens import SessionKeys

Task = Callable[[], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Inputs:
    """The published values with the configuration, the current keys, and the tasks to follow both.

    The events of `loaded` are set when configuration and keys are loaded: from files at once, so
    there are no events; from Kubernetes when the API has answered. `writes` says whether this
    sidecar writes into the cluster, and why no sidecar can; None where there is nothing to write.
    `keys_error` says why no session key is valid, `incomplete` what was never listed.
    """

    values: Values
    keys: Callable[[], SessionKeys]
    keys_error: Callable[[], str | None]
    loaded: tuple[trio.Event, ...] = ()
    tasks: tuple[Task, ...]
    writes: Callable[[], tuple[bool, str | None]] | None = None
    incomplete: Callable[[], str | None] = lambda: None


@contextlib.asynccontextmanager
async def opened(settings: Settings, metrics: Metrics) -> AsyncIterator[Inputs]:
    """The inputs of the settings. Raises ConfigurationError or UnavailableError."""
    if isinstance(settings.config, Path):
        yield _of_files(settings, settings.config, metrics)
        return
    from mcpgw_sidecar.app import cluster  # noqa: PLC0415  # 25 ms that a sidecar with a file does not need

    async with cluster.opened(settings, metrics) as inputs:
        yield inputs


def _of_files(settings: Settings, config: Path, metrics: Metrics) -> Inputs:
    desired = load(config, has_access=settings.access is not None)
    values = Values(Watched(with_access(desired, settings.access)))
    loaded(metrics, values.desired.value, None)
    keys, publish = KeyFile(key_file(settings)), publisher(metrics, values.desired)
    follow_file = partial(wait_following, config, values.current, publish, has_access=settings.access is not None)
    return Inputs(
        values=values,
        keys=lambda: keys.keys,
        keys_error=lambda: keys.error,
        tasks=(follow_file, *access_tasks(settings.access, values, publish), partial(wait_keys, keys)),
    )


def with_access(desired: Desired, place: Path | Ref | None) -> Desired:
    """A configuration with the access document of another file. Raises ConfigurationError."""
    return attrs.evolve(desired, access=load_access(place)) if isinstance(place, Path) else desired


def access_tasks(place: Path | Ref | None, values: Values, publish: Callable[[Desired], None]) -> list[Task]:
    """The tasks that follow the file with the access document."""
    return [partial(wait_following_access, place, values.current, publish)] if isinstance(place, Path) else []
