"""Configuration and session keys from Kubernetes: its objects, or another sidecar's ConfigMap."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from mcpgw_sidecar.app.inputs import Inputs, Task, access_tasks, with_access
from mcpgw_sidecar.app.keyfile import KeyFile
from mcpgw_sidecar.app.settings import Settings
from mcpgw_sidecar.app.tasks import publisher, wait_keys
from mcpgw_sidecar.app.values import Values
from mcpgw_sidecar.kube.api import KubeApi
from mcpgw_sidecar.kube.configmap import ConfigMapWriter
from mcpgw_sidecar.kube.follower import ACCESS, ConfigMapSource, configuration
from mcpgw_sidecar.kube.keys import SecretKeys
from mcpgw_sidecar.kube.lease import LeaseHolder
from mcpgw_sidecar.kube.source import KubernetesSource
from mcpgw_sidecar.kube.writer import Writer
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.resources.kinds import LEASE_NAME
from mcpgw_sidecar.resources.lookup import Permissions
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched


@contextlib.asynccontextmanager
async def opened(settings: Settings, metrics: Metrics) -> AsyncIterator[Inputs]:
    """The inputs of the settings. Raises UnavailableError."""
    async with KubeApi.opened() as api:
        yield _inputs(settings, api, metrics)


def _inputs(settings: Settings, api: KubeApi, metrics: Metrics) -> Inputs:
    """The inputs from the watched objects, or from the ConfigMap that another sidecar writes."""
    ref = settings.config if isinstance(settings.config, Ref) else None
    namespace = settings.namespace or (ref.namespace if ref is not None else api.namespace)
    first = Desired(source="kubernetes" if ref is None else f"configmap:{ref}")
    values = Values(Watched(with_access(first, settings.access)))
    publish = publisher(metrics, values.desired)
    more: dict[str, Any] = {}
    tasks: list[Task]
    if ref is not None:
        what = configuration(has_access=settings.access is not None)
        config_map = ConfigMapSource(api, ref, what, values.desired, publish)
        config_loaded, tasks = config_map.loaded, [config_map.wait_following]
    else:
        lease = _lease(api, namespace)
        allowed = Permissions(settings.external_names, settings.secrets_in, settings.token_urls)
        source = KubernetesSource(api, values.desired, publish, allowed)
        config_map_writer = ConfigMapWriter(
            api=api, namespace=lease.namespace, desired=values.desired, loaded=source.loaded, leading=lease.held
        )
        config_loaded = source.loaded
        tasks = [source.wait_following, config_map_writer.wait_writing, *_writer_tasks(api, source, lease, values)]
        more = {"writes": partial(_writes, lease, config_map_writer), "incomplete": source.incomplete}
    loaded_events = [config_loaded]
    if isinstance(settings.access, Ref):
        access_map = ConfigMapSource(api, settings.access, ACCESS, values.desired, publish)
        loaded_events.append(access_map.loaded)
        tasks.append(access_map.wait_following)
    tasks += access_tasks(settings.access, values, publish)
    if settings.session_key_file is not None:
        file = KeyFile(settings.session_key_file)
        tasks.append(partial(wait_keys, file))
        return Inputs(
            values=values,
            keys=lambda: file.keys,
            keys_error=lambda: file.error,
            loaded=tuple(loaded_events),
            tasks=tuple(tasks),
            **more,
        )
    secret = SecretKeys(api, namespace)
    tasks.append(secret.wait_following)
    return Inputs(
        values=values,
        keys=lambda: secret.keys,
        keys_error=lambda: secret.error,
        loaded=(*loaded_events, secret.loaded),
        tasks=tuple(tasks),
        **more,
    )


def _writes(lease: LeaseHolder, config_map: ConfigMapWriter) -> tuple[bool, str | None]:
    return lease.held.value, lease.error or (config_map.error if lease.held.value else None)


def _lease(api: KubeApi, namespace: str) -> LeaseHolder:
    # Pods of two namespaces may have one name, and share the Lease.
    pod = f"{os.environ.get('POD_NAMESPACE') or api.namespace}/{os.environ.get('POD_NAME') or socket.gethostname()}"
    return LeaseHolder(api, Ref(namespace, LEASE_NAME), f"{pod}_{secrets.token_hex(4)}")


def _writer_tasks(api: KubeApi, source: KubernetesSource, lease: LeaseHolder, values: Values) -> list[Task]:
    """The tasks that write status; only the holder of the Lease writes."""
    writer = Writer(
        api=api,
        source=source,
        identity=lease.identity,
        leading=lease.held,
        statuses=values.statuses,
        live=values.live,
    )
    return [lease.wait_holding, writer.wait_writing]
