"""One request decided: the ladder, the decision, and the session with a server that it needs first.

Router and batches decide here; the broker's own answers climb the same ladder (`climb`).
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from mcpgw_sidecar.catalog.aliases import read_alias
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.inbound.classify import Inbound, classify, is_final
from mcpgw_sidecar.inbound.guard import Guard
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Decision, Forward, HttpRequest, OpenSession, Reject, ToBroker
from mcpgw_sidecar.model.ports import NOT_STARTED, Started
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import SERVER_ERROR
from mcpgw_sidecar.protocol.methods import SUBSCRIBE, UNSUBSCRIBE
from mcpgw_sidecar.routing.decide import decide

Settled = Forward | ToBroker | Reject
"""A decision that nothing has to be done for first."""

_OPENS = 3  # a session may be closed again (server changed) between opening and deciding; then the client tries again


@attrs.frozen(kw_only=True)
class Decider:
    """Decides requests. `snapshot` gives the catalog of the moment."""

    snapshot: Callable[[], Snapshot]
    started: Started
    directory: Directory
    guard: Guard

    def climb(self, request: HttpRequest, *, element: bool = False) -> Inbound | Reject:
        """The ladder, with the session and the catalog of this moment."""
        session = self.directory.lookup(request.headers.get(h.SESSION))
        return classify(request, session, self.snapshot(), self.guard, element=element)

    async def wait_started(self, seconds: float) -> bool:
        """Wait until a start is over, so that the catalog and the keys are whole."""
        if not self.started.is_over():
            with trio.move_on_after(seconds):
                await self.started.wait_over()
        return self.started.is_over()

    async def wait_decided(self, request: HttpRequest, *, element: bool = False) -> Settled:
        """The decision for one request; opens the session with a server that it needs, within DECISION seconds."""
        began = trio.current_time()
        inbound, decision = self._decide(request, element=element)
        if isinstance(decision, Reject) and not self.started.is_over() and not is_final(decision, request):
            # It may be that its server has not answered yet, or that keys are still to come.
            if not await self.wait_started(timeouts.START):
                return attrs.evolve(NOT_STARTED, id=decision.id, method=decision.method)
            inbound, decision = self._decide(request, element=element)
        opens = 0
        while isinstance(decision, OpenSession):
            if opens == _OPENS:
                return _about(decision, _RECONFIGURED)
            opens += 1
            failure: Reject | None = _NOT_IN_TIME
            with trio.move_on_at(began + timeouts.DECISION):
                headers = h.for_upstream(request.headers)
                failure = await self.directory.wait_open(decision.session, decision.server, headers)
            if failure is not None:
                return _about(decision, failure)
            inbound, decision = self._decide(request, element=element)
        if isinstance(decision, Forward):
            self._notice(inbound, decision)
        return decision

    def _decide(self, request: HttpRequest, *, element: bool) -> tuple[Inbound | None, Decision]:
        inbound = self.climb(request, element=element)
        if isinstance(inbound, Reject):
            return None, inbound
        last_event_id = request.headers.get(h.LAST_EVENT, "") if request.method == "GET" else ""
        return inbound, decide(inbound, last_event_id)

    def _notice(self, inbound: Inbound | None, decision: Forward) -> None:
        """Remember what a client subscribes to."""
        if decision.method in {SUBSCRIBE, UNSUBSCRIBE} and inbound is not None and inbound.session is not None:
            alias = read_alias(decision.key)
            uri = alias[1] if alias is not None and alias[0] == decision.server.name else decision.key
            session, wanted = inbound.session.session, decision.method == SUBSCRIBE
            self.directory.subscribed(session, decision.server, uri, wanted=wanted)


_RECONFIGURED = Reject(status=503, code=SERVER_ERROR, message="The MCP server of this tool is being reconfigured: try again")
_NOT_IN_TIME = Reject(
    status=504, code=SERVER_ERROR, message="No session with the MCP server of this tool was open in time: try again"
)


def _about(decision: OpenSession, reject: Reject) -> Reject:
    """The refusal of a request that a session was to be opened for."""
    return attrs.evolve(reject, id=decision.id, method=decision.method, server=decision.server.name, tool=decision.tool)
