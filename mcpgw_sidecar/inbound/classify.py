"""The one ladder that every request climbs, whoever meets it first: router, broker, or batch.

The first failure wins:

1. the gateway serves the Host, and the Origin may ask (guard.py)            else 421, 403
2. path and header name the endpoint and one virtual server (virtual.py)     else 404, 400
3. the HTTP method is POST, GET or DELETE                                    else 405
4. POST: the body is declared as JSON                                        else 415
5. POST: the body is one JSON-RPC message, or a batch of them from a client
   whose version has batches (2025-03-26)                                    else 400
6. an element of a batch is no batch and no initialize                       else 400
7. the protocol version is spoken here (eras.py)                             else 400, -32022
8. there is a virtual server of that name                                    else 404
9. the session lives; initialize needs none                                  else 400, 404
10. GET: the client takes an event stream                                    else 406

The size of a body (413) is measured where the body is read, before this ladder.
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.catalog.views import view_of
from mcpgw_sidecar.inbound.eras import Era, era_of
from mcpgw_sidecar.inbound.guard import Guard
from mcpgw_sidecar.inbound.virtual import scope_of, unknown
from mcpgw_sidecar.model.decisions import HttpRequest, Reject
from mcpgw_sidecar.model.names import NULL, JsonText, Scope
from mcpgw_sidecar.model.sessions import SessionFault, SessionState
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    SERVER_ERROR,
    Malformed,
    Message,
    Notification,
    Request,
    is_batch,
    parse_message,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, parse_array
from mcpgw_sidecar.protocol.methods import INITIALIZE
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.protocol.versions import BATCHED

MAX_BATCH = 100  # messages; each may be a call that is carried at the same time as the others
_EVENT_STREAM = ("text/event-stream", "text/*", "*/*")
_METHODS = frozenset({"POST", "GET", "DELETE"})
_FINAL = frozenset({400, 403, 405, 406, 413, 415, 421})


@attrs.frozen
class Batch:
    """The messages of a batch, each as its own text."""

    texts: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Inbound:
    """A request that has climbed the ladder: what is asked, in which era and session, and what is seen.

    `message` is None for GET and DELETE. `session` is None for initialize alone. `view` is what the
    catalog holds for `scope`.
    """

    message: Message | Batch | None
    era: Era
    session: SessionState | None
    scope: Scope
    view: Snapshot

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
    *,
    element: bool = False,
) -> Inbound | Reject:
    """Climb the ladder. `session` is what the request's `Mcp-Session-Id` says; `element`: of a batch."""
    scope = _addressed(request, guard)
    if isinstance(scope, Reject):
        return attrs.evolve(scope, method=_http(request))
    message = None if request.method != "POST" else _message(request, session, element=element)
    if isinstance(message, Reject):
        return message
    climbed = _admitted(request, message, session, catalog, scope)
    if isinstance(climbed, Reject):
        ident = message.id if isinstance(message, Request) else NULL
        return attrs.evolve(climbed, id=ident, method=method_of(message) or _http(request))
    return climbed


def is_final(reject: Reject, request: HttpRequest) -> bool:
    """Whether a refusal stands whatever configuration and session keys are still to come after a start.

    404 may be a virtual server, or a session, that is still to come, and a batch needs its session.
    """
    return reject.status in _FINAL and not (request.method == "POST" and is_batch(request.body))


def method_of(message: Message | Batch | Malformed | None) -> str:
    """The method of a request or notification; "" for anything else."""
    return message.method if isinstance(message, Request | Notification) else ""


def _http(request: HttpRequest) -> str:
    """GET and DELETE stand for the method that they do not carry."""
    return request.method if request.method in _METHODS - {"POST"} else ""


def _addressed(request: HttpRequest, guard: Guard) -> Scope | Reject:
    """Rungs 1 to 4: nothing of the body."""
    headers = request.headers
    misdirected = guard.refuses(headers.get(":authority", ""), headers.get("origin"))
    if misdirected is not None:
        return misdirected
    scope = scope_of(request.path, headers)
    if isinstance(scope, Reject):
        return scope
    if request.method not in _METHODS:
        message = "Method not allowed: use POST, GET or DELETE"
        return Reject(status=405, code=INVALID_REQUEST, message=message)
    kind = headers.get("content-type", h.JSON).partition(";")[0].strip().lower()
    if request.method == "POST" and kind != h.JSON:
        message = "Unsupported media type: send application/json"
        return Reject(status=415, code=INVALID_REQUEST, message=message)
    return scope


def _message(request: HttpRequest, session: SessionState | SessionFault, *, element: bool) -> Message | Batch | Reject:
    """Rungs 5 and 6."""
    if not element and is_batch(request.body) and _has_batches(session):
        return _batch(request.body)
    message = parse_message(request.body)
    if isinstance(message, Malformed):
        return Reject(status=400, code=message.code, message=message.message, id=message.id)
    if element and isinstance(message, Request) and message.method == INITIALIZE:
        fault = "Invalid Request: initialize cannot be part of a batch"
        return attrs.evolve(refusal(INVALID_REQUEST, fault, id=message.id), method=INITIALIZE)
    return message


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


def _admitted(
    request: HttpRequest,
    message: Message | Batch | None,
    session: SessionState | SessionFault,
    catalog: Snapshot,
    scope: Scope,
) -> Inbound | Reject:
    """Rungs 7 to 10."""
    era = era_of(request.headers.get(h.VERSION))
    if isinstance(era, Reject):
        return era
    view = view_of(catalog, scope)
    if view is None:
        return unknown(scope)
    if isinstance(message, Request) and message.method == INITIALIZE:
        return Inbound(message=message, era=era, session=None, scope=scope, view=view)
    if isinstance(session, SessionFault):
        return Reject(status=session.status, code=SERVER_ERROR, message=session.message)
    accepted = request.headers.get("accept", "*/*")
    if request.method == "GET" and not any(kind in accepted for kind in _EVENT_STREAM):
        message_406 = "Not acceptable: a GET stream is text/event-stream"
        return Reject(status=406, code=INVALID_REQUEST, message=message_406)
    return Inbound(message=message, era=era, session=session, scope=scope, view=view)
