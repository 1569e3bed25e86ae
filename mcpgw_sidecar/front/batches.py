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
from mcpgw_sidecar.front.answers import reject_text, wait_batch_sent
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
from mcpgw_sidecar.runtime.http import Send
from mcpgw_sidecar.upstream.exchange import messages_of

log = get_logger(__name__)

AT_ONCE = 50  # messages of a batch that are with Envoy at a time
# What belongs to the connection, or to the body as a whole, and what the client asked of the answer
# as a whole.
_OF_THE_BATCH = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "content-length"}
    | {"accept-encoding", "host"}
)


@attrs.frozen(kw_only=True)
class BatchRunner:
    """Hands the messages of a batch to `inner`, a client of Envoy's inner listener."""

    inner: httpx2.AsyncClient
    metrics: Metrics

    async def wait_run(self, batch: Batch, headers: Mapping[str, str], send: Send) -> None:
        """Answer a batch. `headers` are those of its request."""
        messages = [parse_message(text) for text in batch.texts]
        events = h.EVENT_STREAM in headers.get("accept", "") and any(isinstance(message, Request) for message in messages)
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_messages, batch, messages, headers, send_channel)
            await wait_batch_sent(send, receive_channel, events=events)

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
        is_answered = False
        try:
            async with places, contextlib.aclosing(self._answers(text, headers)) as answers:
                async for answer in answers:
                    is_answered = is_answered or isinstance(answer, Response)
                    await out.send(one_line(answer.text))
            if is_answered or not isinstance(message, Request):
                return
            reject = _failed("The answer broke off before its end", ident)
        except UpstreamError as error:
            reject = _failed(f"The answer cannot be passed on: it {error}", ident)
        except httpx2.HTTPError as error:
            log.debug("Message of a batch not carried", error=repr(error))
            reject = _failed("The gateway's Envoy did not carry this message of the batch: try again", ident)
        except Exception:  # a bug of ours costs this message, not the batch
            log.exception("Broker failed on a message of a batch")
            reject = refusal(INTERNAL_ERROR, "Internal error of the gateway", id=ident)
        if not is_answered and not isinstance(message, Notification):
            await out.send(reject_text(reject))

    async def _answers(self, text: str, headers: Mapping[str, str]) -> AsyncGenerator[Message, None]:
        """What Envoy answers to one message, which is sent as a client would send it."""
        fields = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in headers.items()
            if name not in _OF_THE_BATCH and not name.startswith(":")
        ]
        fields += [(b"host", headers[":authority"].encode("latin-1")), (b"accept-encoding", b"identity")]
        request = self.inner.stream("POST", headers[":path"], content=text.encode(), headers=fields)
        async with request as answer, contextlib.aclosing(messages_of(answer)) as messages:
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
