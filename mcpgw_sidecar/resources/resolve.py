"""Resolves an MCPServer to a server, through its HTTPRoute to a Service.

The design is in reference/seed-system.md A.3.1.

The ladder; the first failure wins, and a failure affects this MCPServer alone:

1. targetRef is an HTTPRoute                       InvalidTargetRef
2. in another namespace: a ReferenceGrant there    RefNotPermitted
3. the HTTPRoute exists                            RouteNotFound
4. a rule of it takes POST of the server's path    NoMatchingRule
5. the first backend with calls is a Service       NoBackend, InvalidBackend
6. in another namespace: a ReferenceGrant there    RefNotPermitted
7. the Service exists and has the port             ServiceNotFound, InvalidBackend
8. an ExternalName may be used (external.py)       InvalidBackend
9. a hostname of the route can be a Host           NoHostname
10. its gateway has accepted it                    RouteRefused, RoutePending
11. a configuration can hold the server            InvalidSpec

While a kind cannot be watched, an object of it may exist although the index has none: the message
says so.

An MCPServer whose credential is missing or unusable keeps its server, without the credential, and
its status says InvalidCredential.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.patterns import MAX_NAME, TOOL_PREFIX, has_valid_labels
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.passing import is_credential_header, read_forwarded
from mcpgw_sidecar.resources.address import address_of
from mcpgw_sidecar.resources.kinds import (
    GATEWAY_GROUP,
    GROUP,
    HTTP_ROUTE,
    MCP_SERVER,
)
from mcpgw_sidecar.resources.lookup import Lookup, Problem, absence, is_permitted, no_grant
from mcpgw_sidecar.resources.objects import HttpRoute, McpServer
from mcpgw_sidecar.resources.secrets import credential_of, exchange_of

_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_PATH = re.compile(r"/[!-\"$-~]*")  # visible ASCII; a fragment (#) has no place in a request


@attrs.frozen(kw_only=True)
class Resolution:
    """The server, or None with the problem.

    A server with a problem lacks something (its credential). `remarks` are what its user should
    know besides.
    """

    server: Server | None
    problem: Problem | None
    remarks: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Row:
    """An MCPServer (`found`) and its server.

    When two MCPServers name one HTTPRoute, the younger has a problem and no server.

    `same_host` names the other servers with the same host name. Where Envoy routes by host name
    (Istio), one of these servers would get the calls for all. `remarks` are what its user should
    know of its objects besides.
    """

    found: McpServer
    server: Server | None
    problem: Problem | None
    same_host: tuple[ServerName, ...] = ()
    remarks: tuple[str, ...] = ()


def resolve(mcp_server: McpServer, lookup: Lookup) -> Resolution:
    """Resolve an MCPServer (the ladder above)."""
    route = _route(mcp_server, lookup)
    if isinstance(route, Problem):
        return Resolution(server=None, problem=route)
    address = address_of(route, mcp_server.path, lookup)
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
    exchange = exchange_of(mcp_server, forwarded, lookup)
    if isinstance(exchange, Problem):
        return Resolution(server=None, problem=exchange)
    credential = credential_of(mcp_server, lookup)
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
        token_exchange=exchange,
    )
    problem = credential if isinstance(credential, Problem) else None
    return Resolution(server=server, problem=problem, remarks=address.remarks)


def _route(mcp_server: McpServer, lookup: Lookup) -> HttpRoute | Problem:
    if mcp_server.group != GATEWAY_GROUP:
        message = f'invalid targetRef group "{mcp_server.group}": only {GATEWAY_GROUP} is supported'
        return Problem(reason="InvalidTargetRef", message=message)
    if mcp_server.kind != HTTP_ROUTE.name:
        message = f'invalid targetRef kind "{mcp_server.kind}": only {HTTP_ROUTE.name} is supported'
        return Problem(reason="InvalidTargetRef", message=message)
    source = (GROUP, MCP_SERVER.name, mcp_server.ref.namespace)
    if not is_permitted(source, mcp_server.route, GATEWAY_GROUP, HTTP_ROUTE.name, lookup):
        return no_grant(source, mcp_server.route, GATEWAY_GROUP, HTTP_ROUTE.name, lookup)
    route = lookup.route(mcp_server.route)
    if route is None:
        message = f"HTTPRoute {mcp_server.route} not found: create it, or change targetRef"
        return absence("RouteNotFound", message, HTTP_ROUTE.name, lookup)
    return route


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
