"""The one ladder for every request, whether the router or the broker receives it first.

The first failure wins:

1. the gateway serves the Host, and allows the Origin (guard.py)             else 421, 403
2. path and header name the endpoint and one virtual server (virtual.py)     else 404, 400
3. the HTTP method is POST, GET or DELETE                                    else 405
4. POST: the body is declared as JSON                                        else 415
5. who has to log in has (callers.py): Envoy has judged the token            else 401, 403
6. POST: the body is one JSON-RPC message, or a batch of them from a client
   whose version has batches (2025-03-26), where the operator allows them    else 400
7. the stateless era is served, or for server/discover offered (eras.py)     else 400, -32601: every
                                                                             SDK then initializes
8. the protocol version is spoken here (eras.py); initialize negotiates      else 400
9. there is a virtual server of that name                                    else 404
10. stateful: the session lives, and is the caller's; initialize needs none  else 400, 404 (-32001)
11. stateful GET: the client takes an event stream                           else 406
12. stateless: a POST of one request, whose envelope is good (envelope.py),  else 405, 400, 404
    or of a notification

The size of a body (413) is measured where the body is read, before this ladder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from mcpgw_sidecar.catalog.rights import rules_of
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.catalog.views import is_open, view_of
from mcpgw_sidecar.inbound.callers import Caller, Keys, caller_of, no_keys
from mcpgw_sidecar.inbound.eras import Era, era_of, offers, serves_stateless
from mcpgw_sidecar.inbound.guard import Guard
from mcpgw_sidecar.inbound.virtual import scope_of, unknown
from mcpgw_sidecar.model.decisions import HttpRequest, Reject
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import NULL, JsonText, Scope
from mcpgw_sidecar.model.sessions import SessionFault, SessionState
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.envelope import check
from mcpgw_sidecar.protocol.extensions import UI, declares
from mcpgw_sidecar.protocol.jsonrpc import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    SERVER_ERROR,
    SESSION_NOT_FOUND,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    is_batch,
    parse_message,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, parse_array
from mcpgw_sidecar.protocol.methods import DISCOVER, INITIALIZE, TARGETS
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.protocol.versions import BATCHED, LATEST_STATEFUL, META_VERSION

MAX_BATCH = 100  # messages; each may be a call, and they run at the same time
_NO_BATCHES = "Invalid Request: this gateway takes no batches (--batches refuse, or an Envoy that is not its own): send each message alone"
# Lists of parameters (Digest) have commas, too.
_TWO_TOKENS = re.compile(r",\s*(bearer|basic|digest|negotiate)\s", re.IGNORECASE)
_EVENT_STREAM = ("text/event-stream", "text/*", "*/*")
_METHODS = frozenset({"POST", "GET", "DELETE"})
_FINAL = frozenset({400, 403, 405, 406, 413, 415, 421})


@attrs.frozen
class Batch:
    """The messages of a batch, each as its own text."""

    texts: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Inbound:
    """A request that has passed the ladder: its message, era, session, scope and view.

    `message` is None for GET and DELETE. `session` is None for initialize and in the stateless era.
    `view` is the part of the catalog of this era that `scope` sees. `caller` is None where nobody
    has to say who they are.
    """

    message: Message | Batch | None
    era: Era
    session: SessionState | None
    scope: Scope
    view: Snapshot
    caller: Caller | None = None

    @property
    def method(self) -> str:
        """The method of a request or notification; "" for anything else."""
        return method_of(self.message)

    @property
    def id(self) -> JsonText:
        """The id of a request, or null."""
        return self.message.id if isinstance(self.message, Request) else NULL


def classify(
    request: HttpRequest,
    session: SessionState | SessionFault,
    catalog: Snapshot,
    guard: Guard,
    keys: Keys = no_keys,
) -> Inbound | Reject:
    """Take a request through the ladder. `session` is that of the request's `Mcp-Session-Id`.

    `keys` returns what is known of the keys of an issuer.
    """
    scope = _scope(request, guard)
    if isinstance(scope, Reject):
        return _with_names(scope, request, catalog)
    caller = caller_of(request.headers, catalog.access.authentication, keys)
    if isinstance(caller, Reject):
        return caller
    message = None if request.method != "POST" else _message(request, session, guard)
    if isinstance(message, Reject):
        return _with_names(message, request, catalog)
    owner = caller.owner if caller is not None else ""
    if isinstance(session, SessionState) and session.session.owner != owner:
        session = SessionFault.UNKNOWN
    claims = caller.claims if caller is not None else None
    inbound: Inbound | Reject
    era = _era(request, message, catalog, guard)
    if isinstance(era, Reject):
        inbound = era
    elif era is Era.STATELESS:
        inbound = _stateless(request, message, catalog, scope, claims)
    else:
        inbound = _stateful(request, message, session, catalog, scope, claims)
    if isinstance(inbound, Reject):
        ident = message.id if isinstance(message, Request) else NULL
        return _with_names(attrs.evolve(inbound, id=ident), request, catalog)
    return attrs.evolve(inbound, caller=caller)


def _has_apps(message: Message | Batch | None, session: SessionState | SessionFault) -> bool:
    """Whether the client shows pages (MCP Apps): its session says so, or its initialize."""
    if isinstance(session, SessionState):
        return declares(session.session, UI)
    if not isinstance(message, Request):
        return False
    capabilities = [member.value for member in message.params or [] if member.key == "capabilities"]
    extensions = capabilities[0].get("extensions") if capabilities and isinstance(capabilities[0], dict) else None
    return isinstance(extensions, dict) and UI in extensions


def _with_names(reject: Reject, request: HttpRequest, catalog: Snapshot) -> Reject:
    """A refusal with what was asked for, as far as that can be read: each request is counted so."""
    message = None if request.method != "POST" or is_batch(request.body) else parse_message(request.body)
    method = method_of(message) or _http_method(request)
    kind = TARGETS.get(method)
    if kind is None or not isinstance(message, Request):
        return attrs.evolve(reject, method=method)
    keys = [member.value for member in message.params or [] if member.key == kind.key]
    item = catalog.find(kind, keys[0]) if len(keys) == 1 and isinstance(keys[0], str) else None
    if item is None:
        return attrs.evolve(reject, method=method)
    return attrs.evolve(reject, method=method, server=item.server.name, tool=item.key if kind is TOOL else "")


def is_final(reject: Reject, request: HttpRequest) -> bool:
    """Whether a refusal stands, whatever configuration and keys are still to come after a start.

    404 may be a virtual server, or a session, that is still to come, and a batch needs its session.
    """
    return reject.status in _FINAL and not (request.method == "POST" and is_batch(request.body))


def method_of(message: Message | Batch | Malformed | None) -> str:
    """The method of a request or notification; "" for anything else."""
    return message.method if isinstance(message, Request | Notification) else ""


def _http_method(request: HttpRequest) -> str:
    """GET or DELETE, in place of the method of MCP that such a request does not have."""
    return request.method if request.method in _METHODS - {"POST"} else ""


def _scope(request: HttpRequest, guard: Guard) -> Scope | Reject:
    """Rungs 1 to 4: they read no body."""
    headers = request.headers
    rejection = guard.refuses(headers.get(":authority", ""), headers.get("origin"))
    if rejection is not None:
        return rejection
    scope = scope_of(request.path, headers)
    if isinstance(scope, Reject):
        return scope
    if request.method not in _METHODS:
        message = "Method not allowed: use POST, GET or DELETE"
        return Reject(status=405, code=INVALID_REQUEST, message=message)
    if request.method == "POST" and not h.is_plain_json(headers):
        message = "Unsupported media type: send application/json in UTF-8, without Content-Encoding"
        return Reject(status=415, code=INVALID_REQUEST, message=message)
    repeated = next((name for name in h.SINGLE if "," in headers.get(name, "")), None)
    if repeated is not None:
        message = f"The header {repeated} is there twice, or its value is a list: send one value"
        return Reject(status=400, code=INVALID_REQUEST, message=message)
    if _TWO_TOKENS.search(headers.get("authorization", "")):
        return Reject(status=400, code=INVALID_REQUEST, message="The header authorization is there twice: send one")
    return scope


def _message(request: HttpRequest, session: SessionState | SessionFault, guard: Guard) -> Message | Batch | Reject:
    """Rung 6."""
    if is_batch(request.body) and _has_batches(session):
        return _batch(request.body) if guard.batches else refusal(INVALID_REQUEST, _NO_BATCHES)
    message = parse_message(request.body)
    if isinstance(message, Malformed):
        return Reject(status=400, code=message.code, message=message.message, id=message.id)
    return message


def _is_modern(message: Message | Batch | None) -> bool:
    """Whether a request names its version in `_meta`, as those of the stateless era do."""
    if not isinstance(message, Request):
        return False
    meta = next((member.value for member in message.params or [] if member.key == "_meta"), None)
    return isinstance(meta, dict) and META_VERSION in meta


def _era(request: HttpRequest, message: Message | Batch | None, catalog: Snapshot, guard: Guard) -> Era | Reject:
    """Rungs 7 and 8."""
    modern, served = _is_modern(message), serves_stateless(guard)
    method = message.method if isinstance(message, Request) else ""
    if (modern and not served) or (method == DISCOVER and not offers(catalog, guard)):
        how = "prefers" if served else "speaks"
        fault = f"Method not found: this gateway {how} {LATEST_STATEFUL}; send initialize first"
        return Reject(status=400, code=METHOD_NOT_FOUND, message=fault)
    return era_of(request.headers.get(h.VERSION), modern=modern, initializes=method == INITIALIZE, served=served)


def _has_batches(session: SessionState | SessionFault) -> bool:
    return isinstance(session, SessionState) and session.session.protocol_version == BATCHED


def _batch(body: bytes) -> Batch | Reject:
    try:
        texts = parse_array(body.decode("utf-8"))
    except (UnicodeDecodeError, JsonTextError) as error:
        return refusal(PARSE_ERROR, f"Parse error: {error}")
    if 1 <= len(texts) <= MAX_BATCH:
        return Batch(tuple(texts))
    return refusal(INVALID_REQUEST, f"Invalid Request: a batch holds 1 to {MAX_BATCH} messages, not {len(texts)}")


def _stateful(
    request: HttpRequest,
    message: Message | Batch | None,
    session: SessionState | SessionFault,
    catalog: Snapshot,
    scope: Scope,
    claims: Mapping[str, Any] | None,
) -> Inbound | Reject:
    """Rungs 9 to 11 in the stateful era."""
    scope = attrs.evolve(scope, apps=_has_apps(message, session), rules=rules_of(catalog.access, claims))
    view = view_of(catalog, scope) if is_open(scope, catalog, claims) else None
    if view is None:
        return unknown(scope)
    if isinstance(message, Request) and message.method == INITIALIZE:
        return Inbound(message=message, era=Era.STATEFUL, session=None, scope=scope, view=view)
    if isinstance(session, SessionFault):
        code = SERVER_ERROR if session is SessionFault.MISSING else SESSION_NOT_FOUND
        return Reject(status=session.status, code=code, message=session.message)
    accept = request.headers.get("accept", "*/*")
    if request.method == "GET" and not any(media_type in accept for media_type in _EVENT_STREAM):
        return Reject(status=406, code=INVALID_REQUEST, message="Not acceptable: a GET stream is text/event-stream")
    return Inbound(message=message, era=Era.STATEFUL, session=session, scope=scope, view=view)


def _stateless(
    request: HttpRequest,
    message: Message | Batch | None,
    catalog: Snapshot,
    scope: Scope,
    claims: Mapping[str, Any] | None,
) -> Inbound | Reject:
    """Rung 12, and 9 in the stateless era: no session is looked at."""
    if message is None:
        return Reject(status=405, code=INVALID_REQUEST, message="Method not allowed: this version has POST alone")
    if isinstance(message, Batch | Response):
        return refusal(INVALID_REQUEST, "Invalid Request: send one request")
    envelope = check(message, request.headers) if isinstance(message, Request) else None
    if isinstance(envelope, Reject):
        return envelope
    has_apps = envelope is not None and envelope.has_apps
    scope = attrs.evolve(scope, apps=has_apps, rules=rules_of(catalog.access, claims))
    view = view_of(catalog.stateless or EMPTY, scope) if is_open(scope, catalog, claims) else None
    if view is None:
        return unknown(scope)
    return Inbound(message=message, era=Era.STATELESS, session=None, scope=scope, view=view)
