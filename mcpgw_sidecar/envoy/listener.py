"""The gateway's listeners and their filters (LDS), and the bootstrap of a plain Envoy.

The filters, in the order of a request. "The router" is the sidecar's; Envoy's own comes last:

0. (early header mutation, before Envoy first matches the route; a filter would come too late)
               removes the headers that only the router may set, and Envoy's control headers; says
               how long the others are
1. cors        answers preflights, and lets pages read answers
2. jwt_authn   verifies the tokens of clients, if the access document wants them (login.py)
3. buffer      413 above the limit; makes the whole body one message for the router
4. lua         repeats earlier decisions of the router and lists of the broker (memo.lua, gzip.lua,
               lists.lua); puts the name of the server into the requests of servers to the client,
               in the answer's event stream (events.lua), and keeps back what answers another call
               (own.lua); skipped for JSON of the broker, and of servers that are trusted
5. ext_proc    the router, for a request without a decision: a POST, or a GET that resumes a
               server's stream; other requests go to the broker, whatever they contain
6. limits      of new sessions, and of calls, if there are any (limits.py)
7. router      Envoy's own

Answers pass the filters in reverse order. No filter after the Lua filter may hold back the headers
of an answer: what the Lua filter writes into a body it also writes into content-length, and headers
that are still held would be sent with the length of one chunk (seen with Envoy 1.40, when ext_proc
asked for the headers at LOG_LEVEL debug).
"""

from __future__ import annotations

from mcpgw_sidecar.envoy.accesslog import counters, on_stdout, to_collector
from mcpgw_sidecar.envoy.clusters import Resource, address, type_url
from mcpgw_sidecar.envoy.filters import (
    HTTP,
    all_of,
    buffer,
    decided,
    header_hygiene,
    last,
    lazily,
    limit_service,
    limited,
    messages,
    router,
    undecided,
)
from mcpgw_sidecar.envoy.limits import of_calls
from mcpgw_sidecar.envoy.login import login
from mcpgw_sidecar.envoy.replies import local_replies
from mcpgw_sidecar.envoy.routes import ROUTES
from mcpgw_sidecar.envoy.settings import Endpoint, EnvoySettings
from mcpgw_sidecar.model.access import Access
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h

LISTENER, INNER = "mcpgw_gateway", "mcpgw_inner"
# Without a limit one client could take all file descriptors, and Envoy warns of that.
MAX_CONNECTIONS = 50_000
# So memo.lua knows, without a walk over them, whether it knows all of a client's. Envoy adds or
# removes the named ones later.
_SIZE: Resource = {
    "append": {
        "header": {
            "key": h.X_SIZE,
            "value": "%REQUEST_HEADERS_BYTES% %REQ(:SCHEME)% %REQ(CONTENT-LENGTH)% %REQ(CONNECTION)%",
        },
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
}
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def listeners(settings: EnvoySettings, servers: tuple[Server, ...], access: Access) -> list[Resource]:
    """The clients' listener, and the inner one, where the broker hands in the messages of batches.

    A message of a batch passes the same filters as one that came alone, with its client's address.
    The listeners know of the servers how long opening a session with them may take.
    """
    request = max((server.discovery_timeout or 0.0 for server in servers), default=0.0)
    manager = _manager(settings, max(request, settings.discovery_timeout), access)
    inner = [] if settings.inner is None else [_listener(INNER, settings.inner, manager | _inner())]
    return [_listener(LISTENER, settings.gateway, manager, settings), *inner]


def _hygiene(kept: str = "") -> Resource:
    return header_hygiene({"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}, _SIZE, kept=kept)


def _inner() -> Resource:
    """How the inner listener differs: the broker says whose the message is.

    Envoy looks for the address behind the early mutations. No server gets the header (passed.lua).
    """
    custom_header = {
        "@type": type_url("envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig"),
        "header_name": h.X_CLIENT,
    }
    name = "envoy.extensions.http.original_ip_detection.custom_header"
    return {
        "stat_prefix": INNER,
        "use_remote_address": False,
        "xff_num_trusted_hops": 0,
        "original_ip_detection_extensions": [{"name": name, "typed_config": custom_header}],
        "early_header_mutation_extensions": [_hygiene(kept=h.X_CLIENT)],
    }


def _listener(name: str, endpoint: Endpoint, manager: Resource, tls: EnvoySettings | None = None) -> Resource:
    chain: Resource = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if tls is not None and tls.tls_cert and tls.tls_key:
        certificate = {"certificate_chain": {"filename": tls.tls_cert}, "private_key": {"filename": tls.tls_key}}
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [certificate]},
            },
        }
    return {
        "@type": type_url("envoy.config.listener.v3.Listener"),
        "name": name,
        "address": _open(endpoint),
        "filter_chains": [chain],
    }


def bootstrap(settings: EnvoySettings) -> Resource:
    """The bootstrap for `envoy -c`. Envoy finds everything else in the files, and follows them."""
    return {
        "node": {"id": "mcpgw-envoy", "cluster": "mcpgw"},
        "admin": {"address": _open(settings.admin)},
        "dynamic_resources": {
            "lds_config": _source(f"{settings.directory}/lds.yaml"),
            "cds_config": _source(f"{settings.directory}/cds.yaml"),
        },
        # Globs of limits; Envoy's own limit is 100.
        "layered_runtime": {"layers": [{"name": "mcpgw", "static_layer": {"re2.max_program_size.error_level": 5000}}]},
        "overload_manager": _overload(settings.heap),
    }


def _overload(heap: int | None) -> Resource:
    """What Envoy refuses before it is full: connections, and with a limit of its heap requests."""
    connections = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": type_url("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
            "max_active_downstream_connections": MAX_CONNECTIONS,
        },
    }
    if heap is None:
        return {"resource_monitors": [connections]}
    name = "envoy.resource_monitors.fixed_heap"
    kind = type_url("envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig")
    steps = {"shrink_heap": 0.85, "disable_http_keepalive": 0.9, "stop_accepting_requests": 0.95}
    return {
        "refresh_interval": "0.250s",
        "resource_monitors": [
            connections,
            {"name": name, "typed_config": {"@type": kind, "max_heap_size_bytes": heap}},
        ],
        "actions": [
            {"name": f"envoy.overload_actions.{step}", "triggers": [{"name": name, "threshold": {"value": value}}]}
            for step, value in steps.items()
        ],
    }


def _open(endpoint: Endpoint) -> Resource:
    """An address where Envoy listens.

    The sidecar may be another user, so the directory of a socket says who may connect.
    """
    where = address(endpoint)
    return {"pipe": where["pipe"] | {"mode": 0o666}} if "pipe" in where else where


def _source(path: str) -> Resource:
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}


def _manager(settings: EnvoySettings, request: float, access: Access) -> Resource:
    return {
        "@type": type_url(_HCM),
        "stat_prefix": "mcpgw",
        "codec_type": "AUTO",
        "http_protocol_options": {"accept_http_10": True},  # nginx asks by it, unless it is told otherwise
        "http2_protocol_options": {  # for what a client sends, which is small
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 256 << 10,
            "initial_connection_window_size": 1 << 20,
        },
        # A server behind may take x_mcp_y for x-mcp-y.
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "use_remote_address": True,
        **({"xff_num_trusted_hops": settings.trusted_hops} if settings.trusted_hops else {}),
        "normalize_path": True,
        "merge_slashes": True,
        "request_headers_timeout": "10s",
        "request_timeout": "60s",  # until the whole body has arrived
        "stream_idle_timeout": "300s",
        "rds": {"route_config_name": ROUTES, "config_source": _source(f"{settings.directory}/rds.yaml")},
        "skip_xff_append": True,  # no server gets it
        "early_header_mutation_extensions": [_hygiene()],
        "local_reply_config": local_replies(settings.max_body, access.authentication),
        "access_log": [
            on_stdout(access.authentication),
            *([to_collector(access.authentication)] if settings.log_collector is not None else []),
            counters(memo=settings.memo),
        ],
        "http_filters": [
            {"name": "envoy.filters.http.cors", "typed_config": {"@type": type_url(f"{HTTP}.cors.v3.Cors")}},
            *([login(access.authentication, settings.secret)] if access.authentication is not None else []),
            buffer(settings.max_body),
            messages(settings.messages),
            lazily("mcpgw_router", router(debug=settings.debug, request=request), all_of(undecided(), decided())),
            *([limited(access.limits.new_sessions)] if access.limits.new_sessions is not None else []),
            *of_calls(access.limits.calls, access.authentication),
            *([limit_service(access.limits.service, access.authentication)] if access.limits.service is not None else []),
            last(settings.refused, settings.heal),
        ],
    }
