"""Batches: arrays of messages in one POST (basic/transports). Only version 2025-03-26 has them.

The broker takes a batch apart, decides each message as if it had come alone, and sends its calls to
the servers itself, because Envoy could send a body to one server only. Each answer goes out as an
event when it comes, as do other messages of the servers; a client that accepts no events gets one
array at the end. An invalid message gets an error as its answer, and the rest of the batch goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

import attrs
import trio

from mcpgw_sidecar.directory.deciding import Decider
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.front.answers import Result, reject_text, wait_batch_sent
from mcpgw_sidecar.inbound.classify import Batch, Inbound
from mcpgw_sidecar.model.decisions import Forward, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import BROKER, NULL
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR, Request, parse_message, result_text
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.runtime.http import Send
from mcpgw_sidecar.upstream.carrier import Carrier
from mcpgw_sidecar.upstream.words import rejection

log = get_logger(__name__)

AnswerOwn = Callable[[Inbound, Mapping[str, str]], Result | Reject | None]
"""Answers a message that is for the broker."""


@attrs.frozen(kw_only=True)
class BatchRunner:
    """Runs the messages of a batch at the same time, each with a record of its own."""

    decider: Decider
    carrier: Carrier
    metrics: Metrics
    answer_own: AnswerOwn

    async def wait_run(self, batch: Batch, headers: Mapping[str, str], send: Send) -> None:
        """Answer a batch. `headers` are those of its request."""
        events = h.EVENT_STREAM in headers.get("accept", "") and _has_request(batch)
        send_channel, receive_channel = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_messages, batch, headers, send_channel)
            await wait_batch_sent(send, receive_channel, events=events)

    async def _wait_messages(self, batch: Batch, headers: Mapping[str, str], out: trio.MemorySendChannel[bytes]) -> None:
        async with out, trio.open_nursery() as nursery:
            for text in batch.texts:
                request = HttpRequest(headers=headers, body=text.encode())
                nursery.start_soon(self._wait_message, request, out)

    async def _wait_message(self, request: HttpRequest, out: trio.MemorySendChannel[bytes]) -> None:
        record = RequestRecord(self.metrics)
        try:
            await self._wait_answered(request, record, out)
        except Exception:  # a bug of ours costs this message, not the batch
            log.exception("Broker failed on a message of a batch")
            message = parse_message(request.body)
            ident = message.id if isinstance(message, Request) else NULL
            reject = refusal(INTERNAL_ERROR, "Internal error of the gateway", id=ident)
            record.refuse(reject)
            await out.send(reject_text(reject))

    async def _wait_answered(self, request: HttpRequest, record: RequestRecord, out: trio.MemorySendChannel[bytes]) -> None:
        decision = await self.decider.wait_decided(request, element=True)
        match decision:
            case Reject():
                record.refuse(decision)
                await out.send(reject_text(decision))
            case ToBroker():
                record.method, record.server = decision.method, BROKER
                await self._wait_own(request, record, out)
            case Forward():
                record.method, record.server = decision.method, decision.server.name
                record.tool = decision.key if decision.kind is TOOL else ""
                await self._wait_forwarded(decision, request, record, out)
            case _:
                assert_never(decision)

    async def _wait_own(self, request: HttpRequest, record: RequestRecord, out: trio.MemorySendChannel[bytes]) -> None:
        inbound = self.decider.climb(request, element=True)
        answer: Result | Reject | None
        if isinstance(inbound, Reject):
            ident, answer = inbound.id, inbound
        else:
            ident, answer = inbound.id, self.answer_own(inbound, request.headers)
        match answer:
            case Reject():
                record.refuse(answer)
                await out.send(reject_text(answer))
            case Result(body):
                record.close("ok")
                await out.send(result_text(ident, body))
            case None:
                record.close("ok")
            case _:
                assert_never(answer)

    async def _wait_forwarded(
        self, call: Forward, request: HttpRequest, record: RequestRecord, out: trio.MemorySendChannel[bytes]
    ) -> None:
        try:
            answer = await self.carrier.wait_carried(call, for_server(request.headers, call.server.forwarded), out.send)
        except UpstreamError as error:
            reject = attrs.evolve(rejection(call.server, error), id=call.id, method=call.method, tool=record.tool)
            record.refuse(reject)
            await out.send(reject_text(reject))
        else:
            record.close("ok")
            if answer is not None:
                await out.send(answer)


def _has_request(batch: Batch) -> bool:
    """Whether one of the messages is a request, so that answers can come one by one."""
    return any(isinstance(parse_message(text), Request) for text in batch.texts)
