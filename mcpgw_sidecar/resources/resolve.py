"""Resolves an MCPServer to a server, through its HTTPRoute to a Service.

The design is in reference/seed-system.md A.3.1.

The ladder; the first failure wins, and a failure affects this MCPServer alone:

1. targetRef is an HTTPRoute                       InvalidTargetRef
2. in another namespace: a ReferenceGrant there    RefNotPermitted
3. the HTTPRoute exists                            RouteNotFound
4. its first rule's first backend is a Service     NoBackend, InvalidBackend
5. in another namespace: a ReferenceGrant there    RefNotPermitted
6. the Service exists                              ServiceNotFound
7. an ExternalName may be used (external.py)       InvalidBackend
8. the route's first hostname can be a Host        NoHostname
9. a configuration can hold the server             InvalidSpec

While a kind cannot be watched, an object of it may exist although the index has none: the message
says so.

An MCPServer whose credential is missing or unusable keeps its server, without the credential, and
its status says InvalidCredential.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.patterns import MAX_NAME, TOOL_PREFIX, has_valid_labels
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.protocol.passing import is_credential_header, read_forwarded
from mcpgw_sidecar.resources import external
from mcpgw_sidecar.resources.kinds import (
    CREDENTIAL_LABEL,
    GATEWAY_GROUP,
    GRANT,
    GROUP,
    HTTP_ROUTE,
    MCP_SERVER,
    SECRET,
    SERVICE,
    watch_name,
)
from mcpgw_sidecar.resources.objects import Backend, Grant, HttpRoute, McpServer, Ref, Secret, Service

CLUSTER_DOMAIN = "cluster.local"
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_PATH = re.compile(r"/[!-\"$-~]*")  # visible ASCII; a fragment (#) has no place in a request


@attrs.frozen(kw_only=True)
class Problem:
    """Why an MCPServer has no server, or its server lacks something, for the Ready condition."""

    reason: str
    message: str


Dependency = tuple[str, str, str]
"""Kind, namespace and name of an object that a resolution looked up, whether it exists or not.

All grants of a namespace are one dependency, without a name.
"""


class Lookup(Protocol):
    """Looks objects up; None for one that does not exist.

    Each object that was looked up is a dependency.
    """

    def route(self, ref: Ref) -> HttpRoute | None:
        """An HTTPRoute."""

    def service(self, ref: Ref) -> Service | None:
        """A Service."""

    def secret(self, ref: Ref) -> Secret | None:
        """A labelled Secret."""

    def grants(self, namespace: str) -> Iterable[Grant]:
        """The ReferenceGrants of a namespace."""

    def reads_secrets(self, namespace: str) -> bool:
        """Whether the Secrets of a namespace are watched."""

    def troubles(self) -> Mapping[str, str]:
        """The kinds that cannot be watched, each with the reason."""

    def external_names(self) -> Collection[str]:
        """The names outside of the cluster that are allowed."""

    def resolved(self, host: str) -> external.Resolved | None:
        """What a name outside of the cluster stands for; None as long as nobody has looked."""


@attrs.frozen(kw_only=True)
class Resolution:
    """The server, or None with the problem.

    A server with a problem lacks something (its credential).
    """

    server: Server | None
    problem: Problem | None


def resolve(mcp_server: McpServer, lookup: Lookup) -> Resolution:
    """Resolve an MCPServer (the ladder above)."""
    route = _route(mcp_server, lookup)
    if isinstance(route, Problem):
        return Resolution(server=None, problem=route)
    address = _backend_address(route, lookup)
    if isinstance(address, Problem):
        return Resolution(server=None, problem=address)
    fault = _fault(mcp_server, str(route.ref), urlsplit(address.origin).hostname or "", address.hostname)
    if fault is not None:
        return Resolution(server=None, problem=Problem(reason="InvalidSpec", message=fault))
    try:
        forwarded = read_forwarded(mcp_server.forwarded)
    except ValueError as error:
        return Resolution(server=None, problem=Problem(reason="InvalidSpec", message=f"forwardHeaders: {error}"))
    if not is_credential_header(mcp_server.credential_header):
        fault = f"credentialHeader {mcp_server.credential_header}: the gateway sets this header itself, name another"
        return Resolution(server=None, problem=Problem(reason="InvalidSpec", message=fault))
    credential = _credential(mcp_server, lookup)
    server = Server(
        name=ServerName(str(route.ref)),
        url=f"{address.origin}{mcp_server.path}",
        hostname=address.hostname,
        addresses=address.addresses,
        tool_prefix=mcp_server.prefix,
        credential=credential if isinstance(credential, str) else None,
        credential_header=mcp_server.credential_header.lower(),
        credential_use=mcp_server.credential_use,
        forwarded=forwarded,
    )
    return Resolution(server=server, problem=credential if isinstance(credential, Problem) else None)


def _route(mcp_server: McpServer, lookup: Lookup) -> HttpRoute | Problem:
    if mcp_server.group != GATEWAY_GROUP:
        message = f'invalid targetRef group "{mcp_server.group}": only {GATEWAY_GROUP} is supported'
        return Problem(reason="InvalidTargetRef", message=message)
    if mcp_server.kind != HTTP_ROUTE.name:
        message = f'invalid targetRef kind "{mcp_server.kind}": only {HTTP_ROUTE.name} is supported'
        return Problem(reason="InvalidTargetRef", message=message)
    source = (GROUP, MCP_SERVER.name, mcp_server.ref.namespace)
    if not _is_permitted(source, mcp_server.route, GATEWAY_GROUP, HTTP_ROUTE.name, lookup):
        return _no_grant(source, mcp_server.route, GATEWAY_GROUP, HTTP_ROUTE.name, lookup)
    route = lookup.route(mcp_server.route)
    if route is None:
        message = f"HTTPRoute {mcp_server.route} not found: create it, or change targetRef"
        return _absence("RouteNotFound", message, HTTP_ROUTE.name, lookup)
    return route


@attrs.frozen
class _Address:
    """The origin of a server (scheme, host, port), the host name by which Envoy routes to it."""

    origin: str
    hostname: str
    addresses: tuple[str, ...] = ()


def _backend_address(route: HttpRoute, lookup: Lookup) -> _Address | Problem:
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
    if not _is_permitted(source, target, "", SERVICE.name, lookup):
        return _no_grant(source, target, "", SERVICE.name, lookup)
    service = lookup.service(target)
    if service is None:
        message = f"Service {target} not found: create it, or change the backend of HTTPRoute {route.ref}"
        return _absence("ServiceNotFound", message, SERVICE.name, lookup)
    return _service_address(route, backend, service, lookup)


def _service_address(route: HttpRoute, backend: Backend, service: Service, lookup: Lookup) -> _Address | Problem:
    https = any("https" in str(parent.get("sectionName", "")) for parent in route.parent_refs)
    port = f":{backend.port}" if backend.port is not None else ""
    if service.external_name is not None:
        host = service.external_name.rstrip(".").lower()
        refused = external.refusal(host, lookup.external_names(), CLUSTER_DOMAIN)
        if refused is not None:
            return Problem(reason="InvalidBackend", message=f"Service {service.ref}: externalName {host} {refused}")
        verdict = lookup.resolved(host)
        if verdict is None or verdict.fault is not None:
            fault = "is being resolved" if verdict is None else verdict.fault
            return Problem(reason="InvalidBackend", message=f"Service {service.ref}: externalName {host} {fault}")
        scheme = "https" if https or backend.port in service.https else "http"
        return _Address(f"{scheme}://{host}{port}", host, verdict.addresses)
    hostname = route.hostnames[0] if route.hostnames else ""
    if not hostname or hostname.startswith("*"):
        what = f"its first is {hostname}, a wildcard" if hostname else "it has none"
        message = f"HTTPRoute {route.ref} must have at least one hostname for MCP backend routing: {what}"
        return Problem(reason="NoHostname", message=message)
    scheme = "https" if https else "http"
    return _Address(f"{scheme}://{service.ref.name}.{service.ref.namespace}.svc.{CLUSTER_DOMAIN}{port}", hostname)


def _is_permitted(source: tuple[str, str, str], target: Ref, group: str, kind: str, lookup: Lookup) -> bool:
    if source[2] == target.namespace:
        return True
    return any(grant.allows(source, group, kind, target.name) for grant in lookup.grants(target.namespace))


def _fault(mcp_server: McpServer, name: str, host: str, hostname: str) -> str | None:
    """Why a configuration cannot hold this server, although the API accepted its objects.

    One such server would have the whole configuration refused.
    """
    if not TOOL_PREFIX.fullmatch(mcp_server.prefix) or not _PATH.fullmatch(mcp_server.path):
        return "toolPrefix or path cannot be used: recreate the MCPServer with the CRD of this version"
    if len(name) > MAX_NAME:
        return f"namespace and name of the HTTPRoute have more than {MAX_NAME} characters together: shorten one"
    for host_name in (host, hostname):
        if not _HOST.fullmatch(host_name) or not has_valid_labels(host_name):
            return f"{host_name[:MAX_NAME]!r} is no host name that can be reached: change the Service or the HTTPRoute"
    return None


def _absence(reason: str, message: str, kind: str, lookup: Lookup) -> Problem:
    """The problem of an object that the index does not have.

    The message says when its kind cannot be watched.
    """
    trouble = lookup.troubles().get(kind)
    return Problem(reason=reason, message=message if trouble is None else f"{message} (or it is there, but: {trouble})")


def _no_grant(source: tuple[str, str, str], target: Ref, group: str, kind: str, lookup: Lookup) -> Problem:
    message = (
        f"reference to {kind} {target} is not permitted: create a ReferenceGrant in {target.namespace} "
        f"from {source[1]} ({source[0]}) in {source[2]} to {kind} ({group or 'core'})"
    )
    return _absence("RefNotPermitted", message, GRANT.name, lookup)


def _credential(mcp_server: McpServer, lookup: Lookup) -> str | Problem | None:
    if mcp_server.credential is None:
        return None
    name, key = mcp_server.credential
    ref = Ref(mcp_server.ref.namespace, name)
    if not lookup.reads_secrets(ref.namespace):
        return _invalid_credential(
            f"the sidecars read no Secret of namespace {ref.namespace}: give --secrets-in {ref.namespace} "
            "to `mcpgw-sidecar manifests`, for the rights, and to `run`"
        )
    secret = lookup.secret(ref)
    if secret is None:
        troubles = lookup.troubles()
        trouble = troubles.get(watch_name(SECRET.name, ref.namespace)) or troubles.get(SECRET.name)
        fault = f'Secret {ref} not found, or without the label {CREDENTIAL_LABEL}: "true": create it, or label it'
        return _invalid_credential(fault if trouble is None else f"Secrets cannot be read ({trouble})")
    value = secret.text(key)
    if value is None:
        return _invalid_credential(f"Secret {ref} has no text under the key {key}: add it, or change credentialRef.key")
    if not is_header_value(value):
        return _invalid_credential(
            f"Secret {ref}, key {key}: the value must be one line of visible ASCII, such as: Bearer TOKEN"
        )
    return value


def _invalid_credential(fault: str) -> Problem:
    return Problem(reason="InvalidCredential", message=f"Credential validation failed: {fault}")
