"""Routes (RDS): one virtual host, and the header that only the router can set decides.

A request reaches an MCP server only by the route that `x-mcp-servername` names. Envoy removes that header from whatever
clients send before it looks at the routes at all (listener.py), so the Host of a server, a forged header or a failing filter lead to the broker or to a 404: it fails
closed without a rule of its own, and two servers may share a host name.
"""

from __future__ import annotations

from mcpgw_sidecar.envoy.clusters import Resource, cluster_name, duration, type_url
from mcpgw_sidecar.envoy.contract import BROKER_CLUSTER, FORGOTTEN, METADATA, RETRY_ON
from mcpgw_sidecar.envoy.settings import EnvoySettings
from mcpgw_sidecar.model.names import BROKER, ENDPOINT
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h

ROUTES = "mcpgw_routes"
_NOT_FOUND = '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Not found: the endpoint is /mcp"}}'
_CORS = "envoy.filters.http.cors"
_LOOPBACK_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


def routes(settings: EnvoySettings, servers: tuple[Server, ...]) -> Resource:
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
                "matcher": _by_server(servers, settings),
            }
        ],
    }


def _by_server(servers: tuple[Server, ...], settings: EnvoySettings) -> Resource:
    """One look at the header finds the route, of however many servers: those in a list are tried one after the other, twice a call."""
    found = {"@type": type_url("envoy.type.matcher.v3.HttpRequestHeaderMatchInput"), "header_name": h.X_SERVER}
    own = [_broker(), _nowhere()]
    by_name = {server.name: _choice(_server(server, settings)) for server in servers} | {BROKER: _choice(*own)}
    return {
        "matcher_tree": {"input": {"name": "server", "typed_config": found}, "exact_match_map": {"map": by_name}},
        "on_no_match": _choice(_unknown(), *own),
    }


def _choice(*found: Resource) -> Resource:
    listed = {"@type": type_url("envoy.config.route.v3.RouteList"), "routes": list(found)}
    return {"action": {"name": "routes", "typed_config": listed}}


def _server(server: Server, settings: EnvoySettings) -> Resource:
    silence = settings.call_timeout if server.call_timeout is None else server.call_timeout
    return {
        "name": server.name,
        "match": {"prefix": "/"},
        "metadata": {"filter_metadata": {METADATA: {"limit": f"{silence:g} s"}}},
        "request_headers_to_remove": [h.ATTEMPT],  # "1"; heal.lua looks for later ones, and removes them
        "response_headers_to_remove": [h.SESSION],
        "route": {
            "cluster": cluster_name(server.name),
            "timeout": "0s",  # an answer may stream for hours; what ends it is silence
            "idle_timeout": duration(silence),
            # A call that certainly has not run; heal.lua exchanges a forgotten session before the second attempt.
            "retry_policy": {
                "retry_on": RETRY_ON,
                "retriable_status_codes": [FORGOTTEN],
                "num_retries": 1,
            },
        },
    }


def _unknown() -> Resource:
    """Decided for a server whose route Envoy does not have (yet): never the broker's, who would not know the session."""
    return {
        "name": "unknown_server",
        "match": {"prefix": "/", "headers": [{"name": h.X_SERVER, "present_match": True}]},
        "direct_response": {"status": 503},
    }


def _broker() -> Resource:
    return {
        "name": "broker",
        "match": {"path_separated_prefix": ENDPOINT},  # virtual servers are below it
        "route": {"cluster": BROKER_CLUSTER, "timeout": "0s", "idle_timeout": "0s"},
    }


def _nowhere() -> Resource:
    return {
        "name": "not_found",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": _NOT_FOUND}},
    }


def _cors(settings: EnvoySettings) -> Resource:
    """Pages that the router and the broker let call may also read the answer (they check Origin; this only lets browsers)."""
    exact = [{"exact": origin} for origin in settings.allowed_origins if origin != "*"]
    anyone = [{"safe_regex": {"regex": ".*"}}] if "*" in settings.allowed_origins else []
    return {
        "@type": type_url("envoy.extensions.filters.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": [{"safe_regex": {"regex": _LOOPBACK_ORIGIN}}, *exact, *anyone],
        "allow_methods": "POST, GET, DELETE, OPTIONS",
        "allow_headers": "content-type, accept, authorization, last-event-id, mcp-session-id, mcp-protocol-version, x-mcp-virtualserver",
        "expose_headers": "mcp-session-id, mcp-protocol-version, www-authenticate",
        "max_age": "600",
    }
