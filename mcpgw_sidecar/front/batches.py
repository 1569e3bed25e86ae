"""Batches: arrays of messages in one POST (basic/transports). Only version 2025-03-26 has them.

The broker takes a batch apart and hands each message to Envoy, at an inner listener with the same
filters as the clients' own: so whatever the operator has Envoy do to a call, it does to each, as if
the message had come alone. Each answer goes out as an event when it comes, as do other messages of
the servers; a client that accepts no events gets one array at the end. An invalid message gets an
error as its answer, and the rest of the batch goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping

import attrs
import httpx2
import trio

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.front.answers import reject_text, wait_array_sent, wait_cancelled, wait_events_sent
from mcpgw_sidecar.inbound.classify import Batch
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import NULL, JsonText
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    SERVER_ERROR,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    parse_message,
)
from mcpgw_sidecar.protocol.methods import INITIALIZE
from mcpgw_sidecar.protocol.sse import one_line
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.runtime import descriptors
from mcpgw_sidecar.runtime.http import Receive, Send
from mcpgw_sidecar.upstream.messages import messages_of

log = get_logger(__name__)

AT_ONCE, OF_ALL = 50, 200  # messages of a batch, and of all batches, that are with Envoy at a time
MAX_HELD = 32 << 20  # bytes of answers that all batches hold: those of arrays, and what is unfinished
# What belongs to the connection, or to the body as a whole, and what the client asked of the answer
# as a whole.
_OF_THE_BATCH = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "content-length"}
    | {"accept-encoding", "host"}
)


@attrs.define
class Held:
    """Bytes that batches hold."""

    size: int = 0

    def take(self, size: int) -> None:
        """Hold more, or fewer. Raises UpstreamError when it is too much."""
        if size > 0 and self.size + size > MAX_HELD:
            raise UpstreamError("TooLarge", "is larger than a batch may hold at the moment")
        self.size += size


@attrs.frozen(kw_only=True)
class BatchRunner:
    """Hands the messages of a batch to `inner`, a client of Envoy's inner listener."""

    inner: httpx2.AsyncClient
    metrics: Metrics
    _held: Held = attrs.field(factory=Held, init=False)
    _places: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(OF_ALL), init=False)

    async def wait_run(self, batch: Batch, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        """Answer a batch; without its client it ends. `headers` are those of its request."""
        messages = [parse_message(text) for text in batch.texts]
        has_request = any(isinstance(message, Request) for message in messages)
        events = has_request and h.EVENT_STREAM in headers.get("accept", "")
        out, answers = trio.open_memory_channel[bytes](0)

        held = 0
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_cancelled, receive, None, nursery.cancel_scope)
                nursery.start_soon(self._wait_messages, batch, messages, headers, out)
                if events:
                    await wait_events_sent(send, answers)
                else:
                    texts = list[bytes]()
                    async for answer in answers:
                        texts.append(answer)
                        self._held.size += len(answer)
                        held += len(answer)
                    await wait_array_sent(send, texts)
                nursery.cancel_scope.cancel()
        finally:
            self._held.size -= held

    async def _wait_messages(
        self,
        batch: Batch,
        messages: list[Message | Malformed],
        headers: Mapping[str, str],
        out: trio.MemorySendChannel[bytes],
    ) -> None:
        places = trio.CapacityLimiter(AT_ONCE)
        async with out, trio.open_nursery() as nursery:
            for text, message in zip(batch.texts, messages, strict=True):
                reject = _fault(message)
                if reject is not None:
                    RequestRecord(self.metrics).refuse(reject)
                    await out.send(reject_text(reject))
                else:
                    nursery.start_soon(self._wait_message, text, message, headers, out, places)

    async def _wait_message(
        self,
        text: str,
        message: Message | Malformed,
        headers: Mapping[str, str],
        out: trio.MemorySendChannel[bytes],
        places: trio.CapacityLimiter,
    ) -> None:
        ident = message.id if isinstance(message, Request | Response) else NULL
        try:
            async with places, self._places, contextlib.aclosing(self._answers(text, headers)) as answers:
                async for answer in answers:
                    await out.send(one_line(answer.text))
                    if isinstance(answer, Response) and isinstance(message, Request):
                        return  # it has its answer, whatever the server goes on to say
            if not isinstance(message, Request):
                return
            reject = _failed("The answer broke off before its end", ident)
        except UpstreamError as error:
            reject = _failed(f"The answer cannot be passed on: it {error}", ident)
        except httpx2.ConnectError:
            reject = _failed("The gateway's Envoy does not take this message of the batch: try again", ident)
        except httpx2.HTTPError as error:
            log.debug("Message of a batch not carried", error=repr(error))
            reject = _failed("The gateway's Envoy broke off: the call may have run", ident)
        except Exception:  # a bug of ours costs this message, not the batch
            log.exception("Broker failed on a message of a batch")
            reject = refusal(INTERNAL_ERROR, "Internal error of the gateway", id=ident)
        if not isinstance(message, Notification):
            await out.send(reject_text(reject))

    async def _answers(self, text: str, headers: Mapping[str, str]) -> AsyncGenerator[Message, None]:
        """What Envoy answers to one message, which is sent as a client would send it."""
        fields = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in headers.items()
            if name not in _OF_THE_BATCH and not name.startswith(":")
        ]
        fields += [(b"host", headers[":authority"].encode("latin-1")), (b"accept-encoding", b"identity")]
        if not descriptors.has_room():
            raise UpstreamError("Busy", "was not asked for: the gateway has too many open connections at the moment")
        request = self.inner.stream("POST", headers[":path"], content=text.encode(), headers=fields)
        async with request as answer, contextlib.aclosing(messages_of(answer, self._held.take)) as messages:
            async for message in messages:
                yield message


def _failed(message: str, ident: JsonText) -> Reject:
    return Reject(status=200, code=SERVER_ERROR, message=message, id=ident)


def _fault(message: Message | Malformed) -> Reject | None:
    """What Envoy need not be asked about: it could take an array for another batch."""
    if isinstance(message, Malformed):
        return Reject(status=400, code=message.code, message=message.message, id=message.id)
    if isinstance(message, Request) and message.method == INITIALIZE:
        fault = "Invalid Request: initialize cannot be part of a batch"
        return attrs.evolve(refusal(INVALID_REQUEST, fault, id=message.id), method=INITIALIZE)
    return None
