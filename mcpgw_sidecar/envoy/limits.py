"""Limits, as Envoy's own local rate limit counts them: buckets of tokens for all its workers.

New sessions are counted before the router has any work with them, in a composite filter that other
requests pass for the price of one lookup. Limits of calls stand in the routes, so that the clients'
listener and the inner one share the buckets; their filters come after the router's, which says the
tool and the server, and are there only if such a limit is configured.

A limited request is refused with 429 and `retry-after`; replies.py makes JSON-RPC of that.
"""

from __future__ import annotations

import re

from mcpgw_sidecar.envoy.clusters import Resource, duration, type_url
from mcpgw_sidecar.model import access as limits
from mcpgw_sidecar.model.access import CallLimit, Rate
from mcpgw_sidecar.protocol import headers as h

LIMITED = 429
RETRY_AFTER, WORDS = "retry-after", "x-mcp-limit"
MAX_KEYS = 10_000  # buckets of one limit; the one that was not used for longest is forgotten
_LOCAL = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
# For requests to which a limit does not apply; Envoy wants one in a route.
_PLENTY: Resource = {"max_tokens": 4_294_967_295, "tokens_per_fill": 4_294_967_295, "fill_interval": "1s"}
_ADDRESS: Resource = {"masked_remote_address": {"v6_prefix_mask_len": 64}}  # a client of IPv6 has a whole /64
_KEYS: dict[str, Resource] = {
    limits.CALLER: _ADDRESS,
    limits.TOOL: {"request_headers": {"header_name": h.X_TOOL, "descriptor_key": limits.TOOL}},
    limits.SERVER: {"request_headers": {"header_name": h.X_SERVER, "descriptor_key": limits.SERVER}},
}


def new_sessions(rate: Rate) -> Resource:
    """The filter for new sessions, by address."""
    words = f"at most {rate.count} new sessions a second of one address"
    return _filter("mcpgw_new_sessions", _limit(rate, [_ADDRESS], words))


def filters(calls: tuple[CallLimit, ...]) -> list[Resource]:
    """The filters of the limits of calls, in order; what they count stands in the routes."""
    return [_filter(_name(index), _local(_name(index))) for index, _ in enumerate(calls)]


def per_route(calls: tuple[CallLimit, ...]) -> dict[str, Resource]:
    """What the filters count, for all routes: the configuration of each by its name."""
    return {
        _name(index): _limit(each.rate, [*_conditions(each), *(_KEYS[key] for key in each.each)], each.words, _name(index))
        for index, each in enumerate(calls)
    }


def _name(index: int) -> str:
    return f"mcpgw_limit_{index}"


def _filter(name: str, config: Resource) -> Resource:
    return {"name": name, "typed_config": config}


def _local(name: str) -> Resource:
    return {"@type": type_url(_LOCAL), "stat_prefix": name}


def _limit(rate: Rate, actions: list[Resource], words: str, name: str = "mcpgw_new_sessions") -> Resource:
    """A limit of the requests to which all actions apply; each value of theirs has a bucket."""
    tokens, seconds = rate.fill
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    told = {RETRY_AFTER: str(rate.retry_after), WORDS: words}
    bucket = {"max_tokens": rate.burst, "tokens_per_fill": tokens, "fill_interval": duration(seconds)}
    return {
        **_local(name),
        "filter_enabled": always,
        "filter_enforced": always,
        "token_bucket": _PLENTY,
        "always_consume_default_token_bucket": False,
        "max_dynamic_descriptors": MAX_KEYS,
        "rate_limits": [{"actions": actions}],
        "descriptors": [{"entries": [_entry(action) for action in actions], "token_bucket": bucket}],
        "response_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in told.items()
        ],
    }


def _entry(action: Resource) -> Resource:
    """The entry of a descriptor that an action makes. Without a value it stands for each value."""
    match action:
        case {"header_value_match": {"descriptor_key": key, "descriptor_value": value}}:
            return {"key": key, "value": value}
        case {"request_headers": {"descriptor_key": key}}:
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
    return "|".join(".*".join(re.escape(part) for part in glob.split("*")) or ".+" for glob in globs)
