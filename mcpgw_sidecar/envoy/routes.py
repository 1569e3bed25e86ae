"""Routes (RDS): one virtual host, whose routes depend on a header that only the router can set.

A request reaches an MCP server only by the route that `x-mcp-servername` names. Envoy removes that
header from the requests of clients before it matches a route (listener.py). So the Host of a
server, a forged header or a failing filter lead to the broker or to a 404: the gateway fails closed
without an extra rule, and two servers may share a host name.
"""

from __future__ import annotations

from mcpgw_sidecar.envoy.clusters import Resource, cluster_name, duration, type_url
from mcpgw_sidecar.envoy.contract import AGAIN, ATTEMPTS, BROKER_CLUSTER, HIDDEN, ID, METADATA, RESTART, RETRY_ON
from mcpgw_sidecar.envoy.settings import EnvoySettings
from mcpgw_sidecar.inbound.callers import WELL_KNOWN
from mcpgw_sidecar.model.access import Access
from mcpgw_sidecar.model.names import BROKER, ENDPOINT
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.passing import PROTO

ROUTES = "mcpgw_routes"
_NOT_FOUND = '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Not found: the endpoint is /mcp"}}'
_CORS = "envoy.filters.http.cors"
# For events.lua, which takes it away, and needs no metadata then. Clients see it where Envoy
# answers for a server that breaks off while events.lua waits for the rest.
_LOOKED_AT: Resource = {
    "header": {"key": h.X_ID, "value": f"%DYNAMIC_METADATA({METADATA}:{ID})%"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
_CLIENT: Resource = {
    "header": {"key": h.X_CLIENT, "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
# "*" is for mcp-param-* and whatever a later version brings; it never stands for Authorization, and
# for nothing at all where credentials of the browser go along.
_ALLOWED_HEADERS = (
    "*, content-type, accept, authorization, last-event-id, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, "
    "x-mcp-virtualserver, traceparent, tracestate, baggage, dpop"
)
REPEATED = r"ping|initialize|logging/setLevel|notifications/initialized|server/discover|.+/list"
"""REPEATABLE, in less than the hundred steps that Envoy allows a regular expression."""

_LOOPBACK_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


def routes(settings: EnvoySettings, servers: tuple[Server, ...], access: Access) -> Resource:
    """The route configuration."""
    return {
        "@type": type_url("envoy.config.route.v3.RouteConfiguration"),
        "name": ROUTES,
        "virtual_hosts": [
            {
                "name": "gateway",
                "domains": ["*"],
                "include_request_attempt_count": True,
                "typed_per_filter_config": {_CORS: _cors(settings)},
                "matcher": _by_server(servers, settings, access),
            }
        ],
    }


def _by_server(servers: tuple[Server, ...], settings: EnvoySettings, access: Access) -> Resource:
    """A matcher that finds the route of a server by one lookup of the header.

    Envoy would try the routes of a list one after the other, twice a call.
    """
    header_input = {"@type": type_url("envoy.type.matcher.v3.HttpRequestHeaderMatchInput"), "header_name": h.X_SERVER}
    broker_routes = [*_broker(), *_metadata(access), _nowhere()]
    by_name = {
        server.name: _choice(_carried(), _server(server, settings, has_login=access.authentication is not None))
        for server in servers
    } | {BROKER: _choice(*broker_routes)}
    return {
        "matcher_tree": {"input": {"name": "server", "typed_config": header_input}, "exact_match_map": {"map": by_name}},
        "on_no_match": _choice(_unknown(), *broker_routes),
    }


def _choice(*options: Resource) -> Resource:
    route_list = {"@type": type_url("envoy.config.route.v3.RouteList"), "routes": list(options)}
    return {"action": {"name": "routes", "typed_config": route_list}}


def _server(server: Server, settings: EnvoySettings, *, has_login: bool) -> Resource:
    silence = settings.call_timeout if server.call_timeout is None else server.call_timeout
    return {
        "name": server.name,
        "match": {"prefix": "/"},
        "metadata": {"filter_metadata": {METADATA: {"limit": f"{silence:g} s"}}},
        # The count on the first attempt; heal.lua reads and removes it on later ones.
        "request_headers_to_remove": [
            *([h.X_CLAIMS] if has_login else []),
            *([h.X_SUBJECT] if has_login and all(each.sent != h.X_SUBJECT for each in server.forwarded) else []),
            *(h.ATTEMPT, h.X_SIZE, PROTO, "x-envoy-internal", "x-envoy-external-address"),
        ],
        "response_headers_to_remove": list(HIDDEN),
        **({} if server.trusted else {"response_headers_to_add": [_LOOKED_AT]}),
        "route": {
            "cluster": cluster_name(server.name),
            "timeout": "0s",  # an answer may stream for hours; only silence ends it
            "idle_timeout": duration(silence),
            # Retry only a call that has certainly not run (contract.py); heal.lua replaces a
            # forgotten session before the next attempt.
            "retry_policy": {
                "retry_on": RETRY_ON,
                "retriable_status_codes": [AGAIN],
                "num_retries": ATTEMPTS,
            },
        },
    }


def _unknown() -> Resource:
    """The route of a call to a server that Envoy does not know (yet): 503.

    The broker must not get such a call, because it does not know the session.
    """
    return {
        "name": "unknown_server",
        "match": {"prefix": "/", "headers": [{"name": h.X_SERVER, "present_match": True}]},
        "direct_response": {"status": 503},
    }


def _broker() -> list[Resource]:
    """The routes to the broker. What it may do twice is sent again where a connection breaks."""
    # The endpoints of virtual servers are below it.
    match: Resource = {"path_separated_prefix": ENDPOINT}
    repeatable = [(h.X_METHOD, {"safe_regex": {"regex": REPEATED}}), (":method", {"safe_regex": {"regex": "GET|DELETE"}})]
    again = {**RESTART, "retry_on": f"{RESTART['retry_on']},reset"}
    routes = [(match | {"headers": [{"name": name, "string_match": value}]}, again) for name, value in repeatable]
    return [
        {
            "name": "broker",
            "match": each,
            "request_headers_to_add": [_CLIENT],
            "route": {"cluster": BROKER_CLUSTER, "timeout": "0s", "idle_timeout": "0s", "retry_policy": dict(policy)},
        }
        for each, policy in [*routes, (match, RESTART)]
    ]


def _carried() -> Resource:
    """The route of a call that the broker carries to its server."""
    match: Resource = {"prefix": "/", "headers": [{"name": h.X_CARRIED, "present_match": True}]}
    return {
        "name": "carried",
        "match": match,
        "request_headers_to_add": [_CLIENT],
        "route": {"cluster": BROKER_CLUSTER, "timeout": "0s", "idle_timeout": "0s", "retry_policy": dict(RESTART)},
    }


def _metadata(access: Access) -> list[Resource]:
    """The route of the metadata that say how to log in."""
    if access.authentication is None:
        return []
    route = {"cluster": BROKER_CLUSTER, "timeout": "10s", "retry_policy": dict(RESTART)}
    return [{"name": "metadata", "match": {"path_separated_prefix": WELL_KNOWN}, "route": route}]


def _nowhere() -> Resource:
    return {
        "name": "not_found",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": _NOT_FOUND}},
    }


def _cors(settings: EnvoySettings) -> Resource:
    """The policy that lets pages of the allowed origins read answers.

    The router and the broker check Origin; this only permits browsers.
    """
    exact = [{"exact": origin} for origin in settings.allowed_origins if origin != "*"]
    anyone = [{"safe_regex": {"regex": ".*"}}] if "*" in settings.allowed_origins else []
    return {
        "@type": type_url("envoy.extensions.filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": [{"safe_regex": {"regex": _LOOPBACK_ORIGIN}}, *exact, *anyone],
        "allow_methods": "POST, GET, DELETE, OPTIONS",
        "allow_headers": _ALLOWED_HEADERS,
        "expose_headers": "mcp-session-id, mcp-protocol-version, www-authenticate",
        "max_age": "600",
    }
