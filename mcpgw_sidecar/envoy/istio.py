"""An EnvoyFilter that puts the gateway into a gateway of Istio's: listeners, routes and clusters of servers stay Istio's.

| patch                                  | what it does                                                               |
|----------------------------------------|----------------------------------------------------------------------------|
| connection manager: early mutation     | removes what only the router may say, before the first look at the routes  |
| connection manager: local replies      | Envoy's own answers as JSON-RPC, for our hosts and calls alone             |
| filters, first of all                  | buffer, messages and router, for our hosts and path; refusal; calls        |
| Envoy's router: upstream filters       | heals a session that its server has forgotten                              |
| clusters                               | the sidecar's router and broker, beside this Envoy                         |

The filters stand before those of Istio, so that its policies see the call as it goes on: Host, `x-mcp-toolname`, `x-mcp-servername`.
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
    router,
    undecided,
)
from mcpgw_sidecar.envoy.replies import shared_replies
from mcpgw_sidecar.envoy.settings import Endpoint
from mcpgw_sidecar.model.names import ENDPOINT
from mcpgw_sidecar.protocol import headers as h

_MANAGER = "envoy.filters.network.http_connection_manager"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_PORT = "(:[0-9]+)?"
_PATH = rf"{ENDPOINT}([/?].*)?"  # virtual servers are below it


@attrs.frozen(kw_only=True)
class IstioSettings:
    """What the EnvoyFilter depends on. `labels` select the gateway's pods; hosts may be `*.x` for all below x.

    `internal_hosts` are those of servers' routes: only the router leads to them. `heal`, `messages` and `calls` are texts of Lua filters.
    """

    name: str
    namespace: str
    labels: dict[str, str]
    public_hosts: tuple[str, ...]
    internal_hosts: tuple[str, ...]
    broker: Endpoint
    router: Endpoint
    max_body: int
    heal: str
    messages: str
    calls: str


def envoy_filter(settings: IstioSettings) -> Resource:
    """The EnvoyFilter."""
    at_router = {"filter": {"name": _MANAGER, "subFilter": {"name": ROUTER}}}
    public = _hosts(settings.public_hosts)
    for_us = all_of(header(":authority", _matching(public)), header(":path", _matching(_PATH)), decided())
    chain = [
        only("mcpgw_buffer", buffer(settings.max_body), for_us),
        # Before whatever may hold back an answer: see listener.py.
        only("mcpgw_messages", lua("mcpgw_messages", settings.messages), for_us),
        lazily("mcpgw_router", router(debug=False), all_of(for_us, undecided())),
        _refusal(settings.internal_hosts),
        lua("mcpgw_calls", settings.calls),
    ]
    manager = {
        "@type": type_url(_HCM),
        "early_header_mutation_extensions": [header_hygiene()],
        "local_reply_config": shared_replies(settings.max_body, _regex(public), _regex(_PATH)),
    }
    patches = [
        _patch("NETWORK_FILTER", "MERGE", {"name": _MANAGER, "typed_config": manager}, {"filter": {"name": _MANAGER}}),
        # Each is put first, so they are named from the last to the first.
        *(_patch("HTTP_FILTER", "INSERT_FIRST", each, {"filter": {"name": _MANAGER}}) for each in reversed(chain)),
        _patch("HTTP_FILTER", "MERGE", last(settings.heal), at_router),
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
    """The same of the xDS types, which have the engine named."""
    return {"safe_regex": {"google_re2": {}, "regex": pattern}}


def _refusal(internal_hosts: tuple[str, ...]) -> Resource:
    """403 for whoever asks for a server's internal host and was not sent there by the router."""
    rule = {
        "permissions": [{"header": {"name": ":authority", "string_match": _regex(_hosts(internal_hosts))}}],
        "principals": [{"not_id": {"header": {"name": h.X_SERVER, "present_match": True}}}],
    }
    rules = {"action": "DENY", "policies": {"around_the_router": rule}} if internal_hosts else {"action": "DENY"}
    return {"name": "mcpgw_refusal", "typed_config": {"@type": type_url(f"{HTTP}.rbac.v3.RBAC"), "rules": rules}}
