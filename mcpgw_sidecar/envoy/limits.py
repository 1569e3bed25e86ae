"""Limits, as Envoy's own local rate limit counts them: buckets of tokens for all its workers.

A rate limit service counts for several gateways: Envoy asks it for each call and each new session.

The filters come after the router's, which says method, tool and server. That of new sessions is
made for initialize alone, those of calls are there only if such a limit is configured. Each
listener has buckets of its own: in the routes both would share them, and every change of a server
would fill them all.

A limited request is refused with 429 and `retry-after`; replies.py makes JSON-RPC of that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from mcpgw_sidecar.envoy.clusters import LIMITS_CLUSTER, Resource, duration, type_url
from mcpgw_sidecar.envoy.login import CLAIMS, JWT
from mcpgw_sidecar.model import access as limits
from mcpgw_sidecar.model.access import Authentication, CallLimit, LimitService, Rate
from mcpgw_sidecar.protocol import headers as h

LIMITED = 429
RETRY_AFTER, WORDS = "retry-after", "x-mcp-limit"
RESET = "x-ratelimit-reset"  # seconds, as Envoy writes what a rate limit service says
MAX_KEYS = 10_000  # buckets of one limit; the one that was not used for longest is forgotten
_LOCAL = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ADDRESS: Resource = {"masked_remote_address": {"v6_prefix_mask_len": 64}}  # a client of IPv6 has a whole /64
_SUBJECT: Resource = {"request_headers": {"header_name": h.X_SUBJECT, "descriptor_key": "subject"}}
_ISSUER: Resource = {
    "metadata": {"descriptor_key": "issuer", "metadata_key": {"key": JWT, "path": [{"key": CLAIMS}, {"key": "iss"}]}}
}
_NOBODY: Resource = {
    "header_value_match": {
        "descriptor_key": "nobody",
        "descriptor_value": "yes",
        "headers": [{"name": h.X_SUBJECT, "present_match": True, "invert_match": True}],
    }
}
_METHOD: Resource = {"request_headers": {"header_name": h.X_METHOD, "descriptor_key": "method"}}
_KEYS: dict[str, Resource] = {
    limits.TOOL: {"request_headers": {"header_name": h.X_TOOL, "descriptor_key": limits.TOOL}},
    limits.SERVER: {"request_headers": {"header_name": h.X_SERVER, "descriptor_key": limits.SERVER}},
}


def new_sessions(rate: Rate) -> Resource:
    """The filter for new sessions, by address."""
    words = f"at most {rate.count} new sessions a second of one address"
    return _filter("mcpgw_new_sessions", rate, [[_ADDRESS]], words)


def of_calls(calls: tuple[CallLimit, ...], authentication: Authentication | None = None) -> list[Resource]:
    """The filters of the limits of calls, in order.

    After a login a caller is its subject, with its issuer where there are several. Who need not log
    in and does not is an address.
    """
    return [
        _filter(
            f"mcpgw_limit_{index}",
            each.rate,
            [
                [*_conditions(each), *caller, *(_KEYS[key] for key in each.each if key != limits.CALLER)]
                for caller in (_callers(authentication) if limits.CALLER in each.each else [[]])
            ],
            each.words,
        )
        for index, each in enumerate(calls)
    ]


def of_service(service: LimitService, authentication: Authentication | None = None) -> Resource:
    """The filter that asks a rate limit service.

    The descriptors of a call are: server and tool; server; method; each with the caller behind it,
    and without. The service's own rules say which of them have a limit.

    Of several limits Envoy tells the client the first with the least room, so the narrow ones stand
    first. Where the service says when there is room again, replies.py repeats that.
    """
    server, tool = _KEYS[limits.SERVER], _KEYS[limits.TOOL]
    called = ([server, tool], [server], [_METHOD])
    ways = [[*what, *caller] for what in called for caller in (*_callers(authentication), [])]
    url = urlsplit(service.url)
    told = {RETRY_AFTER: "1", WORDS: "a limit of this gateway's rate limit service"}
    config = {
        "@type": type_url("envoy.extensions.filters.http.ratelimit.v3.RateLimit"),
        "domain": service.domain,
        "timeout": duration(service.timeout),
        "failure_mode_deny": service.fails_closed,
        "status_on_error": {"code": "ServiceUnavailable"},
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limits": [{"actions": actions} for actions in ways],
        "rate_limit_service": {
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": LIMITS_CLUSTER, "authority": url.netloc or "localhost"},
                "timeout": duration(service.timeout),
            },
        },
        "response_headers_to_add": overwriting(told),
    }
    return {"name": "mcpgw_limit_service", "typed_config": config}


def _callers(authentication: Authentication | None) -> list[list[Resource]]:
    """The actions that tell callers apart; of several lists the one that applies."""
    if authentication is None:
        return [[_ADDRESS]]
    known = [_SUBJECT, *([_ISSUER] if len(authentication.issuers) > 1 else [])]
    return [known] if authentication.required else [known, [_NOBODY, _ADDRESS]]


def _filter(name: str, rate: Rate, ways: list[list[Resource]], words: str) -> Resource:
    """A limit of the requests to which all actions of a way apply; each value has a bucket."""
    tokens, seconds = rate.fill
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    told = {RETRY_AFTER: str(rate.retry_after), WORDS: words}
    bucket = {"max_tokens": rate.burst, "tokens_per_fill": tokens, "fill_interval": duration(seconds)}
    config = {
        "@type": type_url(_LOCAL),
        "stat_prefix": name,
        "filter_enabled": always,
        "filter_enforced": always,
        "max_dynamic_descriptors": MAX_KEYS,
        "rate_limits": [{"actions": actions} for actions in ways],
        "descriptors": [{"entries": [_entry(action) for action in actions], "token_bucket": bucket} for actions in ways],
        "response_headers_to_add": overwriting(told),
    }
    return {"name": name, "typed_config": config}


def overwriting(headers: Mapping[str, str]) -> list[Resource]:
    """Headers that Envoy adds to an answer, in place of any of the same name."""
    return [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers.items()
    ]


def _entry(action: Resource) -> Resource:
    """The entry of a descriptor that an action makes. Without a value it stands for each value."""
    match action:
        case {"header_value_match": {"descriptor_key": key, "descriptor_value": value}}:
            return {"key": key, "value": value}
        case {"request_headers": {"descriptor_key": key}} | {"metadata": {"descriptor_key": key}}:
            return {"key": key}
        case _:
            return {"key": "masked_remote_address"}


def _conditions(limit: CallLimit) -> list[Resource]:
    """A call of one of the tools, of one of the servers; the router names them."""
    return [
        {
            "header_value_match": {
                "descriptor_key": f"of_{key}",
                "descriptor_value": "yes",
                "headers": [{"name": name, "string_match": {"safe_regex": {"regex": _regex(globs or ("*",))}}}],
            }
        }
        for key, name, globs in ((limits.TOOL, h.X_TOOL, limit.tools), (limits.SERVER, h.X_SERVER, limit.servers))
        if globs or key == limits.TOOL
    ]


def _regex(globs: tuple[str, ...]) -> str:
    """Globs, as Envoy finds the names: in headers that hold them encoded (protocol/headers.py)."""
    return "|".join(".*".join(re.escape(h.value_of(part)) for part in glob.split("*")) for glob in globs)
