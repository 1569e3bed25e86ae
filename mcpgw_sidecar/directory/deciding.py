"""Decides one request: the ladder, the upstream session that it needs first, and the decision.

Router and batches use it; the requests that the broker answers itself take the same ladder
(`climb`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import trio

from mcpgw_sidecar.catalog.aliases import read_alias
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.inbound.callers import Caller, Keys, no_keys
from mcpgw_sidecar.inbound.classify import Inbound, classify, is_final
from mcpgw_sidecar.inbound.guard import Guard
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Carry, Decision, FindServer, Forward, HttpRequest, OpenSession, Reject, ToBroker
from mcpgw_sidecar.model.exchanges import Given
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.ports import NOT_STARTED, Started
from mcpgw_sidecar.model.reasons import TIMEOUT, UNAUTHORIZED, UNREACHABLE
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import RESOURCE_NOT_FOUND
from mcpgw_sidecar.protocol.methods import SUBSCRIBE, UNSUBSCRIBE
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.protocol.statuses import failure, refusal
from mcpgw_sidecar.routing.decide import decide
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.upstream.tokens import TokenExchanger
from mcpgw_sidecar.upstream.words import credential_for, rejection

Settled = Forward | Carry | ToBroker | Reject
"""A decision that needs no other step first."""

_FOR_GOOD = 2.0**52  # epoch seconds: a credential of a server has no end that we know
_MAX_STEPS = 6  # tokens and sessions: one may be in vain when the server changes meanwhile


@attrs.frozen(kw_only=True)
class Decider:
    """Decides requests.

    `snapshot` returns the current catalog, `keys` what is known of an issuer's keys; `request` is
    the longest time of one of the gateway's own requests to a server, in seconds. `work` ends what
    waits for a server during a drain. `tokens` gives servers tokens of their own.
    """

    snapshot: Callable[[], Snapshot]
    started: Started
    directory: Directory
    guard: Guard
    keys: Keys = no_keys
    request: float = timeouts.REQUEST
    work: Work = attrs.field(factory=Work)
    tokens: TokenExchanger | None = None

    def climb(self, request: HttpRequest) -> Inbound | Reject:
        """Take a request through the ladder, with its session and the current catalog."""
        session = self.directory.lookup(request.headers.get(h.SESSION))
        inbound = classify(request, session, self.snapshot(), self.guard, self.keys)
        if isinstance(inbound, Inbound) and inbound.session is not None:
            self.directory.bring(inbound.session.session, request.headers)
            claims = inbound.caller.claims if inbound.caller is not None else None
            self.directory.driver.sight.note(inbound.session.session.key, claims, inbound.scope.virtual)
        return inbound

    async def wait_started(self, seconds: float) -> bool:
        """Wait until the start is over, so that catalog and keys are complete; False in vain."""
        if not self.started.is_over():
            with trio.move_on_after(seconds):
                await self.started.wait_over()
        return self.started.is_over()

    async def wait_decided(self, request: HttpRequest) -> tuple[HttpRequest, Settled]:
        """Decide one request, after opening the upstream session that it needs.

        It takes `timeouts.decision` at most. The request comes back with the token that its server
        gets in place of the caller's, if it gets one.
        """
        start = trio.current_time()
        inbound, decision = self._decide(request)
        if isinstance(decision, Reject | FindServer) and not self.started.is_tried():
            inbound, decision = await self._wait_tried(inbound, decision, request, start)
        steps = 0
        if isinstance(decision, FindServer):
            inbound, decision = await self._wait_found(decision, request, start)
        while isinstance(decision, OpenSession | Forward):
            lacks_token = not _has_token(decision.server, request.headers)
            if isinstance(decision, Forward) and not lacks_token:
                break
            if steps == _MAX_STEPS:
                name = decision.server.name
                return request, _of(decision, failure(name, UNREACHABLE, _RECONFIGURED.format(name)))
            steps += 1
            if lacks_token:
                headers = await self.wait_exchanged(decision, inbound, request.headers, start)
                refused = headers if isinstance(headers, Reject) else None
                request = request if isinstance(headers, Reject) else attrs.evolve(request, headers=headers)
            else:
                assert isinstance(decision, OpenSession)  # noqa: S101  # the loop ends for others
                refused = await self._wait_open(decision, request, start)
            if refused is not None:
                return request, _of(decision, refused)
            inbound, decision = self._decide(request)
        if isinstance(decision, FindServer):
            return request, _unknown(decision)
        if isinstance(decision, Forward):
            self._note_subscription(inbound, decision)
        return request, decision

    async def wait_exchanged(
        self, decision: OpenSession | Forward | Carry, inbound: Inbound | None, headers: Mapping[str, str], start: float
    ) -> dict[str, str] | Reject:
        """A client's headers, with what the server gets in place of the caller's token."""
        server, caller = decision.server, inbound.caller if inbound is not None else None
        if _has_token(server, headers):
            return dict(headers)
        given: dict[str, str] | Reject = failure(server.name, UNAUTHORIZED, _NO_TOKEN.format(server.name))
        with trio.move_on_at(start + timeouts.decision(self.request)), self.work.waiting():
            given = await self.tokens.wait_headers(server, caller, headers) if self.tokens is not None else given
        return _of(decision, given) if isinstance(given, Reject) else given

    async def _wait_tried(
        self, inbound: Inbound | None, early: Reject | FindServer, request: HttpRequest, start: float
    ) -> tuple[Inbound | None, Decision]:
        """Decide again what was decided too early.

        Its key may not be loaded yet, or its server may not have answered yet.
        """
        if inbound is None and isinstance(early, Reject) and is_final(early, request):
            return None, early
        if not await self.wait_started(timeouts.START):
            return None, attrs.evolve(NOT_STARTED, id=early.id, method=early.method)
        inbound, decision = self._decide(request)
        if inbound is not None and isinstance(decision, Reject | FindServer):
            with trio.move_on_at(start + timeouts.START), self.work.waiting():
                await self.started.wait_tried()
            return self._decide(request)
        return inbound, decision

    async def _wait_open(self, decision: OpenSession, request: HttpRequest, start: float) -> Reject | None:
        """Open the upstream session that a decision needs; None when it is open."""
        server = decision.server
        refused: Reject | None = failure(server.name, TIMEOUT, _NOT_IN_TIME.format(server.name))
        limit = timeouts.decision(server.discovery_timeout or self.request)
        with trio.move_on_at(start + limit), self.work.waiting() as waiting:
            refused = await self.directory.wait_open(decision.session, server, request.headers)
        return failure(server.name, UNREACHABLE, _RESTARTING.format(server.name)) if waiting.cancelled_caught else refused

    async def _wait_found(self, decision: FindServer, request: HttpRequest, start: float) -> tuple[Inbound | None, Decision]:
        """Find the server of a URI that no list has, and decide again."""
        found = None
        with trio.move_on_at(start + timeouts.decision(self.request)), self.work.waiting():
            found = await self.directory.wait_found(decision.session, decision.servers, decision.uri, request.headers)
        return (None, _unknown(decision)) if found is None else self._decide(request)

    def _decide(self, request: HttpRequest) -> tuple[Inbound | None, Decision]:
        inbound = self.climb(request)
        if isinstance(inbound, Reject):
            return None, inbound
        last_event_id = request.headers.get(h.LAST_EVENT, "") if request.method == "GET" else ""
        return inbound, self.decision(inbound, request.headers, last_event_id)

    def decision(self, inbound: Inbound, headers: Mapping[str, str], last_event_id: str = "") -> Decision:
        """The decision about a request that has climbed the ladder."""
        decision = decide(inbound, last_event_id)
        if isinstance(decision, Reject) and inbound.session is not None:
            return attrs.evolve(decision, session=inbound.session.session)
        if inbound.scope.rules is not None and isinstance(decision, Forward | Carry):
            decision = attrs.evolve(decision, rules=inbound.scope.rules)
        if isinstance(decision, Forward):
            try:
                given = self._given(decision.server, inbound.caller, headers)
            except UpstreamError as error:
                return _of(decision, rejection(decision.server, error))
            if given is not None:
                decision = attrs.evolve(decision, given=given)
        if isinstance(decision, OpenSession | Forward | Carry) and decision.method:  # answers and streams go on
            missing = [each.name for each in decision.server.forwarded if each.required and not headers.get(each.name)]
            if missing:
                return _without(decision, missing)
        return decision

    def _given(self, server: Server, caller: Caller | None, headers: Mapping[str, str]) -> Given | None:
        """What a server gets in place of the caller's token, or besides it."""
        if server.exchanged_header in headers and server.token_exchange is not None and self.tokens is not None:
            return self.tokens.kept(server, caller)
        if h.X_SIZE in headers:
            return None  # Envoy of ours puts credentials in (envoy/credentials.py)
        credential = credential_for(server, for_server(headers, server.forwarded))
        return None if credential is None else Given(credential, _FOR_GOOD)

    def _note_subscription(self, inbound: Inbound | None, decision: Forward) -> None:
        """Record a subscription of a client, or its end."""
        if decision.method in {SUBSCRIBE, UNSUBSCRIBE} and inbound is not None and inbound.session is not None:
            alias = read_alias(decision.key)
            uri = alias[1] if alias is not None and alias[0] == decision.server.name else decision.key
            session, wanted = inbound.session.session, decision.method == SUBSCRIBE
            self.directory.subscribed(session, decision.server, uri, wanted=wanted)


_RECONFIGURED = "MCP server {} is being reconfigured: try again"
_RESTARTING = "No session with MCP server {} was open when the gateway had to restart: try again"
_NO_TOKEN = "MCP server {} needs a token of its own for this caller, and it did not come in time: try again"  # noqa: S105  # words
_NOT_IN_TIME = "No session with MCP server {} was open in time: try again"


def _unknown(decision: FindServer) -> Reject:
    """The refusal of a URI that no server knows."""
    reject = refusal(RESOURCE_NOT_FOUND, "Resource not found", id=decision.id, data={"uri": decision.uri})
    return attrs.evolve(reject, method=decision.method)


def _without(decision: OpenSession | Forward | Carry, missing: list[str]) -> Reject:
    """The refusal of a request without a header that its server wants of every client."""
    server = decision.server.name
    reject = failure(
        server, UNAUTHORIZED, f"MCP server {server} needs a header that this client does not send: {missing[0]}"
    )
    return _of(decision, reject)


def _has_token(server: Server, headers: Mapping[str, str]) -> bool:
    """Whether a server gets no token of its own, or the request has it."""
    return server.token_exchange is None or server.exchanged_header in headers


def _of(decision: OpenSession | Forward | Carry, reject: Reject) -> Reject:
    """The refusal of a request to a server."""
    tool = (decision.key if decision.kind is TOOL else "") if isinstance(decision, Forward) else decision.tool
    return attrs.evolve(reject, id=decision.id, method=decision.method, server=decision.server.name, tool=tool)
