"""Batches of 2025-03-26, which that version alone has: an array of messages in one POST (basic/transports, Sending Messages).

The broker takes a batch apart and carries its calls itself, each decided by the router as if it had come alone: Envoy could send a body
to one server only. Answers go out as they come, as events, with whatever the servers say meanwhile; a client that takes no events gets one
array at the end. A message that is wrong costs its own answer, not the batch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs
import trio

from mcpgw_sidecar.broker.client import FORGOTTEN, UpstreamClient
from mcpgw_sidecar.broker.directory import Directory, rejection
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.decisions import Forward, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.names import ENDPOINT
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Malformed,
    Message,
    Notification,
    Request,
    error_text,
    parse_message,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, parse_array
from mcpgw_sidecar.protocol.owners import name_owner, owner_text
from mcpgw_sidecar.protocol.sse import one_line

MAX_BATCH = 100  # messages; each may be a call that is carried at the same time as the others
Decide = Callable[[HttpRequest], Awaitable[Forward | ToBroker | Reject]]
AnswerOwn = Callable[[Message], Awaitable[bytes | None]]


def split(body: bytes) -> list[str] | Reject:
    """The messages of a batch, each as its own text."""
    try:
        texts = parse_array(body.decode("utf-8"))
    except (UnicodeDecodeError, JsonTextError) as error:
        return Reject(status=400, code=PARSE_ERROR, message=f"Parse error: {error}")
    if 1 <= len(texts) <= MAX_BATCH:
        return texts
    message = f"Invalid Request: a batch holds 1 to {MAX_BATCH} messages, not {len(texts)}"
    return Reject(status=400, code=INVALID_REQUEST, message=message)


def is_asking(texts: list[str]) -> bool:
    """Whether there is a request among them: then answers come one by one."""
    return any(isinstance(parse_message(text), Request) for text in texts)


@attrs.frozen(kw_only=True)
class BatchRunner:
    """Runs the messages of a batch at the same time. `silence` is the longest of a server during a call, in seconds; 0 is none."""

    client: UpstreamClient
    directory: Directory
    decide: Decide
    silence: float

    async def wait_run(
        self, texts: list[str], headers: Mapping[str, str], answer_own: AnswerOwn, out: trio.MemorySendChannel[bytes]
    ) -> None:
        """Send every answer, and what servers say before it, to `out`, and close it. `answer_own` answers what is the broker's."""
        async with out, trio.open_nursery() as nursery:
            for text in texts:
                nursery.start_soon(self._wait_message, text, headers, answer_own, out)

    async def _wait_message(
        self, text: str, headers: Mapping[str, str], answer_own: AnswerOwn, out: trio.MemorySendChannel[bytes]
    ) -> None:
        message = parse_message(text)
        if isinstance(message, Request) and message.method == "initialize":
            await out.send(error_text(message.id, INVALID_REQUEST, "Invalid Request: initialize cannot be part of a batch"))
            return
        pseudo = {":method": "POST", ":path": ENDPOINT, ":authority": headers.get("host", "")}
        decided = await self.decide(HttpRequest(headers={**headers, **pseudo}, body=text.encode()))
        match decided:
            case Reject():
                await out.send(error_text(decided.id, decided.code, decided.message, decided.data))
            case ToBroker() if not isinstance(message, Malformed):
                answered = await answer_own(message)
                if answered is not None:
                    await out.send(answered)
            case Forward():
                await self._wait_forwarded(decided, headers, out)

    async def _wait_forwarded(self, call: Forward, headers: Mapping[str, str], out: trio.MemorySendChannel[bytes]) -> None:
        upstream, own = UpstreamSession(id=call.session_id, protocol_version=call.protocol_version), h.for_upstream(headers)
        try:
            if call.kind is None:
                await self.client.wait_posted(call.server, upstream, call.body, own)
                return
            try:
                answer = await self._wait_answer(call, upstream, call.owner, own, out)
            except UpstreamError as error:
                if error.status != FORGOTTEN or call.session_id is None:
                    raise
                healed = await self.directory.wait_healed(call.session_key, call.server, call.session_id, own)
                if healed is None:
                    raise
                owner = owner_text(call.server.name, healed.ticket)
                answer = await self._wait_answer(call, healed, owner, own, out)
        except UpstreamError as error:
            refused = rejection(call.server, error)
            await out.send(error_text(call.id, refused.code, refused.message, refused.data))
        else:
            await out.send(answer)

    async def _wait_answer(
        self,
        call: Forward,
        upstream: UpstreamSession,
        owner: str,
        headers: Mapping[str, str],
        out: trio.MemorySendChannel[bytes],
    ) -> bytes:
        async def wait_heard(message: Request | Notification) -> None:
            await out.send(one_line(name_owner(message, owner)))

        limit = self.silence if call.server.call_timeout is None else call.server.call_timeout
        return await self.client.wait_forwarded(call.server, upstream, call.body, headers, wait_heard, silence=limit or None)
