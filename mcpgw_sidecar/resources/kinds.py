"""The kinds of objects that the sidecar uses, as a table, and their paths in the API."""

from __future__ import annotations

import attrs

GROUP = "mcpgw.dev"
VERSION = "v1alpha1"
GATEWAY_GROUP = "gateway.networking.k8s.io"
CREDENTIAL_LABEL = f"{GROUP}/credential"
CONTROLLER = f"{GROUP}/sidecar"
"""Our `controllerName` in the status of routes. Entries of other controllers are left alone."""


@attrs.frozen(kw_only=True)
class ResourceKind:
    """One kind. `group` is empty for the core API, `selector` is a label selector for the watch.

    `needs` tells the user how to install the kind when the API server does not know it.
    """

    name: str
    plural: str
    group: str = ""
    version: str = "v1"
    selector: str = ""
    needs: str = ""

    @property
    def full_name(self) -> str:
        """The name by which kubectl and RBAC know it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        """The path of all objects, of those in a namespace, of one object or of its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(["namespaces", namespace] if namespace else []), self.plural, name, sub]
        return "/".join(part for part in parts if part)


_OURS = "mcpgw-sidecar manifests crds | kubectl apply --server-side -f -"
_GATEWAY = "install the Gateway API's CRDs"
MCP_SERVER = ResourceKind(name="MCPServer", plural="mcpservers", group=GROUP, version=VERSION, needs=_OURS)
VIRTUAL_SERVER = ResourceKind(name="MCPVirtualServer", plural="mcpvirtualservers", group=GROUP, version=VERSION, needs=_OURS)
ACCESS_POLICY = ResourceKind(name="MCPAccessPolicy", plural="mcpaccesspolicies", group=GROUP, version=VERSION, needs=_OURS)
HTTP_ROUTE = ResourceKind(name="HTTPRoute", plural="httproutes", group=GATEWAY_GROUP, needs=_GATEWAY)
# v1beta1: what every version of the Gateway API serves.
GRANT = ResourceKind(name="ReferenceGrant", plural="referencegrants", group=GATEWAY_GROUP, version="v1beta1", needs=_GATEWAY)
SERVICE = ResourceKind(name="Service", plural="services")
SECRET = ResourceKind(name="Secret", plural="secrets", selector=f"{CREDENTIAL_LABEL}=true")
CONFIG_MAP = ResourceKind(name="ConfigMap", plural="configmaps")
ANY_SECRET = ResourceKind(name=SECRET.name, plural=SECRET.plural)
EVENT = ResourceKind(name="Event", plural="events")
LEASE = ResourceKind(name="Lease", plural="leases", group="coordination.k8s.io")

CONFIG_MAP_NAME = "mcp-gateway-config"
LEASE_NAME = "mcpgw-sidecar"
SESSION_KEY_NAME = "mcpgw-sidecar-session-key"
WEBHOOK_CA_NAME = "mcpgw-sidecar-webhook-ca"
"""The objects that the sidecars share in their namespace."""

WATCHED = (MCP_SERVER, VIRTUAL_SERVER, ACCESS_POLICY, HTTP_ROUTE, GRANT, SERVICE)
"""The kinds from which the servers are resolved, besides the Secrets of some namespaces."""

EVERYWHERE = "*"
"""Stands for all namespaces."""

ESSENTIAL = frozenset({MCP_SERVER.name, HTTP_ROUTE.name, SERVICE.name})
"""Without these kinds there is no configuration.

Without one of the others there is a smaller configuration, and the status of each object says what
it lacks. Policies are waited for unless the API has none of them: a configuration without them
would be too large.
"""


def watch_name(kind: str, namespace: str | None) -> str:
    """The name of a watch: of all objects of a kind, or of those in a namespace."""
    return kind if namespace is None else f"{kind} in {namespace}"
