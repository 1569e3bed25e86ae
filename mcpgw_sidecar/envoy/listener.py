"""The gateway's listener and its chain of filters (LDS), and the bootstrap that makes a plain Envoy follow the files.

The chain, in the order in which a request meets it:

0. (early header mutation, before the first look at the routes: a filter would come too late, the route is chosen by then)
                     removes what only the router may say, and Envoy's own control headers
1. cors              answers preflights and lets pages read answers
2. buffer            413 above the limit; makes the whole body one message for the router
3. ext_proc          the router, for POST, and for a GET that resumes a server's stream: others are the broker's whatever they hold
4. lua               makes the requests of servers to the client name their server, in the answer's event stream
5. router            Envoy's own
"""

from __future__ import annotations

from mcpgw_sidecar.envoy.clusters import ROUTER_CLUSTER, Resource, address, duration, type_url
from mcpgw_sidecar.envoy.replies import METADATA, local_replies
from mcpgw_sidecar.envoy.routes import ROUTES
from mcpgw_sidecar.envoy.settings import EnvoySettings
from mcpgw_sidecar.model.names import BROKER
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.owners import PREFIX

LISTENER = "mcpgw_gateway"
# The router answers at once, but for a call that first opens a session with its server: that may take what
# broker.client allows (10 s), and the router's own answer must come before Envoy gives up on it.
ROUTER_TIMEOUT = 12.0
MAX_CONNECTIONS = 50_000  # of clients; without a bound one client could take all file descriptors, and Envoy warns of that
_HTTP = "envoy.extensions.filters.http"
_MATCHING = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def listener(settings: EnvoySettings) -> Resource:
    """The one listener."""
    chain: Resource = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(settings)}]
    }
    if settings.tls_cert and settings.tls_key:
        certificate = {"certificate_chain": {"filename": settings.tls_cert}, "private_key": {"filename": settings.tls_key}}
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [certificate]},
            },
        }
    return {
        "@type": type_url("envoy.config.listener.v3.Listener"),
        "name": LISTENER,
        "address": address(settings.gateway),
        "filter_chains": [chain],
    }


def bootstrap(settings: EnvoySettings) -> Resource:
    """What `envoy -c` is given: everything else it finds in the files, and follows."""
    return {
        "node": {"id": "mcpgw-envoy", "cluster": "mcpgw"},
        "admin": {"address": address(settings.admin)},
        "dynamic_resources": {
            "lds_config": _source(f"{settings.directory}/lds.yaml"),
            "cds_config": _source(f"{settings.directory}/cds.yaml"),
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": type_url(
                            "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
                        ),
                        "max_active_downstream_connections": MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def _source(path: str) -> Resource:
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}


def _manager(settings: EnvoySettings) -> Resource:
    return {
        "@type": type_url(_HCM),
        "stat_prefix": "mcpgw",
        "codec_type": "AUTO",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "request_headers_timeout": "10s",
        "request_timeout": "60s",  # until the whole body is here
        "stream_idle_timeout": "300s",
        "rds": {"route_config_name": ROUTES, "config_source": _source(f"{settings.directory}/rds.yaml")},
        "early_header_mutation_extensions": [_header_hygiene()],
        "local_reply_config": local_replies(settings),
        "access_log": [_access_log(), _counters()],
        "http_filters": [
            {"name": "envoy.filters.http.cors", "typed_config": {"@type": type_url(f"{_HTTP}.cors.v3.Cors")}},
            {
                "name": "envoy.filters.http.buffer",
                "typed_config": {"@type": type_url(f"{_HTTP}.buffer.v3.Buffer"), "max_request_bytes": settings.max_body},
            },
            _router(settings),
            {
                "name": "mcpgw_events",
                "typed_config": {
                    "@type": type_url(f"{_HTTP}.lua.v3.Lua"),
                    "default_source_code": {"inline_string": settings.events},
                },
            },
            {"name": "envoy.filters.http.router", "typed_config": {"@type": type_url(f"{_HTTP}.router.v3.Router")}},
        ],
    }


def _header_hygiene() -> Resource:
    removed: list[Resource] = [{"remove": name} for name in h.OURS]
    removed.append({"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}})
    return {
        "name": "mcpgw_header_hygiene",
        "typed_config": {
            "@type": type_url("envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"),
            "mutations": removed,
        },
    }


def _router(settings: EnvoySettings) -> Resource:
    resumed = [_header(":method", {"exact": "GET"}), _header(h.LAST_EVENT, {"prefix": PREFIX})]
    decided = [_header(":method", {"exact": "POST"}), {"and_matcher": {"predicate": resumed}}]
    not_decided = {
        "predicate": {"not_matcher": {"or_matcher": {"predicate": decided}}},
        "on_match": {
            "action": {
                "name": "skip",
                "typed_config": {"@type": type_url("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")},
            }
        },
    }
    ext_proc = {
        "@type": type_url(f"{_HTTP}.ext_proc.v3.ExternalProcessor"),
        "grpc_service": {"envoy_grpc": {"cluster_name": ROUTER_CLUSTER}},
        "stat_prefix": "mcpgw_router",
        "message_timeout": duration(ROUTER_TIMEOUT),
        "status_on_error": {"code": "ServiceUnavailable"},
        "mutation_rules": {"allow_all_routing": True},
        "metadata_options": {"receiving_namespaces": {"untyped": [METADATA]}},
        "allow_mode_override": settings.debug,
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "request_trailer_mode": "SKIP",
            "response_header_mode": "SKIP",
            "response_body_mode": "NONE",
            "response_trailer_mode": "SKIP",
        },
    }
    return {
        "name": "mcpgw_router",
        "typed_config": {
            "@type": type_url(_MATCHING),
            "xds_matcher": {"matcher_list": {"matchers": [not_decided]}},
            "extension_config": {"name": "envoy.filters.http.ext_proc", "typed_config": ext_proc},
        },
    }


def _header(name: str, value: Resource) -> Resource:
    found = {"@type": type_url("envoy.type.matcher.v3.HttpRequestHeaderMatchInput"), "header_name": name}
    return {"single_predicate": {"input": {"name": "header", "typed_config": found}, "value_match": value}}


def _access_log() -> Resource:
    fields = {
        "time": "%START_TIME%",
        "http": "%REQ(:METHOD)%",
        "method": f"%REQ({h.X_METHOD})%",
        "tool": f"%REQ({h.X_TOOL})%",
        "server": f"%REQ({h.X_SERVER})%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "upstream_ms": "%RESPONSE_DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {"json_format": fields},
        },
    }


def _counters() -> Resource:
    """Calls by server, tool and status, counted by Envoy: the sidecar never sees their answers. Read by `/metrics`."""
    values = {
        "method": f"%REQ({h.X_METHOD})%",
        "server": f"%REQ({h.X_SERVER})%",
        "tool": f"%REQ({h.X_TOOL})%",
        "code": "%RESPONSE_CODE%",
    }
    tags = [{"name": name, "value_format": value} for name, value in values.items()]
    return {
        "name": "mcpgw_counters",
        # What a server answered: the broker counts its own. The router bounds the values: it names only what it knows.
        "filter": {
            "and_filter": {
                "filters": [
                    {"header_filter": {"header": {"name": h.X_SERVER, "present_match": True}}},
                    {
                        "header_filter": {
                            "header": {"name": h.X_SERVER, "string_match": {"exact": BROKER}, "invert_match": True}
                        }
                    },
                ]
            }
        },
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.stats.v3.Config"),
            "stats_scope": {"prefix": "mcpgw"},
            "counters": [{"stat": {"name": "calls", "tags": tags}, "value_fixed": 1}],
            "histograms": [
                {"stat": {"name": "call_duration", "tags": tags}, "value_format": "%DURATION%", "unit": "Milliseconds"}
            ],
        },
    }
