"""An MCPServer to the server that it stands for: through its HTTPRoute to a Service (reference/seed-system.md A.3.1).

The ladder, first failure wins, and a failure costs this MCPServer alone:

1. targetRef is an HTTPRoute                       InvalidTargetRef
2. in another namespace: a ReferenceGrant there    RefNotPermitted
3. the HTTPRoute exists                            RouteNotFound
4. its first rule's first backend is a Service     NoBackend, InvalidBackend
5. in another namespace: a ReferenceGrant there    RefNotPermitted
6. the Service exists                              ServiceNotFound
7. an ExternalName is not this pod itself          InvalidBackend
8. the route's first hostname can be a Host        NoHostname
9. all of it can stand in a configuration          InvalidSpec

While a kind cannot be watched, what is missing of it may be there: the words say so.

A credential that is missing or cannot be used costs the credential: the server stays, and its status says so (InvalidCredential).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.resources.kinds import CREDENTIAL_LABEL, GATEWAY_GROUP, GRANT, GROUP, HTTP_ROUTE, MCP_SERVER, SERVICE
from mcpgw_sidecar.resources.objects import Backend, Grant, HttpRoute, McpServer, Ref, Secret, Service

CLUSTER_DOMAIN = "cluster.local"
MAX_NAME = 253  # characters of a server's name (config/schema.py)
MAX_LABEL = 63  # characters between two dots of a host name (RFC 1035 section 2.3.4)
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_PREFIX = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})?")
_PATH = re.compile(r"/[!-\"$-~]*")  # visible ASCII; a fragment (#) has no place in a request


@attrs.frozen(kw_only=True)
class Problem:
    """Why an object does not stand for a server, or stands for one that lacks something: the words of its Ready condition."""

    reason: str
    message: str


Dependency = tuple[str, str, str]
"""Kind, namespace and name of something that a resolution looked at, there or not; all grants of a namespace are one."""


class Lookup(Protocol):
    """Where the objects are; None for one that is not there. What was asked for is a dependency."""

    def route(self, ref: Ref) -> HttpRoute | None:
        """An HTTPRoute."""

    def service(self, ref: Ref) -> Service | None:
        """A Service."""

    def secret(self, ref: Ref) -> Secret | None:
        """A labelled Secret."""

    def grants(self, namespace: str) -> Iterable[Grant]:
        """The ReferenceGrants of a namespace."""

    def troubles(self) -> Mapping[str, str]:
        """Kinds that cannot be watched, with the reason."""


@attrs.frozen(kw_only=True)
class Resolution:
    """The server, or None with the reason; with a server, what it lacks."""

    server: Server | None
    problem: Problem | None


def resolve(found: McpServer, lookup: Lookup) -> Resolution:
    """Climb the ladder."""
    route = _route(found, lookup)
    if isinstance(route, Problem):
        return Resolution(server=None, problem=route)
    reached = _reached(route, lookup)
    if isinstance(reached, Problem):
        return Resolution(server=None, problem=reached)
    origin, hostname = reached
    fault = _fault(found, str(route.ref), urlsplit(origin).hostname or "", hostname)
    if fault is not None:
        return Resolution(server=None, problem=Problem(reason="InvalidSpec", message=fault))
    credential = _credential(found, lookup)
    server = Server(
        name=ServerName(str(route.ref)),
        url=f"{origin}{found.path}",
        hostname=hostname,
        tool_prefix=found.prefix,
        credential=credential if isinstance(credential, str) else None,
    )
    return Resolution(server=server, problem=credential if isinstance(credential, Problem) else None)


def _route(found: McpServer, lookup: Lookup) -> HttpRoute | Problem:
    if found.group != GATEWAY_GROUP:
        message = f'invalid targetRef group "{found.group}": only {GATEWAY_GROUP} is supported'
        return Problem(reason="InvalidTargetRef", message=message)
    if found.kind != HTTP_ROUTE.name:
        message = f'invalid targetRef kind "{found.kind}": only {HTTP_ROUTE.name} is supported'
        return Problem(reason="InvalidTargetRef", message=message)
    source = (GROUP, MCP_SERVER.name, found.ref.namespace)
    if not _permitted(source, found.route, GATEWAY_GROUP, HTTP_ROUTE.name, lookup):
        return _not_permitted(source, found.route, GATEWAY_GROUP, HTTP_ROUTE.name, lookup)
    route = lookup.route(found.route)
    if route is None:
        message = f"HTTPRoute {found.route} not found: create it, or change targetRef"
        return _missing("RouteNotFound", message, HTTP_ROUTE.name, lookup)
    return route


def _reached(route: HttpRoute, lookup: Lookup) -> tuple[str, str] | Problem:
    """Scheme, host and port of the server, and the name by which Envoy routes to it."""
    backend = route.backend
    if backend is None:
        message = f"HTTPRoute {route.ref} has no backend references: its first rule needs a Service as backend"
        return Problem(reason="NoBackend", message=message)
    if not backend.name:
        return Problem(reason="InvalidBackend", message=f"HTTPRoute {route.ref}: backend reference has no name")
    if backend.kind != SERVICE.name or backend.group:
        message = f"HTTPRoute {route.ref}: backend reference is not a Service: {backend.kind}"
        return Problem(reason="InvalidBackend", message=message)
    target, source = Ref(backend.namespace, backend.name), (GATEWAY_GROUP, HTTP_ROUTE.name, route.ref.namespace)
    if not _permitted(source, target, "", SERVICE.name, lookup):
        return _not_permitted(source, target, "", SERVICE.name, lookup)
    service = lookup.service(target)
    if service is None:
        message = f"Service {target} not found: create it, or change the backend of HTTPRoute {route.ref}"
        return _missing("ServiceNotFound", message, SERVICE.name, lookup)
    return _address(route, backend, service)


def _address(route: HttpRoute, backend: Backend, service: Service) -> tuple[str, str] | Problem:
    https = any("https" in str(parent.get("sectionName", "")) for parent in route.parent_refs)
    port = f":{backend.port}" if backend.port is not None else ""
    if service.external_name is not None:
        host = service.external_name.rstrip(".").lower()
        if _is_here(host):
            message = f"Service {service.ref}: externalName {host} is the gateway's own pod or node, where no MCP server is"
            return Problem(reason="InvalidBackend", message=message)
        scheme = "https" if https or backend.port in service.https else "http"
        return f"{scheme}://{host}{port}", host
    hostname = route.hostnames[0] if route.hostnames else ""
    if not hostname or hostname.startswith("*"):
        what = f"its first is {hostname}, a wildcard" if hostname else "it has none"
        message = f"HTTPRoute {route.ref} must have at least one hostname for MCP backend routing: {what}"
        return Problem(reason="NoHostname", message=message)
    scheme = "https" if https else "http"
    return f"{scheme}://{service.ref.name}.{service.ref.namespace}.svc.{CLUSTER_DOMAIN}{port}", hostname


def _permitted(source: tuple[str, str, str], target: Ref, group: str, kind: str, lookup: Lookup) -> bool:
    if source[2] == target.namespace:
        return True
    return any(grant.allows(source, group, kind, target.name) for grant in lookup.grants(target.namespace))


def _is_here(host: str) -> bool:
    """Whether a name is an address of the pod itself or of its node: whoever may write a Service must not reach what listens there."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _fault(found: McpServer, name: str, host: str, hostname: str) -> str | None:
    """What a configuration could not hold, though the API took it: it would cost all the others."""
    if not _PREFIX.fullmatch(found.prefix) or not _PATH.fullmatch(found.path):
        return "toolPrefix or path cannot be used: recreate the MCPServer with the CRD of this version"
    if len(name) > MAX_NAME:
        return f"namespace and name of the HTTPRoute have more than {MAX_NAME} characters together: shorten one"
    for each in (host, hostname):
        if not _HOST.fullmatch(each) or any(not 0 < len(label) <= MAX_LABEL for label in each.split(".")):
            return f"{each[:MAX_NAME]!r} is no host name that can be reached: change the Service or the HTTPRoute"
    return None


def _missing(reason: str, message: str, kind: str, lookup: Lookup) -> Problem:
    """Something is not there, as far as we can see."""
    trouble = lookup.troubles().get(kind)
    return Problem(reason=reason, message=message if trouble is None else f"{message} (or it is there, but: {trouble})")


def _not_permitted(source: tuple[str, str, str], target: Ref, group: str, kind: str, lookup: Lookup) -> Problem:
    message = (
        f"reference to {kind} {target} is not permitted: create a ReferenceGrant in {target.namespace} "
        f"from {source[1]} ({source[0]}) in {source[2]} to {kind} ({group or 'core'})"
    )
    return _missing("RefNotPermitted", message, GRANT.name, lookup)


def _credential(found: McpServer, lookup: Lookup) -> str | Problem | None:
    if found.credential is None:
        return None
    name, key = found.credential
    ref = Ref(found.ref.namespace, name)
    secret = lookup.secret(ref)
    if secret is None:
        why = lookup.troubles().get("Secret")
        fault = f'Secret {ref} not found, or without the label {CREDENTIAL_LABEL}: "true": create it, or label it'
        return _invalid(fault if why is None else f"Secrets cannot be read ({why})")
    value = secret.text(key)
    if value is None:
        return _invalid(f"Secret {ref} has no text under the key {key}: add it, or change credentialRef.key")
    if not is_header_value(value):
        return _invalid(f"Secret {ref}, key {key}: the value must be one line of visible ASCII, such as: Bearer TOKEN")
    return value


def _invalid(fault: str) -> Problem:
    return Problem(reason="InvalidCredential", message=f"Credential validation failed: {fault}")
