"""The sidecar's container: a native sidecar (an init container with restartPolicy Always)."""

from __future__ import annotations

from typing import Any

import attrs

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.envoy.settings import MAX_BODY, Endpoint
from mcpgw_sidecar.resources.objects import Ref

NAMESPACE = "mcp-system"
RUN_DIR = "/run/mcpgw"
VOLUME = "mcpgw-run"
ENVOY_DIR = f"{RUN_DIR}/envoy"
BOOTSTRAP = f"{ENVOY_DIR}/bootstrap.yaml"
ROUTER = Endpoint(path=f"{RUN_DIR}/router.sock")
BROKER = Endpoint(host="127.0.0.1", port=9091)  # gateways often listen on 8080, the default
ADMIN_PORT = 9090
HEAP = "MCPGW_ENVOY_HEAP"
_USER = 65532  # the user `nonroot` of distroless images


@attrs.frozen(kw_only=True)
class Sidecar:
    """The settings of the sidecar. `max_body` is in bytes, `access` the ConfigMap with the rules.

    `envoy_container` is the name of Envoy's container. Without it, `inject` looks for the names
    that Istio and this program use. `given` holds the names of the fields that the user set: when a
    pod has a sidecar already, that one keeps its values of the other fields, and what somebody
    added to it by hand.
    """

    image: str = f"{PROGRAM}:{__version__}"
    namespace: str = NAMESPACE
    public_hosts: tuple[str, ...] = ()
    external_names: tuple[str, ...] = ()
    secrets_in: tuple[str, ...] = ()
    token_urls: tuple[str, ...] = ()
    through: str | None = None
    envoy_container: str | None = None
    max_body: int = MAX_BODY
    access: Ref | None = None
    given: frozenset[str] = frozenset()


def container(sidecar: Sidecar, *, writes_envoy: bool, heap: str | None = None) -> dict[str, Any]:
    """The container. With `writes_envoy` it writes files for a plain Envoy, which may take `heap`.

    Istio configures its own Envoy.
    """
    arguments = [
        "run",
        "--kubernetes",
        f"--namespace={sidecar.namespace}",
        f"--router-address=unix:{ROUTER.path}",
        f"--broker-address={BROKER.host}:{BROKER.port}",
        f"--admin-address=0.0.0.0:{ADMIN_PORT}",
        *(f"--public-host={host}" for host in sidecar.public_hosts),
        *(f"--allow-external-names={name}" for name in sidecar.external_names),
        *(f"--secrets-in={namespace}" for namespace in sidecar.secrets_in),
        *(f"--allow-token-urls={url}" for url in sidecar.token_urls),
        *([f"--through-gateway={sidecar.through}"] if sidecar.through is not None else []),
        *([f"--access=configmap:{sidecar.access}"] if sidecar.access is not None else []),
        *([f"--envoy-dir={ENVOY_DIR}"] if writes_envoy else []),
        *([f"--max-body={sidecar.max_body}"] if sidecar.max_body != MAX_BODY else []),
    ]
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
    return {
        "name": PROGRAM,
        "image": sidecar.image,
        "restartPolicy": "Always",  # as an init container: it starts before Envoy and ends after it
        "args": arguments,
        "env": [
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
            *([{"name": HEAP, "value": heap}] if heap is not None else []),
        ],
        "ports": [{"name": "mcpgw-admin", "containerPort": ADMIN_PORT}],
        "startupProbe": _probe("/healthz", periodSeconds=1, failureThreshold=60),
        "readinessProbe": _probe("/readyz", periodSeconds=2),
        "livenessProbe": _probe("/healthz", periodSeconds=10),
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [mount()],
    }


def volume() -> dict[str, Any]:
    """The volume that sidecar and Envoy share: the router's socket, and Envoy's files."""
    return {"name": VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}


def mount() -> dict[str, Any]:
    """The mount of the volume, in either container."""
    return {"name": VOLUME, "mountPath": RUN_DIR}


def _probe(path: str, **more: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": ADMIN_PORT}, **more}
