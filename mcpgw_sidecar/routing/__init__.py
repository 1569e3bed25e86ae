"""The decision: which server does a message belong to, and what is rewritten. Pure; one module per protocol era."""

from __future__ import annotations

from typing import assert_never

import attrs

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.model.decisions import Decision, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.sessions import SessionFault, SessionState
from mcpgw_sidecar.protocol import headers
from mcpgw_sidecar.protocol.eras import Era, classify
from mcpgw_sidecar.protocol.jsonrpc import Malformed, Notification, Request, Response, is_batch, parse_message
from mcpgw_sidecar.routing import stateful, virtual


def decide(request: HttpRequest, snapshot: Snapshot, session: SessionState | SessionFault) -> Decision:
    """Decide one POST, or a GET that resumes a stream. `session` is what the request's `Mcp-Session-Id` was found to be.

    The request names its virtual server by header alone (virtual.py). What one server answers is routed here; every other message is
    the broker's, which knows lists and sessions.
    """
    view = virtual.seen(snapshot, request.headers)
    if request.headers.get(":method") == "GET":
        return view if isinstance(view, Reject) else _resumed(request, view, session)
    if is_batch(request.body) and stateful.takes_batches(session):
        return ToBroker(method="")  # which takes it apart and has each message decided
    match parse_message(request.body):
        case Malformed(code, message, ident):
            return Reject(status=400, code=code, message=message, id=ident)
        case Notification(method):
            return ToBroker(method=method)
        case Response() as answer:
            return (
                attrs.evolve(view, id=answer.id)
                if isinstance(view, Reject)
                else stateful.decide_answer(answer, view, session)
            )
        case Request(id=ident, method=method) as message:
            if not stateful.is_addressed(method):
                return ToBroker(method=method, id=ident)
            decision = _addressed(message, request, view, session)
            return attrs.evolve(decision, id=ident, method=method) if isinstance(decision, Reject) else decision
        case other:
            assert_never(other)


def _resumed(request: HttpRequest, view: Snapshot, session: SessionState | SessionFault) -> Decision:
    return stateful.decide_resume(request.headers.get(headers.LAST_EVENT, ""), view, session)


def _addressed(
    message: Request, request: HttpRequest, view: Snapshot | Reject, session: SessionState | SessionFault
) -> Decision:
    """A request that one server answers: its era, then what its client sees, then the era's own ladder."""
    era = classify(request.headers.get(headers.VERSION), message.id)
    if isinstance(era, Reject):
        return era
    if isinstance(view, Reject):
        return view
    match era:
        case Era.STATEFUL:
            return stateful.decide_request(message, view, session)
        case _:
            assert_never(era)
