"""The manifests of both gateways: Istio's, and a plain Envoy that the sidecar configures by files.

Istio also needs the user's HTTPRoutes, which are not made here.
"""

from __future__ import annotations

from typing import Any

import attrs

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.envoy.clusters import Resource
from mcpgw_sidecar.envoy.istio import IstioSettings, envoy_filter
from mcpgw_sidecar.envoy.settings import LISTENER_PORT
from mcpgw_sidecar.inbound.callers import WELL_KNOWN
from mcpgw_sidecar.manifests.container import ADMIN_PORT, BROKER, ROUTER, Sidecar
from mcpgw_sidecar.manifests.sidecar import ENVOY_CONTAINER, inject, overlay
from mcpgw_sidecar.model.names import ENDPOINT
from mcpgw_sidecar.resources.kinds import GATEWAY_GROUP, GROUP

NAMESPACE, GATEWAY = "gateway-system", "mcp-gateway"
BROKER_HOST = f"broker.{PROGRAM}.internal"
DEFAULTS = f"{PROGRAM}-gateway"
SCRAPES = f"{GROUP}/scrapes"  # the label of namespaces whose pods may read the metrics
ENVOY_IMAGE = "envoyproxy/envoy:v1.40.0"
Document = dict[str, Any]


@attrs.frozen(kw_only=True)
class Gateway:
    """A gateway in the cluster.

    `scripts` are the Lua filters by name: refused, heal, messages, calls. With `login` a
    RequestAuthentication verifies tokens.
    """

    namespace: str = NAMESPACE
    name: str = GATEWAY
    labels: dict[str, str]
    public_hosts: tuple[str, ...]
    internal_hosts: tuple[str, ...]
    scripts: dict[str, str]
    login: bool = False


def istio(gateway: Gateway, sidecar: Sidecar, dump: Any) -> list[Document]:  # noqa: ANN401  # turns a value into YAML
    """The EnvoyFilter, the route of clients to the broker, and the ConfigMap with the sidecar.

    By the ConfigMap Istio adds the sidecar to the gateways that it deploys.
    """
    return [
        _namespace(gateway),
        _filter(gateway, sidecar),
        _broker_entry(gateway),
        _broker_route(gateway),
        defaults(gateway, sidecar, dump),
    ]


def defaults(gateway: Gateway, sidecar: Sidecar, dump: Any) -> Document:  # noqa: ANN401
    """The ConfigMap with the sidecar, for Istio to merge into the Deployment of a Gateway.

    The Gateway names it in `spec.infrastructure.parametersRef`.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": DEFAULTS, "namespace": gateway.namespace},
        "data": {"deployment": dump(overlay(sidecar))},
    }


def plain_envoy(gateway: Gateway, sidecar: Sidecar) -> list[Document]:
    """A Deployment of a plain Envoy with the sidecar, its Service and its account."""
    labels = {"app.kubernetes.io/name": gateway.name}
    meta = {"name": gateway.name, "namespace": gateway.namespace, "labels": labels}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 101,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    envoy = {
        "name": sidecar.envoy_container or ENVOY_CONTAINER,
        "image": ENVOY_IMAGE,
        "ports": [{"name": "mcp", "containerPort": LISTENER_PORT}],
        "readinessProbe": {"tcpSocket": {"port": "mcp"}, "periodSeconds": 2},  # whether the listener is there
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": security,
    }
    pod = {"serviceAccountName": gateway.name, "containers": [envoy]}
    deployment: Document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": dict(labels)}, "spec": pod}},
    }
    inject(deployment, sidecar)
    ports = [{"name": "mcp", "port": LISTENER_PORT, "targetPort": "mcp"}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
    return [_namespace(gateway), account, deployment, service]


def network(gateway: Gateway) -> list[Document]:
    """NetworkPolicies for the pods of both gateways: the admin port is for those who are named.

    Every other port stays open: clients come by ports that only the Gateway knows. Probes come from
    the node, which no policy keeps out.
    """
    below, above = ({"port": 1, "endPort": ADMIN_PORT - 1}, {"port": ADMIN_PORT + 1, "endPort": 65535})
    metrics = {"from": [{"namespaceSelector": {"matchLabels": {SCRAPES: "true"}}}], "ports": [{"port": ADMIN_PORT}]}
    pods = {f"{PROGRAM}-istio": gateway.labels, PROGRAM: {"app.kubernetes.io/name": gateway.name}}
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": gateway.namespace},
            "spec": {
                "podSelector": {"matchLabels": dict(labels)},
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": [below, above]}, metrics],
            },
        }
        for name, labels in pods.items()
    ]


def _namespace(gateway: Gateway) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": gateway.namespace}}


def _filter(gateway: Gateway, sidecar: Sidecar) -> Resource:
    return envoy_filter(
        IstioSettings(
            name=PROGRAM,
            namespace=gateway.namespace,
            labels=gateway.labels,
            public_hosts=gateway.public_hosts,
            internal_hosts=gateway.internal_hosts,
            broker=BROKER,
            router=ROUTER,
            max_body=sidecar.max_body,
            refused=gateway.scripts["refused"],
            heal=gateway.scripts["heal"],
            messages=gateway.scripts["messages"],
            calls=gateway.scripts["calls"],
            passed=gateway.scripts["passed"],
            login=gateway.login,
            own_requests=sidecar.through is not None,
        )
    )


def _broker_entry(gateway: Gateway) -> Document:
    """A host name for the broker, for HTTPRoutes to name.

    Each gateway pod has its own broker, on loopback.
    """
    port = {"number": BROKER.port, "name": "http", "protocol": "HTTP"}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": PROGRAM, "namespace": gateway.namespace},
        "spec": {
            "hosts": [BROKER_HOST],
            "exportTo": ["."],
            "location": "MESH_EXTERNAL",
            "resolution": "STATIC",
            "ports": [port],
            "endpoints": [{"address": BROKER.host}],
        },
    }


def _broker_route(gateway: Gateway) -> Document:
    """The route of clients to the broker.

    Calls leave it, because the router chooses the route of a server.
    """
    backend = {"group": "networking.istio.io", "kind": "Hostname", "name": BROKER_HOST, "port": BROKER.port}
    return {
        "apiVersion": f"{GATEWAY_GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "mcp-route", "namespace": gateway.namespace},
        "spec": {
            "parentRefs": [{"name": gateway.name}],
            **({"hostnames": list(gateway.public_hosts)} if "*" not in gateway.public_hosts else {}),
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in (ENDPOINT, WELL_KNOWN)],
                    "backendRefs": [backend],
                }
            ],
        },
    }
