"""The HTTP interface of the broker: `/mcp` by POST, GET and DELETE.

See the specification 2025-11-25, basic/transports. The broker reads a request up to the limit of
its size (413), waits until the start is over (503), takes the request through the ladder of
inbound/classify.py, and answers it by its method. Each request has a record, which is closed with
the answer.
"""

from __future__ import annotations

import math
from typing import assert_never

import attrs
import trio

from mcpgw_sidecar.directory.deciding import Decider
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.front import stateful, stateless
from mcpgw_sidecar.front.answers import OK, Result, encode, memo_headers, wait_rejected, wait_sent, wait_streamed
from mcpgw_sidecar.front.batches import BatchRunner
from mcpgw_sidecar.front.beside import Beside
from mcpgw_sidecar.front.callerstreams import CallerStreams
from mcpgw_sidecar.front.carried import Carried
from mcpgw_sidecar.front.listens import Listen
from mcpgw_sidecar.front.stream import Stream
from mcpgw_sidecar.front.streams import Streams
from mcpgw_sidecar.inbound.callers import name_of
from mcpgw_sidecar.inbound.classify import Batch, Inbound, is_final
from mcpgw_sidecar.inbound.eras import Era
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Carry, HttpRequest, Reject
from mcpgw_sidecar.model.names import BROKER, NULL
from mcpgw_sidecar.model.ports import NOT_STARTED, Stamps
from mcpgw_sidecar.model.sessions import SessionState
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST, SERVER_ERROR, Request, error_text
from mcpgw_sidecar.protocol.methods import ADDRESSED, DISCOVER, INITIALIZE, LISTEN, SET_LEVEL
from mcpgw_sidecar.protocol.statuses import for_era
from mcpgw_sidecar.protocol.versions import PRIMED
from mcpgw_sidecar.runtime import descriptors
from mcpgw_sidecar.runtime.http import Receive, Scope, Send, wait_body
from mcpgw_sidecar.runtime.work import wait_begun
from mcpgw_sidecar.upstream.words import is_own

log = get_logger(__name__)

TOO_MANY_STREAMS = Reject(
    status=503,
    code=SERVER_ERROR,
    message="The gateway has too many open streams: calls go on without one; try again later",
)
_LOOP = Reject(
    status=508,
    code=INVALID_REQUEST,
    message="This URL leads to this gateway itself: take it out of its servers",
)
SMALL_BODY = 65536  # bytes of the body of a request that needs none


@attrs.frozen(kw_only=True)
class BrokerApp:
    """The ASGI application.

    `max_body` is in bytes; with `stamps` Envoy may keep lists.
    """

    decider: Decider
    directory: Directory
    streams: Streams
    batches: BatchRunner | None
    beside: Beside
    carried: Carried
    metrics: Metrics
    max_body: int
    stamps: Stamps | None
    of_callers: CallerStreams = attrs.field(factory=CallerStreams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. After a bug of ours that is a 500, and the log has the traceback."""
        if scope["type"] != "http":
            return
        headers = _headers(scope)
        version = headers.get(h.VERSION)
        scope["headers"] = []  # an open stream would keep them in memory
        record = RequestRecord(self.metrics)
        try:
            reject = await self._wait_request(headers, record, receive, send)
            if reject is not None:
                await wait_refused(send, record, for_era(reject, version))
        except Exception:
            log.exception("Broker failed on a request")
            record.close("rejected")
            await wait_sent(send, 500, error_text(NULL, INTERNAL_ERROR, "Internal error of the gateway"))

    async def _wait_request(
        self, headers: dict[str, str], record: RequestRecord, receive: Receive, send: Send
    ) -> Reject | None:
        """Answer a request and close its record, or return the refusal."""
        request = await self._wait_whole_request(headers, receive)
        if isinstance(request, Reject):
            return request
        if self.beside.has(request.path):
            login = self.decider.snapshot().access.authentication
            return await self.beside.wait_answered(headers, login, self.decider.guard, send)
        inbound = await self._wait_climbed(request)
        if isinstance(inbound, Reject):
            return inbound
        if inbound.method in {INITIALIZE, DISCOVER} and is_own(headers.get("user-agent", "")):
            return attrs.evolve(_LOOP, id=inbound.id, method=inbound.method)
        record.server, caller = BROKER, name_of(inbound.caller, headers)
        match request.method, inbound.session:
            case "GET", _ if (refusal := self._refuses_stream(caller)) is not None:
                return attrs.evolve(refusal, method="GET")
            case "GET", SessionState():
                stream = self._open_stream(inbound, headers)
                # The stream may live for days: it must keep neither its request nor the catalog of
                # this moment in memory.
                headers.clear()
                del inbound, request
                await self._wait_stream(stream, caller, record, receive, send)
            case "POST", None if inbound.era is Era.STATELESS and inbound.method == LISTEN:
                record.method = LISTEN
                listen = self._refuses_stream(caller) or self.streams.listens.opened(inbound, headers)
                if isinstance(listen, Reject):
                    return attrs.evolve(listen, id=inbound.id, method=LISTEN)
                headers.clear()  # as above
                del inbound, request
                await self._wait_listened(listen, caller, record, receive, send)
            case "DELETE", SessionState(session=session):
                await self.directory.wait_ended(session)
                await wait_sent(send, 204, b"")
                record.method = "DELETE"
                record.close("ok")
            case _:
                return await self._wait_post(inbound, headers, record, receive, send)
        return None

    async def _wait_climbed(self, request: HttpRequest) -> Inbound | Reject:
        """A request after the ladder, once the start is over.

        Before that a list would lack most servers, and look complete; and the key of a session may
        not be loaded yet. A refusal that the start cannot change is sent at once.
        """
        inbound = self.decider.climb(request)
        if self.decider.started.is_over() or (isinstance(inbound, Reject) and is_final(inbound, request)):
            return inbound
        if not await self.decider.wait_started(timeouts.START_AT_BROKER):
            return NOT_STARTED
        return self.decider.climb(request)

    async def _wait_whole_request(self, headers: dict[str, str], receive: Receive) -> HttpRequest | Reject:
        """The request with its body, or 413."""
        limit = self.max_body if headers[":method"] == "POST" else SMALL_BODY
        body = await wait_body(receive, limit)
        if body is None:
            advice = f"at most {limit} bytes" if headers[":method"] == "POST" else "send none"
            return Reject(status=413, code=INVALID_REQUEST, message=f"Request body too large: {advice}")
        return HttpRequest(headers=headers, body=body)

    async def _wait_post(
        self, inbound: Inbound, headers: dict[str, str], record: RequestRecord, receive: Receive, send: Send
    ) -> Reject | None:
        if isinstance(inbound.message, Batch):
            assert self.batches is not None  # noqa: S101  # the ladder refuses batches without it
            await self.batches.wait_run(inbound.message, headers, receive, send)
            return None  # each message of the batch has a record of its own
        record.method = inbound.method
        log.debug("Processing request", method=inbound.method)
        decision = self._carry_of(inbound, headers)
        if decision is not None:
            given = await self.decider.wait_exchanged(decision, inbound, headers, trio.current_time())
            if isinstance(given, Reject):
                return given
            await self.carried.wait_answered(decision, inbound, given, record, receive, send)
            return None
        is_stateless = inbound.era is Era.STATELESS
        answer = stateless.answer(inbound) if is_stateless else stateful.answer(inbound, self.directory, headers)
        match answer:
            case Reject():
                return attrs.evolve(answer, method=inbound.method)
            case Result():
                if inbound.method == SET_LEVEL:
                    await wait_begun()  # a process that is killed after the answer leaves it to the next
                if inbound.method == INITIALIZE and answer.audience is not None:
                    self.streams.greet(answer.audience.session_key, inbound.scope)
                encoded = encode(inbound.id, answer, headers.get("accept-encoding", ""))
                extra = encoded.headers
                if headers.get(h.X_SERVER) == BROKER:  # the request came through Envoy, which may keep the answer
                    extra += memo_headers(answer, encoded.packed, self.stamps, inbound.scope.rules)
                await wait_sent(send, OK, encoded.body, extra)
            case None:
                await wait_sent(send, 202, b"")
            case _:
                assert_never(answer)
        record.close("ok")
        return None

    def _carry_of(self, inbound: Inbound, headers: dict[str, str]) -> Carry | None:
        """The decision to carry a request; None for any other."""
        if not isinstance(inbound.message, Request) or inbound.method not in ADDRESSED:
            return None
        decision = self.decider.decision(inbound, headers)
        return decision if isinstance(decision, Carry) else None

    async def _wait_stream(self, stream: Stream, caller: str, record: RequestRecord, receive: Receive, send: Send) -> None:
        record.method = "GET"
        record.close("ok")  # at once: the life of a stream is not the duration of a request
        self.metrics.streams.inc()
        self.of_callers.begin(caller)
        try:
            await wait_streamed(receive, send, stream, self.streams.keep_alive)
        finally:
            self.directory.stream_gone(stream.session, self.streams.discard(stream))
            self.metrics.streams.dec()
            self.of_callers.end(caller)

    def _refuses_stream(self, caller: str) -> Reject | None:
        """Why a caller may open no other stream at the moment; None if it may."""
        if not descriptors.has_room(descriptors.STREAMS_OF_CLIENTS):
            return TOO_MANY_STREAMS
        return self.of_callers.refuses(caller, self.decider.snapshot().access.limits.streams)

    async def _wait_listened(self, listen: Listen, caller: str, record: RequestRecord, receive: Receive, send: Send) -> None:
        record.close("ok")
        self.metrics.streams.inc()
        self.of_callers.begin(caller)
        try:
            await self.streams.listens.wait_listened(listen, receive, send)
        finally:
            self.metrics.streams.dec()
            self.of_callers.end(caller)

    def _open_stream(self, inbound: Inbound, headers: dict[str, str]) -> Stream:
        assert inbound.session is not None  # noqa: S101  # the ladder refuses any other request without a session
        session = inbound.session.session
        # Older clients cannot read an event without data (basic/transports, Sending Messages,
        # 2025-11-25).
        primed = session.protocol_version >= PRIMED
        last_event_id = headers.get(h.LAST_EVENT, "")
        until = inbound.caller.until if inbound.caller is not None else math.inf
        stream = self.streams.open(session.key, last_event_id, inbound.scope, primed=primed, until=until)
        self.directory.stream_here(session, last_event_id)
        return stream


async def wait_refused(send: Send, record: RequestRecord, reject: Reject) -> None:
    """Send a refusal and count it."""
    record.refuse(reject)
    await wait_rejected(send, reject)


def _headers(scope: Scope) -> dict[str, str]:
    """The headers of a request, with the pseudo-headers that Envoy sends to the router."""
    headers = h.joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    path = scope.get("raw_path") or scope["path"].encode()
    return {
        **headers,
        ":method": scope["method"],
        ":path": path.decode("latin-1"),
        ":authority": headers.get("host", ""),
    }
