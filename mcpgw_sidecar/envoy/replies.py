"""Envoy's own answers, as JSON-RPC errors (local_reply_config).

The router, or the memo in its place, sets the raw text of the request's `id` as dynamic metadata
`mcpgw`. Envoy writes it into the answer without quotes, so an id keeps its type and every digit.
Without metadata the body was never read, and `id` is null.

The first match wins. An answer of the router (metadata `answered`) goes to the client unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from mcpgw_sidecar.envoy.clusters import Resource, type_url
from mcpgw_sidecar.envoy.contract import ANSWERED, ID, METADATA, REFUSED, WHAT
from mcpgw_sidecar.envoy.flags import BROKEN, NO_ROUTE, NONSENSE, SILENT, UNCOUNTED, UNREACHABLE
from mcpgw_sidecar.envoy.limits import LIMITED, RESET, RETRY_AFTER, WORDS, overwriting
from mcpgw_sidecar.envoy.login import FAILED as TOKEN_FAILED, JWT
from mcpgw_sidecar.inbound.callers import UNAUTHORIZED, WELL_KNOWN
from mcpgw_sidecar.model import reasons
from mcpgw_sidecar.model.access import Authentication
from mcpgw_sidecar.model.names import BROKER
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR
from mcpgw_sidecar.protocol.versions import STATELESS

_ID = f"%DYNAMIC_METADATA({METADATA}:{ID})%"
_SERVER = f"%REQ({h.X_SERVER})%"
_WHAT = f"%DYNAMIC_METADATA({METADATA}:{WHAT})%"
_TOOL = f"%REQ({h.X_TOOL})%"
_WORDS, _AFTER = f"%RESP({WORDS})%", f"%RESP({RESET}?{RETRY_AFTER})%"
_BAD_TOKEN = "Unauthorized: the token was refused: get a new one"  # noqa: S105  # words
_CHALLENGE = "www-authenticate"
_STATEFUL_CODE = re.compile(r'"code":-320[01]\d\b')
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_LIMIT = f"%METADATA(ROUTE:{METADATA}:limit)%"


def local_replies(max_body: int, authentication: Authentication | None = None) -> Resource:
    """The local replies of the gateway's own connection manager."""
    mappers = [
        _of_the_router(),
        *(_refused_tokens(authentication) if authentication is not None else []),
        *_mappers(max_body, f"more than {_LIMIT}"),
        _mapper(_status(504), 504, _error("null", -32000, "The gateway's sidecar did not decide in time: try again")),
        _mapper(_status(404), 404, "%LOCAL_REPLY_BODY%"),
    ]
    body = {"inline_string": _error("null", -32000, "%RESPONSE_CODE_DETAILS%")}
    return {
        "mappers": _in_both_eras(mappers),
        "body_format": {"text_format_source": body, "content_type": "application/json"},
    }


def _of_the_router() -> Resource:
    """An answer of the router passes unchanged."""
    return _mapper(_has(ANSWERED), None, "%LOCAL_REPLY_BODY%")


def _refused_tokens(authentication: Authentication) -> list[Resource]:
    """What jwt_authn refuses: 401 with a challenge; 503 while the keys of an issuer are missing."""
    metadata = {"filter": JWT, "path": [{"key": TOKEN_FAILED}, {"key": "message"}]}
    no_keys = {"string_match": {"exact": "Jwks remote fetch is failed"}}
    unknown = {"metadata_filter": {"matcher": metadata | {"value": no_keys}, "match_if_key_not_found": False}}
    refused: Resource = {"or_filter": {"filters": [_status(401), _status(403)]}}
    sent = _header("authorization", {"prefix": "Bearer ", "ignore_case": True})
    away = "The keys of this gateway's authorization server cannot be had at the moment: try again"
    none = "Unauthorized: send the Bearer token of an authorization server that this gateway trusts"
    where = _challenge(authentication)
    return [
        _mapper(_all(refused, unknown), 503, _error("null", -32000, away), {"retry-after": "5"}),
        _mapper(
            _all(refused, sent),
            401,
            _error("null", UNAUTHORIZED, _BAD_TOKEN),
            {_CHALLENGE: f'{where}, error="invalid_token"', "cache-control": "no-store"},
        ),
        _mapper(refused, 401, _error("null", UNAUTHORIZED, none), {_CHALLENGE: where, "cache-control": "no-store"}),
        # A subject with control characters, which no header can have.
        _mapper(
            _all(_flags(["DPE"]), {"header_filter": {"header": {"name": h.X_CLAIMS, "present_match": True}}}),
            401,
            _error("null", UNAUTHORIZED, "Unauthorized: the token names no subject"),
            {_CHALLENGE: f'{where}, error="invalid_token"'},
        ),
    ]


def _challenge(authentication: Authentication | None) -> str:
    """As `inbound.callers.challenge` writes it."""
    origin = "%REQ(X-FORWARDED-PROTO)%://%REQ(:AUTHORITY)%"
    if authentication is not None and authentication.resource is not None:
        parts = urlsplit(authentication.resource)
        origin = f"{parts.scheme}://{parts.netloc}"
    return f'Bearer resource_metadata="{origin}{WELL_KNOWN}%PATH(NQ:PATH)%"'


def shared_replies(max_body: int, host: Resource, path: Resource, *, login: bool = False) -> Resource:
    """The local replies of a connection manager that serves other routes, too.

    `host` and `path` match the gateway's requests; replies to other requests stay unchanged. With
    `login` a RequestAuthentication verifies tokens.
    """
    own_requests = _all(_header(":authority", host), _header(":path", path))
    of_istio = [_forbidden(), *([_refused_by_istio(own_requests)] if login else [])]
    mappers = [_of_the_router(), *of_istio, *_mappers(max_body, "its limit", own_requests)]
    return {"mappers": _in_both_eras(mappers)}


def _forbidden() -> Resource:
    """What an AuthorizationPolicy refuses."""
    forbidden = _error(_ID, -32000, "Forbidden: a policy of this gateway does not allow it")
    return _mapper(_all(_status(403), _has(ID)), 403, forbidden)


def _refused_by_istio(own_requests: Resource) -> Resource:
    """What a RequestAuthentication refuses: it says 403 where the token is for somebody else."""
    bad = _error("null", UNAUTHORIZED, _BAD_TOKEN)
    challenge = {_CHALLENGE: f'{_challenge(None)}, error="invalid_token"', "cache-control": "no-store"}
    by_jwt = {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": type_url("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"),
                "expression": "response.code_details.startsWith('jwt_authn')",
            },
        }
    }
    return _mapper(_all(by_jwt, own_requests), 401, bad, challenge)


def _mappers(max_body: int, limit: str, own_requests: Resource | None = None) -> list[Resource]:
    """The mappers in their order.

    A request with metadata of ours is one of the gateway's. Without metadata a request is, if
    `own_requests` is None or matches it.
    """

    def ours(status: int) -> Resource:
        return _status(status) if own_requests is None else _all(_status(status), own_requests)

    at_server = _all(
        _has(ID),
        _header(h.X_SERVER, {"exact": BROKER}, invert_match=True),
        _header(":method", {"exact": "POST"}),  # a resumed stream is no request: it keeps its status
    )
    not_running = "The gateway's sidecar is not running: known sessions go on when it is back; try again"
    unreachable = f"MCP server {_SERVER} is unreachable: try again, and tell its operator if that lasts"
    nonsense = f"MCP server {_SERVER} answered no HTTP: tell its operator"
    broken = f"MCP server {_SERVER} broke the connection before it answered"
    slow = f"MCP server {_SERVER} was silent for {limit} in a call of "
    unknown = f"MCP server {_SERVER} is not known to Envoy yet: try again"
    no_route = f"No route of the gateway leads to MCP server {_SERVER}: try again, and look at its HTTPRoute if that lasts"
    # In Istio others count, who need not say when there is room again.
    is_ours = own_requests is None
    limited = f"Limited: {_WORDS}; try again in {_AFTER} s" if is_ours else "Limited: too many requests: try again later"
    seconds = f',"retryAfterSeconds":{_AFTER}' if is_ours else ""
    limited_data = f',"data":{{"reason":"{reasons.LIMITED}"{seconds}}}'
    after = {RETRY_AFTER: _AFTER} if is_ours else _NO_HEADERS
    uncounted = "The limits of this gateway cannot be counted at the moment: try again, and tell its operator if that lasts"
    uncounted_data, soon = f',"data":{{"reason":"{reasons.LIMITED}"}}', {RETRY_AFTER: "5"}
    large = f"Request body too large: at most {max_body} bytes"
    return [
        _mapper(_all(_flags(NONSENSE), at_server), 200, _failure(reasons.BAD_ANSWER, nonsense)),
        _mapper(_all(_flags(BROKEN), at_server), 200, _failure(reasons.BROKEN_OFF, broken)),
        _mapper(_all(_flags(UNREACHABLE), at_server), 200, _failure(reasons.UNREACHABLE, unreachable)),
        # Never 404: for a client that is the end of its session.
        _mapper(_all(_flags(NO_ROUTE), at_server), 200, _failure(reasons.UNREACHABLE, no_route)),
        _mapper(_all(_flags(SILENT), at_server, _has(WHAT)), 200, _failure(reasons.TIMEOUT, slow + _WHAT)),
        # The memo sets only the metadata that it must, and repeats only names without quotes
        # (extproc/codec.py).
        _mapper(_all(_flags(SILENT), at_server), 200, _failure(reasons.TIMEOUT, slow + _TOOL)),
        # The server's own answer, which refused.lua has kept, and heal.lua gives back.
        _mapper(_all(_has(REFUSED), at_server), None, "%LOCAL_REPLY_BODY%"),
        _mapper(_all(_status(LIMITED), at_server), 200, _error(_ID, -32000, limited, limited_data), after),
        _mapper(_all(_status(LIMITED), _has(ID)), LIMITED, _error(_ID, -32000, limited, limited_data), after),
        _mapper(ours(LIMITED), LIMITED, _error("null", -32000, limited, limited_data)),
        _mapper(_all(_flags(UNCOUNTED), at_server), 200, _error(_ID, -32000, uncounted, uncounted_data)),
        _mapper(_all(_flags(UNCOUNTED), _has(ID)), 503, _error(_ID, -32000, uncounted, uncounted_data), soon),
        _mapper(_all(_status(503), at_server), 200, _failure(reasons.UNREACHABLE, unknown)),
        _mapper(_all(_status(503), _has(ID)), 503, _error(_ID, -32000, not_running)),
        _mapper(ours(503), 503, _error("null", -32000, not_running)),
        _mapper(ours(413), 413, _error("null", -32600, large)),
    ]


def _in_both_eras(mappers: list[Resource]) -> list[Resource]:
    """The mappers; one whose code the stateless era lacks stands twice, first for that era."""
    return [each for mapper in mappers for each in (*_stateless(mapper), mapper)]


def _stateless(mapper: Resource) -> list[Resource]:
    body = mapper["body_format_override"]["text_format_source"]["inline_string"]
    changed = _STATEFUL_CODE.sub(f'"code":{INTERNAL_ERROR}', body)
    if changed == body:
        return []
    text = {"text_format_source": {"inline_string": changed}, "content_type": "application/json"}
    in_era = [_all(_header(h.VERSION, {"exact": version}), mapper["filter"]) for version in STATELESS]
    return [mapper | {"filter": condition, "body_format_override": text} for condition in in_era]


def _header(name: str, value: Resource, **more: bool) -> Resource:
    return {"header_filter": {"header": {"name": name, "string_match": value, **more}}}


def _error(ident: str, code: int, message: str, data: str = "") -> str:
    return f'{{"jsonrpc":"2.0","id":{ident},"error":{{"code":{code},"message":"{message}"{data}}}}}'


def _failure(reason: str, message: str) -> str:
    """The failure of one server, as `protocol.statuses.failure` says it."""
    return _error(_ID, -32000, message, f',"data":{{"server":"{_SERVER}","reason":"{reason}"}}')


def _mapper(condition: Resource, status: int | None, body: str, headers: Mapping[str, str] = _NO_HEADERS) -> Resource:
    mapper: Resource = {
        "filter": condition,
        "body_format_override": {"text_format_source": {"inline_string": body}, "content_type": "application/json"},
    }
    added = {"headers_to_add": overwriting(headers)} if headers else {}
    return mapper | ({"status_code": status} if status else {}) | added


def _has(key: str) -> Resource:
    matcher = {"filter": METADATA, "path": [{"key": key}], "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _flags(flags: list[str]) -> Resource:
    return {"response_flag_filter": {"flags": flags}}


def _status(code: int) -> Resource:
    return {
        "status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "mcpgw.none"}}}
    }


def _all(*filters: Resource) -> Resource:
    return {"and_filter": {"filters": list(filters)}}
