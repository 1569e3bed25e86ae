"""Objects as users write them."""

from __future__ import annotations

from typing import Any

NAMESPACE = "mcp-test"


def service(name: str, port: int, namespace: str = NAMESPACE, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": port, "targetPort": port}]
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports, **spec}}


def route(name: str, backend: str, port: int, namespace: str = NAMESPACE, **spec: Any) -> dict[str, Any]:
    """An HTTPRoute NAME-route for NAME.mcp.local."""
    parents = [{"name": "mcp-gateway", "namespace": "gateway-system", "sectionName": "mcps"}]
    rules = [{"backendRefs": [{"name": backend, "port": port}]}]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": f"{name}-route", "namespace": namespace},
        "spec": {"parentRefs": parents, "hostnames": [f"{name}.mcp.local"], "rules": rules, **spec},
    }


def mcp_server(name: str, target: str, prefix: str = "", namespace: str = NAMESPACE, **spec: Any) -> dict[str, Any]:
    wanted = {"targetRef": {"name": target}, **({"toolPrefix": prefix} if prefix else {}), **spec}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "mcpgw.dev/v1alpha1", "kind": "MCPServer", "metadata": meta, "spec": wanted}


def server_objects(name: str, port: int, prefix: str = "", namespace: str = NAMESPACE, **spec: Any) -> list[dict[str, Any]]:
    """Service, HTTPRoute and MCPServer of one server on a port of this machine."""
    return [
        service(name, port, namespace),
        route(name, name, port, namespace),
        mcp_server(name, f"{name}-route", prefix, namespace, **spec),
    ]
