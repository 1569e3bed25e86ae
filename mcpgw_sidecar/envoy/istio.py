"""An EnvoyFilter that adds the MCP gateway to a gateway of Istio.

The listeners, and the routes and clusters of servers, stay Istio's. The patches are:

| patch                              | effect                                                     |
|------------------------------------|------------------------------------------------------------|
| connection manager: early mutation | removes the router's headers before the first route match  |
| connection manager: local replies  | Envoy's own replies as JSON-RPC, for our hosts and calls   |
| the first HTTP filters             | buffer, messages and router, for our hosts and path; calls |
| before Envoy's router              | refusal of who comes around the router; removes the        |
|                                    | headers of clients that the server does not get, which     |
|                                    | policies and routes of Istio may have read                 |
| Envoy's router: upstream filters   | replaces a session that its server has forgotten           |
| clusters                           | the sidecar's router and broker, beside this Envoy         |

Our filters come before Istio's, so that Istio's policies see the headers that the router set: Host,
`x-mcp-toolname`, `x-mcp-servername`. With a login they stand behind the one that verifies tokens,
and before Istio's other ones.
"""

from __future__ import annotations

import re

import attrs

from mcpgw_sidecar.envoy.clusters import Resource, own_cluster, type_url
from mcpgw_sidecar.envoy.contract import BROKER_CLUSTER, ROUTER_CLUSTER
from mcpgw_sidecar.envoy.filters import (
    HTTP,
    ROUTER,
    all_of,
    buffer,
    decided,
    header,
    header_hygiene,
    last,
    lazily,
    lua,
    only,
    passed,
    router,
    undecided,
)
from mcpgw_sidecar.envoy.replies import shared_replies
from mcpgw_sidecar.envoy.settings import Endpoint
from mcpgw_sidecar.model.names import ENDPOINT
from mcpgw_sidecar.protocol import headers as h

_MANAGER = "envoy.filters.network.http_connection_manager"
_JWT = "envoy.filters.http.jwt_authn"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_PORT = "(:[0-9]+)?"
_PATH = rf"{ENDPOINT}([/?].*)?"  # virtual servers are below it


@attrs.frozen(kw_only=True)
class IstioSettings:
    """The settings of the EnvoyFilter.

    `labels` select the gateway's pods; a host may be `*.x` for all below x.

    `internal_hosts` are the hosts of servers' routes, which only the router may choose. `refused`,
    `heal`, `messages`, `calls` and `passed` are the texts of Lua filters. With `login` a
    RequestAuthentication verifies tokens before the router looks at a request. With `own_requests`
    the sidecar reaches servers by the gateway's listener.
    """

    name: str
    namespace: str
    labels: dict[str, str]
    public_hosts: tuple[str, ...]
    internal_hosts: tuple[str, ...]
    broker: Endpoint
    router: Endpoint
    max_body: int
    refused: str
    heal: str
    messages: str
    calls: str
    passed: str
    login: bool = False
    own_requests: bool = False


def envoy_filter(settings: IstioSettings) -> Resource:
    """The EnvoyFilter."""
    at_router = {"filter": {"name": _MANAGER, "subFilter": {"name": ROUTER}}}
    public = _hosts(settings.public_hosts)
    for_us = all_of(header(":authority", _matching(public)), header(":path", _matching(_PATH)), decided())
    chain = [
        only("mcpgw_buffer", buffer(settings.max_body), for_us),
        # Before every filter that may hold back an answer: see listener.py.
        only("mcpgw_messages", lua("mcpgw_messages", settings.messages), for_us),
        lazily("mcpgw_router", router(debug=False), all_of(for_us, undecided())),
        lua("mcpgw_calls", settings.calls),
    ]
    first: Resource = {"filter": {"name": _MANAGER}}
    behind_login: Resource = {"filter": {"name": _MANAGER, "subFilter": {"name": _JWT}}}
    manager = {
        "@type": type_url(_HCM),
        "early_header_mutation_extensions": [header_hygiene()],
        "local_reply_config": shared_replies(settings.max_body, _regex(public), _regex(_PATH), login=settings.login),
    }
    patches = [
        _patch("NETWORK_FILTER", "MERGE", {"name": _MANAGER, "typed_config": manager}, {"filter": {"name": _MANAGER}}),
        # Each patch inserts its filter as the first, so the last filter comes first.
        *(
            _patch("HTTP_FILTER", "INSERT_AFTER", http_filter, behind_login)
            if settings.login
            else _patch("HTTP_FILTER", "INSERT_FIRST", http_filter, first)
            for http_filter in reversed(chain)
        ),
        *([_patch("HTTP_FILTER", "INSERT_FIRST", _own(settings.internal_hosts), first)] if settings.own_requests else []),
        # Where a login is to be verified and is not, the filters above are not there: this one is.
        _patch("HTTP_FILTER", "INSERT_BEFORE", _refusal(settings.internal_hosts), at_router),
        _patch("HTTP_FILTER", "INSERT_BEFORE", passed(settings.passed), at_router),
        _patch("HTTP_FILTER", "MERGE", last(settings.refused, settings.heal), at_router),
        _patch("CLUSTER", "ADD", _bare(own_cluster(ROUTER_CLUSTER, settings.router, {"http2_protocol_options": {}}))),
        _patch("CLUSTER", "ADD", _bare(own_cluster(BROKER_CLUSTER, settings.broker, {"http_protocol_options": {}}))),
    ]
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": settings.name, "namespace": settings.namespace},
        "spec": {"workloadSelector": {"labels": settings.labels}, "configPatches": patches},
    }


def _patch(where: str, operation: str, value: Resource, listener: Resource | None = None) -> Resource:
    match: Resource = {"context": "GATEWAY"}
    if listener is not None:
        match["listener"] = {"filterChain": listener}
    return {"applyTo": where, "match": match, "patch": {"operation": operation, "value": value}}


def _bare(cluster: Resource) -> Resource:
    return {key: value for key, value in cluster.items() if key != "@type"}


def _hosts(hosts: tuple[str, ...]) -> str:
    """A regular expression for `:authority`, with or without a port."""
    if "*" in hosts:
        return ".*"
    patterns = [r"[^/]+\." + re.escape(host[2:]) if host.startswith("*.") else re.escape(host) for host in hosts]
    return f"(?i)({'|'.join(patterns)}){_PORT}"


def _regex(pattern: str) -> Resource:
    """A string matcher of Envoy's own types."""
    return {"safe_regex": {"regex": pattern}}


def _matching(pattern: str) -> Resource:
    """A string matcher of the xDS types, which name the engine."""
    return {"safe_regex": {"google_re2": {}, "regex": pattern}}


def _refusal(internal_hosts: tuple[str, ...]) -> Resource:
    """403 for a request to a server's internal host that the router did not send there."""
    rule = {
        "permissions": [{"header": {"name": ":authority", "string_match": _regex(_hosts(internal_hosts))}}],
        "principals": [{"not_id": {"header": {"name": h.X_SERVER, "present_match": True}}}],
    }
    rules = {"action": "DENY", "policies": {"around_the_router": rule}} if internal_hosts else {"action": "DENY"}
    return {"name": "mcpgw_refusal", "typed_config": {"@type": type_url(f"{HTTP}.rbac.v3.RBAC"), "rules": rules}}


def _own(internal_hosts: tuple[str, ...]) -> Resource:
    """The router's word for a request of the sidecar itself, which only that sidecar can know."""
    to_server = header(":authority", _matching(_hosts(internal_hosts)))
    return lazily("mcpgw_own", router(debug=False, with_body=False), all_of(to_server, header(h.X_OWN, _matching(".+"))))
