"""Where configuration and session keys come from: files, or Kubernetes."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import trio

from mcpgw_sidecar.app.settings import Settings, key_file
from mcpgw_sidecar.app.tasks import loaded, wait_configuration, wait_keys
from mcpgw_sidecar.app.values import Values
from mcpgw_sidecar.config.keys import KeyFile
from mcpgw_sidecar.config.source import load
from mcpgw_sidecar.kube.api import KubeApi
from mcpgw_sidecar.kube.configmap import ConfigMapWriter
from mcpgw_sidecar.kube.keys import SecretKeys
from mcpgw_sidecar.kube.lease import LeaseHolder
from mcpgw_sidecar.kube.source import ConfigMapSource, KubernetesSource
from mcpgw_sidecar.kube.writer import Writer
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.resources.kinds import LEASE_NAME
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.sessions.tokens import SessionKeys

Task = Callable[[], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Inputs:
    """`values` with the configuration in them, the keys of the moment, and the tasks that follow both for ever.

    `loaded` are set once each of them is there: at once with files, when the API has answered with Kubernetes. `lease` is held by whoever
    writes into the cluster.
    """

    values: Values
    keys: Callable[[], SessionKeys]
    loaded: tuple[trio.Event, ...] = ()
    tasks: tuple[Task, ...]
    lease: LeaseHolder | None = None


@contextlib.asynccontextmanager
async def opened(settings: Settings, metrics: Metrics) -> AsyncIterator[Inputs]:
    """The inputs that the settings name. Raises ConfigurationError or UnavailableError."""
    if isinstance(settings.config, Path):
        yield _of_files(settings, settings.config, metrics)
        return
    async with KubeApi.opened() as api:
        yield _of_kubernetes(settings, api, metrics)


def _of_files(settings: Settings, config: Path, metrics: Metrics) -> Inputs:
    values = Values(Watched(load(config)))
    loaded(metrics, values.desired.value, None)
    keys = KeyFile(key_file(settings))
    following = partial(wait_configuration, config, values.desired, metrics)
    return Inputs(values=values, keys=lambda: keys.keys, tasks=(following, partial(wait_keys, keys)))


def _of_kubernetes(settings: Settings, api: KubeApi, metrics: Metrics) -> Inputs:
    """The watched objects, or the ConfigMap that another sidecar makes of them."""
    where = settings.config if isinstance(settings.config, Ref) else None
    namespace = settings.namespace or (where.namespace if where is not None else api.namespace)
    values = Values(Watched(Desired(source="kubernetes" if where is None else f"configmap:{where}")))

    def publish(new: Desired) -> None:
        old = values.desired.value
        if values.desired.publish(new):
            loaded(metrics, new, old)

    lease: LeaseHolder | None = None
    tasks: list[Task]
    if where is not None:
        followed = ConfigMapSource(api, where, values.desired, publish)
        ready, tasks = followed.loaded, [followed.wait_following]
    else:
        watched, lease = KubernetesSource(api, values.desired, publish), _lease(api, namespace)
        ready, tasks = watched.loaded, [watched.wait_following, *_writing(api, watched, lease, values)]
    if settings.session_key_file is not None:
        file = KeyFile(settings.session_key_file)
        tasks.append(partial(wait_keys, file))
        return Inputs(values=values, keys=lambda: file.keys, loaded=(ready,), tasks=tuple(tasks), lease=lease)
    secret = SecretKeys(api, namespace)
    tasks.append(secret.wait_following)
    return Inputs(values=values, keys=lambda: secret.keys, loaded=(ready, secret.loaded), tasks=tuple(tasks), lease=lease)


def _lease(api: KubeApi, namespace: str) -> LeaseHolder:
    # Pods of two namespaces may have one name, and share the Lease.
    pod = f"{os.environ.get('POD_NAMESPACE') or api.namespace}/{os.environ.get('POD_NAME') or socket.gethostname()}"
    return LeaseHolder(api, Ref(namespace, LEASE_NAME), f"{pod}_{secrets.token_hex(4)}")


def _writing(api: KubeApi, source: KubernetesSource, lease: LeaseHolder, values: Values) -> list[Task]:
    """What only the holder of the Lease does."""
    writer = Writer(
        api=api,
        source=source,
        identity=lease.identity,
        leading=lease.held,
        statuses=values.statuses,
        live=values.live,
    )
    config_map = ConfigMapWriter(
        api=api, namespace=lease.namespace, desired=values.desired, loaded=source.loaded, leading=lease.held
    )
    return [lease.wait_holding, writer.wait_writing, config_map.wait_writing]
