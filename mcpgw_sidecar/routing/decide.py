"""Decides a request that has passed the ladder of inbound/classify.py."""

from __future__ import annotations

from typing import assert_never

import attrs

from mcpgw_sidecar.inbound.classify import Batch, Inbound
from mcpgw_sidecar.inbound.eras import Era
from mcpgw_sidecar.model.decisions import Decision, Reject, ToBroker
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, Response
from mcpgw_sidecar.protocol.methods import ADDRESSED
from mcpgw_sidecar.routing import stateful, stateless


def decide(inbound: Inbound, last_event_id: str = "") -> Decision:
    """Decide one POST, or a GET that resumes the stream of `last_event_id`.

    A request that one server answers is routed here. Every other message goes to the broker, which
    has the lists and the sessions.
    """
    session = inbound.session
    if inbound.era is Era.STATELESS:
        found = stateless.decide(inbound.message, inbound.view, apps=inbound.scope.apps)
        return attrs.evolve(found, method=inbound.method) if isinstance(found, Reject) else found
    if session is None:
        return ToBroker(method=inbound.method, id=inbound.id)
    match inbound.message:
        case None:
            return stateful.decide_resume(last_event_id, inbound.view, session)
        case Batch():
            return ToBroker(method="")  # the broker takes the batch apart and decides each message
        case Notification(method):
            return ToBroker(method=method)
        case Response() as answer:
            return stateful.decide_answer(answer, inbound.view, session)
        case Request(id=ident, method=method) as message:
            if method not in ADDRESSED:
                return ToBroker(method=method, id=ident)
            decision = stateful.decide_request(message, inbound.view, session)
            return attrs.evolve(decision, id=ident, method=method) if isinstance(decision, Reject) else decision
        case other:
            assert_never(other)
