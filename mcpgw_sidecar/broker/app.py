"""The broker's HTTP face: `/mcp` by POST, GET and DELETE (specification 2025-11-25, basic/transports).

A POST climbs a ladder, first failure wins: size (413) · Host and Origin (421, 403) · content type (415) · one JSON-RPC
message (400) · era (400) · session (400, 404) · the method.
"""

from __future__ import annotations

import time
from typing import Any, assert_never

import attrs
import trio

from mcpgw_sidecar.broker import methods
from mcpgw_sidecar.broker.batches import BatchRunner, is_asking, split
from mcpgw_sidecar.broker.directory import Directory
from mcpgw_sidecar.broker.streams import Stream, Streams
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.envoy.contract import HEAL_PATH, list_mark
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import BROKER, NULL, JsonText, ServerName
from mcpgw_sidecar.model.ports import NOT_STARTED, Stamps, Started
from mcpgw_sidecar.model.sessions import SessionFault, SessionState
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.eras import classify
from mcpgw_sidecar.protocol.guard import Guard
from mcpgw_sidecar.protocol.gzipped import MAX_AROUND, Packed, accepts, gzip_around
from mcpgw_sidecar.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    SERVER_ERROR,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    around_result,
    error_text,
    is_batch,
    parse_message,
    result_text,
)
from mcpgw_sidecar.protocol.owners import owner_text
from mcpgw_sidecar.protocol.sse import KEEP_ALIVE, event_bytes
from mcpgw_sidecar.protocol.versions import PRIMED
from mcpgw_sidecar.routing.stateful import takes_batches
from mcpgw_sidecar.routing.virtual import named, seen, wanted
from mcpgw_sidecar.runtime.http import Receive, Scope, Send, wait_body
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

START_LIMIT = 10.0  # seconds that a client waits for a configuration: below what clients and proxies give a request
_METHODS = frozenset({"POST", "GET", "DELETE"})
SMALL_BODY = 65536  # bytes that a request without a use for a body may bring
KEEP_ALIVE_INTERVAL = 15.0  # seconds (interface.md); proxies on the way give up on silence after 30 to 60
_JSON = (b"content-type", b"application/json")
_EVENT_STREAM = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
# Whoever has listened for hours sends nothing more: Envoy would keep the connection for a minute, and we all that it holds.
_LISTENED = [*_EVENT_STREAM, (b"connection", b"close")]
_OK = 200


class BrokerApp:
    """The ASGI application. With `stamps` Envoy may remember lists."""

    def __init__(
        self,
        *,
        live: Watched[Snapshot],
        started: Started,
        directory: Directory,
        streams: Streams,
        guard: Guard,
        metrics: Metrics,
        max_body: int,
        batches: BatchRunner,
    ) -> None:
        self._live = live
        self._started = started
        self._directory = directory
        self._streams = streams
        self._guard = guard
        self._metrics = metrics
        self._max_body = max_body
        self._batches = batches
        self.stamps: Stamps | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. A bug of ours ends in a 500 and a line with its traceback, never in silence."""
        if scope["type"] != "http":
            return
        try:
            await self._wait_request(scope, receive, send)
        except Exception:
            log.exception("Broker failed on a request")
            await _wait_sent(send, 500, error_text(NULL, INTERNAL_ERROR, "Internal error of the gateway"))

    async def _wait_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        scope["headers"] = []  # a stream would hold them as long as it lives
        if scope["method"] != "POST" and await wait_body(receive, SMALL_BODY) is None:
            await _wait_rejected(send, Reject(status=413, code=INVALID_REQUEST, message="Request body too large: send none"))
            return
        if scope["path"] == HEAL_PATH:
            await self._wait_heal(headers, send)
            return
        refused = self._guard.refuses(headers.get("host", ""), headers.get("origin"))
        name = refused or wanted(scope["path"], headers)
        if isinstance(name, Reject):
            await _wait_rejected(send, name)
            return
        if name is not None:
            headers[h.X_VIRTUAL] = name
        if scope["method"] in _METHODS and not self._started.is_over():
            # A list before that would be one without most servers, and look like all; a session may be one of keys that are still to come.
            with trio.move_on_after(START_LIMIT):
                await self._started.wait_over()
            if not self._started.is_over():
                await _wait_rejected(send, NOT_STARTED)
                return
        match scope["method"]:
            case "POST":
                await self._wait_post(headers, receive, send)
            case "GET":
                await self._wait_stream(headers, receive, send)
            case "DELETE":
                await self._wait_delete(headers, send)
            case _:
                body = error_text(NULL, INVALID_REQUEST, "Method not allowed: use POST, GET or DELETE")
                await _wait_sent(send, 405, body, [(b"allow", b"POST, GET, DELETE")])

    async def _wait_heal(self, headers: dict[str, str], send: Send) -> None:
        """For heal.lua alone: Envoy routes no client here."""
        server = self._live.value.servers.get(ServerName(headers.get(h.X_SERVER, "")))
        healed = None
        if server is not None:
            key, dead = headers.get(h.X_SESSION, ""), headers.get(h.SESSION, "")
            healed = await self._directory.wait_healed(key, server, dead, h.for_upstream(headers))
        if server is None or healed is None or healed.id is None:
            await _wait_sent(send, 404, b"")
        else:
            owner = owner_text(server.name, healed.ticket).encode()
            await _wait_sent(send, _OK, healed.id.encode(), [(h.X_OWNER.encode(), owner)])

    async def _wait_post(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        body = await wait_body(receive, self._max_body)
        if body is None:
            message = f"Request body too large: at most {self._max_body} bytes"
            await _wait_rejected(send, Reject(status=413, code=INVALID_REQUEST, message=message))
            return
        if headers.get("content-type", "application/json").partition(";")[0].strip().lower() != "application/json":
            message = "Unsupported media type: send application/json"
            await _wait_rejected(send, Reject(status=415, code=INVALID_REQUEST, message=message))
            return
        if is_batch(body) and takes_batches(self._directory.lookup(headers.get(h.SESSION))):
            await self._wait_batch(headers, body, send)
            return
        parsed = parse_message(body)
        answered = self._answered(headers, parsed)
        method = getattr(parsed, "method", "")
        log.debug("Processing request", method=method)
        match answered:
            case Reject():
                outcome = answered.outcome
                await _wait_rejected(send, answered)
            case methods.Result():
                outcome = "ok"
                ident = parsed.id if isinstance(parsed, Request) else NULL
                body, extra, packed = _encoded(ident, answered, headers.get("accept-encoding", ""))
                extra += self._memo(answered, headers, packed)
                await _wait_sent(send, _OK, body, extra)
            case None:
                outcome = "ok"
                await _wait_sent(send, 202, b"")
        self._metrics.answered(method=method, server=BROKER, outcome=outcome, seconds=time.perf_counter() - started)

    def _memo(self, answered: methods.Result, headers: dict[str, str], packed: Packed | None) -> list[tuple[bytes, bytes]]:
        """How long the answer holds, for lists.lua in the Envoy that asks, and what it needs to pack it around another id."""
        if self.stamps is None or answered.session is None or headers.get(h.X_SERVER) != BROKER:
            return []
        stamped = self.stamps.of(answered.session.key)
        if stamped is None:
            return []
        slot, stamp = stamped
        return [(h.X_MEMO.encode(), list_mark(slot, stamp, answered.session.expires, packed).encode())]

    async def _wait_batch(self, headers: dict[str, str], body: bytes, send: Send) -> None:
        texts = split(body)
        if isinstance(texts, Reject):
            await _wait_rejected(send, texts)
            return

        async def wait_own(message: Message) -> bytes | None:
            answered = self._answered(headers, message)
            ident = message.id if isinstance(message, Request) else NULL
            match answered:
                case Reject():
                    return error_text(answered.id, answered.code, answered.message, answered.data)
                case methods.Result(result):
                    return result_text(ident, result)
                case None:
                    return None

        give, take = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._batches.wait_run, texts, headers, wait_own, give)
            await _wait_batch_sent(send, take, events="text/event-stream" in headers.get("accept", "") and is_asking(texts))

    def _answered(self, headers: dict[str, str], parsed: Message | Malformed) -> methods.Result | Reject | None:
        """The rungs from the message on; None for a message that wants no answer."""
        if isinstance(parsed, Malformed):
            return Reject(status=400, code=parsed.code, message=parsed.message, id=parsed.id)
        ident: JsonText = parsed.id if isinstance(parsed, Request) else NULL
        era = classify(headers.get(h.VERSION), ident)
        if isinstance(era, Reject):
            return era
        snapshot = seen(self._live.value, headers)
        if isinstance(snapshot, Reject):
            return attrs.evolve(snapshot, id=ident)
        if isinstance(parsed, Request) and parsed.method == "initialize":
            return methods.initialize(parsed, snapshot, self._directory, named(headers))
        session = self._directory.lookup(headers.get(h.SESSION))
        if isinstance(session, SessionFault):
            return _no_session(session, ident)
        return self._in_session(headers, parsed, snapshot, session)

    def _in_session(
        self, headers: dict[str, str], parsed: Message, snapshot: Snapshot, session: SessionState
    ) -> methods.Result | Reject | None:
        match parsed:
            case Request(method="logging/setLevel"):
                return methods.set_level(parsed, session.session, self._directory, headers)
            case Request():
                return methods.answer(parsed, snapshot, session.session)
            case Notification():
                if parsed.method != "notifications/initialized":
                    self._directory.relay(session, parsed, headers)
                return None
            case Response():
                message = "Answers reach their server through the gateway's Envoy listener"
                return Reject(status=400, code=INVALID_REQUEST, message=message, id=parsed.id)
            case _:
                assert_never(parsed)

    async def _wait_delete(self, headers: dict[str, str], send: Send) -> None:
        session = self._directory.lookup(headers.get(h.SESSION))
        if isinstance(session, SessionFault):
            await _wait_rejected(send, _no_session(session))
            return
        self._directory.end(session.session, headers)
        await _wait_sent(send, 204, b"")

    async def _wait_stream(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        stream = self._opened_stream(headers)
        if isinstance(stream, Reject):
            await _wait_rejected(send, stream)
            return
        headers.clear()  # as all that is not of the stream: it may live for days
        self._metrics.streams.inc()
        try:
            await _wait_streamed(receive, send, stream)
        finally:
            self._streams.discard(stream)
            self._metrics.streams.dec()

    def _opened_stream(self, headers: dict[str, str]) -> Stream | Reject:
        era = classify(headers.get(h.VERSION))
        session = self._directory.lookup(headers.get(h.SESSION))
        accepted = headers.get("accept", "*/*")
        view = seen(self._live.value, headers)
        if isinstance(era, Reject):
            return era
        if isinstance(session, SessionFault):
            return _no_session(session)
        if isinstance(view, Reject):
            return view
        if not any(kind in accepted for kind in ("text/event-stream", "text/*", "*/*")):
            return Reject(status=406, code=INVALID_REQUEST, message="Not acceptable: a GET stream is text/event-stream")
        stream = self._streams.open(session.session.key, headers.get(h.LAST_EVENT, ""), named(headers))
        self._directory.listened(session.session, headers)
        # Clients of before could not take an event without data (basic/transports, Sending Messages, 2025-11-25).
        stream.primed = session.session.protocol_version >= PRIMED
        return stream


async def _wait_streamed(receive: Receive, send: Send, stream: Stream) -> None:
    async def wait_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await send({"type": "http.response.start", "status": _OK, "headers": _LISTENED})
    # The headers leave with the first byte of the body.
    await send(_chunk(stream.first_event() if stream.primed else KEEP_ALIVE))
    while not stream.closed:
        match await stream.wait_news(wait_gone, KEEP_ALIVE_INTERVAL):
            case "other":
                return
            case "silence":
                await send(_chunk(KEEP_ALIVE))
        while not stream.closed and (event := stream.next_event()) is not None:
            await send(_chunk(event))
    await send({"type": "http.response.body", "body": b""})


def _chunk(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _wait_batch_sent(send: Send, answers: trio.MemoryReceiveChannel[bytes], *, events: bool) -> None:
    """Answers as events as they come, or as one array; 202 when there is none."""
    if not events:
        found = [answer async for answer in answers]
        await _wait_sent(send, _OK if found else 202, b"[%b]" % b",".join(found) if found else b"")
        return
    await send({"type": "http.response.start", "status": _OK, "headers": _EVENT_STREAM})
    await send(_chunk(KEEP_ALIVE))
    async for answer in answers:
        await send(_chunk(event_bytes(answer)))
    await send({"type": "http.response.body", "body": b""})


def _no_session(fault: SessionFault, ident: JsonText = NULL) -> Reject:
    return Reject(status=fault.status, code=SERVER_ERROR, message=fault.message, id=ident)


def _encoded(
    ident: JsonText, answered: methods.Result, accepted: str
) -> tuple[bytes, list[tuple[bytes, bytes]], Packed | None]:
    """The body of an answer, compressed where that is worth it and wanted, the headers that say so, and what it was compressed from."""
    extra = [(h.SESSION.encode(), answered.session_id.encode())] if answered.session_id else []
    if answered.packed is None:
        return result_text(ident, answered.body), extra, None
    extra.append((b"vary", b"accept-encoding"))
    before, behind = around_result(ident)
    if not accepts(accepted) or len(before) > MAX_AROUND:
        return result_text(ident, answered.body), extra, None
    extra.append((b"content-encoding", b"gzip"))
    packed = answered.packed(answered.body)
    return gzip_around(before, packed, behind), extra, packed


async def _wait_rejected(send: Send, reject: Reject) -> None:
    body = error_text(reject.id, reject.code, reject.message, reject.data)
    await _wait_sent(send, reject.status, body)


async def _wait_sent(send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [(b"content-length", str(len(body)).encode()), *([_JSON] if body else []), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
