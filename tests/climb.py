"""A request climbs the ladder and is decided, as the router does it."""

from __future__ import annotations

import attrs

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.inbound.classify import classify
from mcpgw_sidecar.inbound.guard import LOOPBACK, Guard
from mcpgw_sidecar.model.decisions import Decision, HttpRequest, Reject
from mcpgw_sidecar.model.sessions import SessionFault, SessionState
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.routing.decide import decide as decide_inbound

GUARD = Guard(hosts=LOOPBACK)
DEFAULTS = {":method": "POST", ":path": "/mcp", ":authority": "localhost"}


def decide(request: HttpRequest, snapshot: Snapshot, session: SessionState | SessionFault) -> Decision:
    request = attrs.evolve(request, headers=DEFAULTS | dict(request.headers))
    inbound = classify(request, session, snapshot, GUARD)
    if isinstance(inbound, Reject):
        return inbound
    return decide_inbound(inbound, request.headers.get(h.LAST_EVENT, ""))
