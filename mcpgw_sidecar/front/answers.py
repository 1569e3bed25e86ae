"""Answers of the broker: results and refusals as values, and their way over HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio

from mcpgw_sidecar.envoy.entries import Audience, list_mark
from mcpgw_sidecar.front.keepalive import KEEP_ALIVE_INTERVAL, KeepAlive
from mcpgw_sidecar.front.stream import Stream
from mcpgw_sidecar.model.access import Rule
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.model.ports import Stamps
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.gzipped import MAX_AROUND, Packed, accepts, gzip_around
from mcpgw_sidecar.protocol.jsonrpc import around_result, error_text, result_text
from mcpgw_sidecar.protocol.sse import KEEP_ALIVE, event_bytes, one_line
from mcpgw_sidecar.runtime.http import Receive, Send, wait_gone

OK = 200
_JSON = (b"content-type", h.JSON.encode())
_EVENT_STREAM = [
    (b"content-type", h.EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
# After a client's own stream nothing more comes on this connection. Without this header Envoy would
# keep the connection for a minute, and the sidecar its memory.
_CLIENT_STREAM = [*_EVENT_STREAM, (b"connection", b"close")]


@attrs.frozen
class Result:
    """A result, as JSON; `session_id` is set for a new session.

    `packed` compresses the body for gzip; it is None for a small body. With `audience`, Envoy may
    keep the answer for all clients with the same view, as long as the session in it and the catalog
    stay.
    """

    body: bytes
    session_id: str | None = attrs.field(default=None, repr=False)
    packed: Callable[[bytes], Packed] | None = None
    audience: Audience | None = None


@attrs.frozen
class Encoded:
    """The body of an answer, the headers of its encoding, and the compressed result in it."""

    body: bytes
    headers: list[tuple[bytes, bytes]]
    packed: Packed | None = None


def encode(ident: JsonText, result: Result, accept_encoding: str) -> Encoded:
    """The body of a result, compressed if it is large and Accept-Encoding allows it."""
    headers = [(h.SESSION.encode(), result.session_id.encode())] if result.session_id else []
    if result.packed is None:
        return Encoded(result_text(ident, result.body), headers)
    headers.append((b"vary", b"accept-encoding"))
    prefix, suffix = around_result(ident)
    if not accepts(accept_encoding) or len(prefix) > MAX_AROUND:
        return Encoded(result_text(ident, result.body), headers)
    packed = result.packed(result.body)
    headers.append((b"content-encoding", b"gzip"))
    return Encoded(gzip_around(prefix, packed, suffix), headers, packed)


def memo_headers(
    result: Result, packed: Packed | None, stamps: Stamps | None, rules: frozenset[Rule] | None
) -> list[tuple[bytes, bytes]]:
    """The headers that lists.lua, in the Envoy of the request, needs to keep the answer."""
    audience = result.audience
    stamp = stamps.of(audience.session_key, None) if stamps is not None and audience is not None else None
    if stamp is None or audience is None:
        return []
    return [(h.X_MEMO.encode(), list_mark(audience, stamp, packed, rules).encode())]


async def wait_sent(send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    """Send a whole answer."""
    headers = [(b"content-length", str(len(body)).encode()), *([_JSON] if body else []), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def reject_text(reject: Reject) -> bytes:
    """The bytes of a refusal, as an error of JSON-RPC."""
    return error_text(reject.id, reject.code, reject.message, reject.data)


async def wait_rejected(send: Send, reject: Reject, mark: str = "") -> None:
    """Send a refusal; `mark` tells Envoy of it, for its access log."""
    extra: list[tuple[bytes, bytes]] = [(h.X_MEMO.encode(), mark.encode("latin-1", "replace"))] if mark else []
    extra += [(b"allow", b"POST, GET, DELETE")] if reject.status == 405 else []  # noqa: PLR2004  # RFC 9110, 15.5.6
    if reject.challenge:
        extra.append((b"www-authenticate", reject.challenge.encode("latin-1", "replace")))
    await wait_sent(send, reject.status, reject_text(reject), extra)


async def wait_streamed(receive: Receive, send: Send, stream: Stream, keep_alive: KeepAlive) -> None:
    """Send a client's own stream until it ends or the client is gone."""
    kept = keep_alive.begin(stream, send, stream.until)
    try:
        await _wait_streamed(receive, send, stream)
    finally:
        kept.end()


async def _wait_streamed(receive: Receive, send: Send, stream: Stream) -> None:
    await send({"type": "http.response.start", "status": OK, "headers": _CLIENT_STREAM})
    # The server sends the headers with the first byte of the body.
    await send(_chunk(stream.first_event() if stream.primed else KEEP_ALIVE))
    while not stream.closed and time.time() < stream.until:
        match await stream.wait_news(partial(wait_gone, receive)):
            case "other":
                return
            case "silence":
                await send(_chunk(KEEP_ALIVE))
        while not stream.closed and (event := stream.next_event()) is not None:
            await send(_chunk(event))
    await send({"type": "http.response.body", "body": b""})


@attrs.define
class Events:
    """The answer to a request: JSON, or events if something is said before the answer.

    `lock` is None where one task alone sends.
    """

    send: Send
    begun: bool = False
    lock: trio.Lock | None = attrs.field(factory=trio.Lock)

    async def wait_sent(self, message: str) -> None:
        """Send a message before the answer."""
        await self._wait_chunk(event_bytes(one_line(message)))

    async def wait_kept_alive(self) -> None:
        """Show that the answer is still to come."""
        await self._wait_chunk(KEEP_ALIVE)

    async def wait_ended(self, answer: bytes) -> None:
        """Send the answer."""
        if not self.begun:
            await wait_sent(self.send, OK, answer)
            return
        await self._wait_chunk(event_bytes(one_line(answer.decode())))
        await self.send({"type": "http.response.body", "body": b""})

    async def _wait_chunk(self, chunk: bytes) -> None:
        async with self.lock or contextlib.nullcontext():
            with trio.CancelScope(shield=True):  # half a chunk would break all that follows
                if not self.begun:
                    self.begun = True
                    await self.send({"type": "http.response.start", "status": OK, "headers": _EVENT_STREAM})
                await self.send(_chunk(chunk))


async def wait_left(receive: Receive, events: Events | None) -> None:
    """Wait until a client is gone, and show it meanwhile that its answer is still to come.

    Without `events` it takes none.
    """
    if events is None:
        await wait_gone(receive)
        return
    while True:
        with trio.move_on_after(KEEP_ALIVE_INTERVAL) as pause:
            await wait_gone(receive)
        if not pause.cancelled_caught:
            return
        await events.wait_kept_alive()


async def wait_cancelled(receive: Receive, events: Events | None, scope: trio.CancelScope) -> None:
    """Cancel a scope when the client is gone (as `wait_left`)."""
    await wait_left(receive, events)
    scope.cancel()


async def wait_array_sent(send: Send, texts: list[bytes]) -> None:
    """Send answers in one array; without any the status is 202."""
    if not texts:
        await wait_sent(send, 202, b"")
        return
    size = sum(map(len, texts)) + len(texts) + 1
    headers = [(b"content-length", str(size).encode()), _JSON]
    await send({"type": "http.response.start", "status": OK, "headers": headers})
    for place, text in enumerate(texts):
        await send(_chunk(b"," if place else b"["))
        await send(_chunk(text))
    await send({"type": "http.response.body", "body": b"]"})


async def wait_events_sent(send: Send, answers: trio.MemoryReceiveChannel[bytes]) -> None:
    """Send each answer as an event when it comes."""
    await send({"type": "http.response.start", "status": OK, "headers": _EVENT_STREAM})
    await send(_chunk(KEEP_ALIVE))
    async for answer in answers:
        await send(_chunk(event_bytes(answer)))
    await send({"type": "http.response.body", "body": b""})


def _chunk(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}
