"""Clusters: how Envoy reaches the sidecar and each MCP server (CDS)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.envoy.contract import BROKER_CLUSTER, ROUTER_CLUSTER
from mcpgw_sidecar.envoy.settings import Endpoint, EnvoySettings
from mcpgw_sidecar.model.access import LimitService
from mcpgw_sidecar.model.hosts import reachable
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server

LIMITS_CLUSTER, LOGS_CLUSTER = "mcpgw_limits", "mcpgw_logs"
Resource = dict[str, Any]
Filters = Callable[[EnvoySettings, Server], list[Resource] | None]

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECT_TIMEOUT = "5s"
# Less than the 2 s of gunicorn, and the 5 s of uvicorn, hypercorn, Node and Apache, after which
# these close idle connections: Envoy closes first, so that it writes no call to a connection that
# the server is just closing. Such a call cannot be sent again, because it may have run.
_IDLE = "1.500s"
# Envoy's defaults (1,024 of each, 3 retries) would limit sessions and calls. Such limits are for
# the operator to set.
_UNLIMITED = 1_000_000
_DEFAULT_PORTS = {"http": 80, "https": 443}


def type_url(name: str) -> str:
    """The type URL of an Envoy message."""
    return f"type.googleapis.com/{name}"


def duration(seconds: float) -> str:
    """A protobuf Duration in JSON: fixed point, in milliseconds; a value above 0 stays above 0."""
    rounded = max(seconds, 0.001) if seconds else 0.0
    return f"{rounded:.3f}".rstrip("0").rstrip(".") + "s"


def cluster_name(server: ServerName) -> str:
    """The cluster of a server."""
    return f"mcp_server/{server}"


def clusters(
    settings: EnvoySettings,
    servers: tuple[Server, ...],
    filters: Filters = lambda _settings, _server: None,
    service: LimitService | None = None,
) -> list[Resource]:
    """All clusters, those of the sidecar first. `filters` returns a server's own, if it has any."""
    return [
        own_cluster(BROKER_CLUSTER, settings.broker, {"http_protocol_options": {}}),
        own_cluster(ROUTER_CLUSTER, settings.router, {"http2_protocol_options": {}}),
        *([_of_grpc(LIMITS_CLUSTER, service.url, service.ca_file, settings)] if service is not None else []),
        *([_of_grpc(LOGS_CLUSTER, settings.log_collector, None, settings)] if settings.log_collector is not None else []),
        *(_upstream(server, settings, filters(settings, server)) for server in servers),
    ]


def address(endpoint: Endpoint) -> Resource:
    """An Envoy address."""
    if endpoint.path is not None:
        return {"pipe": {"path": endpoint.path}}
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def own_cluster(name: str, endpoint: Endpoint, protocol: Resource) -> Resource:
    """The cluster of the sidecar's broker or router."""
    there = attrs.evolve(endpoint, host=reachable(endpoint.host))
    options = {"explicit_http_config": protocol, "common_http_protocol_options": {"idle_timeout": "60s"}}
    return _cluster(name, [there], options) | {"connect_timeout": "1s"}


def _of_grpc(name: str, where: str, ca_file: str | None, settings: EnvoySettings) -> Resource:
    """The cluster of a service that speaks gRPC: one of rate limits, or of logs."""
    url = urlsplit(where)
    is_path = url.scheme == "unix"
    endpoint = Endpoint(host=url.hostname or "", port=url.port or _DEFAULT_PORTS.get(url.scheme, 0))
    there = Endpoint(path=url.path) if is_path else endpoint
    options: Resource = {"explicit_http_config": {"http2_protocol_options": {}}}
    cluster = _cluster(name, [there], options) | {"connect_timeout": "1s"}
    if url.scheme == "https":
        cluster["transport_socket"] = _tls(endpoint.host, ca_file or settings.ca_bundle)
    return cluster


def _upstream(server: Server, settings: EnvoySettings, filters: list[Resource] | None) -> Resource:
    url = urlsplit(server.url)
    endpoint = Endpoint(host=url.hostname or "", port=url.port or _DEFAULT_PORTS[url.scheme])
    protocol: Resource = {"explicit_http_config": {"http_protocol_options": {}}}
    if url.scheme == "https":
        protocol = {"auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}
    options = {
        **protocol,
        "common_http_protocol_options": {"idle_timeout": _IDLE},
        **({"http_filters": filters} if filters is not None else {}),
    }
    found = [attrs.evolve(endpoint, host=each) for each in server.addresses] or [endpoint]
    cluster = _cluster(cluster_name(server.name), found, options)
    if url.scheme == "https":
        cluster["transport_socket"] = _tls(endpoint.host, server.ca_file or settings.ca_bundle)
    return cluster


def _cluster(name: str, endpoints: list[Endpoint], options: Resource) -> Resource:
    return {
        "@type": type_url("envoy.config.cluster.v3.Cluster"),
        "name": name,
        "type": "STATIC" if all(each.path is not None or _is_ip(each.host) for each in endpoints) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": _CONNECT_TIMEOUT,
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _UNLIMITED,
                    "max_pending_requests": _UNLIMITED,
                    "max_requests": _UNLIMITED,
                    "max_retries": _UNLIMITED,
                }
            ]
        },
        "typed_extension_protocol_options": {_HTTP_OPTIONS: {"@type": type_url(_HTTP_OPTIONS), **options}},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(each)}} for each in endpoints]}],
        },
    }


def _tls(host: str, ca_file: str | None) -> Resource:
    kind = "IP_ADDRESS" if _is_ip(host) else "DNS"
    validation: Resource = {"match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}]}
    if ca_file is not None:
        validation["trusted_ca"] = {"filename": ca_file}
    context: Resource = {
        "@type": type_url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "validation_context": validation},
    }
    if not _is_ip(host):
        context["sni"] = host
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
