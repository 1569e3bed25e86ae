"""The filters of the gateway, each as a value.

listener.py puts them into a listener of ours, istio.py into one of Istio's.
"""

from __future__ import annotations

from mcpgw_sidecar.envoy.clusters import Resource, duration, type_url
from mcpgw_sidecar.envoy.contract import (
    METADATA,
    RESTART,
    ROUTER_CLUSTER,
)
from mcpgw_sidecar.envoy.limits import new_sessions, of_service
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.access import Authentication, LimitService, Rate
from mcpgw_sidecar.model.servers import EXCHANGED
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.methods import INITIALIZE
from mcpgw_sidecar.protocol.owners import PREFIX

HTTP = "envoy.extensions.filters.http"
ROUTER = "envoy.filters.http.router"
_MATCHING = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"


def header_hygiene(*more: Resource, kept: str = "") -> Resource:
    """Remove the headers that only the router may set, and `more`, before the first look at routes.

    The header `kept` stays. An early header mutation: a filter would come too late.
    """
    removed: list[Resource] = [*({"remove": name} for name in h.OURS if name != kept), *more]
    removed.append({"remove_on_match": {"key_matcher": {"prefix": EXCHANGED}}})
    return {
        "name": "mcpgw_header_hygiene",
        "typed_config": {
            "@type": type_url("envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"),
            "mutations": removed,
        },
    }


def buffer(max_body: int) -> Resource:
    """413 above the limit; makes the whole body one message for the router."""
    config = {"@type": type_url(f"{HTTP}.buffer.v3.Buffer"), "max_request_bytes": max_body}
    return {"name": "envoy.filters.http.buffer", "typed_config": config}


def router(*, debug: bool, request: float = timeouts.REQUEST, with_body: bool = True) -> Resource:
    """The router as an external processor.

    `request` is the longest time of one of its own requests to a server, in seconds. It sees no
    body, if not `with_body`.
    """
    ext_proc = {
        "@type": type_url(f"{HTTP}.ext_proc.v3.ExternalProcessor"),
        "grpc_service": {"envoy_grpc": {"cluster_name": ROUTER_CLUSTER}, "retry_policy": dict(RESTART)},
        "stat_prefix": "mcpgw_router",
        "message_timeout": duration(timeouts.router(request)),
        "status_on_error": {"code": "ServiceUnavailable"},
        "mutation_rules": {"allow_all_routing": True},
        "metadata_options": {"receiving_namespaces": {"untyped": [METADATA]}},
        "allow_mode_override": debug,
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED" if with_body else "NONE",
            "request_trailer_mode": "SKIP",
            "response_header_mode": "SKIP",
            "response_body_mode": "NONE",
            "response_trailer_mode": "SKIP",
        },
    }
    return {"name": "envoy.filters.http.ext_proc", "typed_config": ext_proc}


def decided() -> Resource:
    """The requests that the router decides: POST, and GET that resumes a server's stream.

    All others are the broker's, whatever they hold.
    """
    resumed = all_of(header(":method", {"exact": "GET"}), header(h.LAST_EVENT, {"prefix": PREFIX}))
    return _any_of(header(":method", {"exact": "POST"}), resumed)


def undecided() -> Resource:
    """Nobody has said yet where the request goes: memo.lua does, for what it knows."""
    return {"not_matcher": header(h.X_SERVER, {"safe_regex": {"google_re2": {}, "regex": ".+"}})}


def limited(sessions: Rate) -> Resource:
    """The limit of new sessions. memo.lua, or the router in its place, has found initialize."""
    return lazily("mcpgw_new_sessions", new_sessions(sessions), header(h.X_METHOD, {"exact": INITIALIZE}))


def limit_service(service: LimitService, authentication: Authentication | None) -> Resource:
    """The question to a rate limit service: for a call of a tool, and for a new session.

    The headers of the condition are set by memo.lua or the router, once, before this filter.
    """
    called = header(h.X_TOOL, {"safe_regex": {"google_re2": {}, "regex": ".+"}})
    when = _any_of(called, header(h.X_METHOD, {"exact": INITIALIZE}))
    return lazily("mcpgw_limit_service", of_service(service, authentication), when)


def lazily(name: str, extension: Resource, when: Resource) -> Resource:
    """A filter that Envoy makes when a request needs it.

    An ext_proc filter that is only skipped costs a call more than all of memo.lua.
    """
    action = {
        "@type": type_url(f"{HTTP}.composite.v3.ExecuteFilterAction"),
        "typed_config": extension,
    }
    matcher = {"predicate": when, "on_match": {"action": {"name": "composite-action", "typed_config": action}}}
    composite = {
        "name": "envoy.filters.http.composite",
        "typed_config": {"@type": type_url(f"{HTTP}.composite.v3.Composite")},
    }
    return _matched(name, composite, _matchers(matcher))


def only(name: str, extension: Resource, when: Resource) -> Resource:
    """A filter that is there for some requests alone."""
    return unless(name, extension, {"not_matcher": when})


def unless(name: str, extension: Resource, when: Resource) -> Resource:
    """A filter that is there for all requests but some."""
    return _matched(name, extension, _matchers({"predicate": when, "on_match": {"action": _SKIP}}))


_SKIP: Resource = {
    "name": "skip",
    "typed_config": {"@type": type_url("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")},
}


def _skip_answers() -> Resource:
    """A matcher by two lookups, which cost less than conditions."""

    def tree(name: str, how: str, matches: Resource) -> Resource:
        found = {"@type": type_url("envoy.type.matcher.v3.HttpResponseHeaderMatchInput"), "header_name": name}
        return {"matcher_tree": {"input": {"name": "header", "typed_config": found}, how: {"map": matches}}}

    is_success = tree(":status", "exact_match_map", {"200": {"action": _SKIP}})
    return tree("content-type", "prefix_match_map", {kind: {"matcher": is_success} for kind in (h.JSON, h.EVENT_STREAM)})


def _matchers(*matchers: Resource) -> Resource:
    return {"matcher_list": {"matchers": list(matchers)}}


def _matched(name: str, extension: Resource, matcher: Resource) -> Resource:
    return {
        "name": name,
        "typed_config": {
            "@type": type_url(_MATCHING),
            "xds_matcher": matcher,
            "extension_config": extension,
        },
    }


def lua(name: str, source: str, **more: bool) -> Resource:
    """A Lua filter."""
    config = {"@type": type_url(f"{HTTP}.lua.v3.Lua"), "default_source_code": {"inline_string": source}, **more}
    return {"name": name, "typed_config": config}


def passed(source: str) -> Resource:
    """The filter that takes the headers away that a server does not get (last.lua).

    The route is chosen by then, perhaps by one of these headers.
    """
    there = header(h.X_PASSED, {"safe_regex": {"google_re2": {}, "regex": ".+"}})
    return only("mcpgw_passed", lua("mcpgw_passed", source, clear_route_cache=False), there)


def messages(source: str) -> Resource:
    """The Lua filter of calls and their answers.

    It is skipped for a client's own stream, and for an answer in which nothing is named or kept.
    Envoy evaluates a condition on the request once more with the answer; `undecided` keeps it from
    being true only then.
    """
    listening = all_of(header(":method", {"exact": "GET"}), {"not_matcher": decided()}, undecided())
    nothing = all_of(
        _answer("content-type", {"prefix": "application/json"}),
        _answer(":status", {"exact": "200"}),
        *({"not_matcher": _answer(name, {"safe_regex": {"google_re2": {}, "regex": ".*"}})} for name in (h.X_MEMO, h.X_ID)),
    )
    return unless("mcpgw_messages", lua("mcpgw_messages", source), _any_of(nothing, listening))


def last(refused: str, heal: str) -> Resource:
    """Envoy's own router, with refused.lua and heal.lua where they have something to do."""
    config = {"@type": type_url(f"{HTTP}.router.v3.Router"), "upstream_http_filters": at_server(refused, heal)}
    return {"name": ROUTER, "typed_config": config}


def at_server(refused: str, heal: str, *more: Resource) -> list[Resource]:
    """The filters of each attempt at a server; a cluster with `more` has them, not the router."""
    # Attempts share the headers: heal.lua removes the mark at the first attempt.
    again = header(h.ATTEMPT, {"safe_regex": {"google_re2": {}, "regex": "[2-9]"}})
    something = _any_of(again, header(h.X_MEMO, {"exact": h.KEPT}))
    codec = {"@type": type_url(f"{HTTP}.upstream_codec.v3.UpstreamCodec")}
    return [
        _matched("mcpgw_refused", lua("mcpgw_refused", refused), _skip_answers()),
        only("mcpgw_heal", lua("mcpgw_heal", heal), something),
        *more,
        {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
    ]


def all_of(*predicates: Resource) -> Resource:
    """A predicate."""
    return {"and_matcher": {"predicate": list(predicates)}}


def _any_of(*predicates: Resource) -> Resource:
    return {"or_matcher": {"predicate": list(predicates)}}


def header(name: str, value: Resource) -> Resource:
    """A predicate on the request."""
    return _header("HttpRequestHeaderMatchInput", name, value)


def _answer(name: str, value: Resource) -> Resource:
    """A predicate on the answer's headers."""
    return _header("HttpResponseHeaderMatchInput", name, value)


def _header(kind: str, name: str, value: Resource) -> Resource:
    found = {"@type": type_url(f"envoy.type.matcher.v3.{kind}"), "header_name": name}
    return {"single_predicate": {"input": {"name": "header", "typed_config": found}, "value_match": value}}
