"""Answers requests of clients without sessions to servers that have them (heldcall.py).

A question of a server is the answer (`input_required`): the call is held here, under a state that
the client sends back with what its user said. A state is good for one answer, for the client that
got it, and for the same request; in another process it is unknown.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Final

import attrs
import trio

from mcpgw_sidecar.errors import UpstreamError, first_in
from mcpgw_sidecar.front.answers import OK, Events, wait_cancelled
from mcpgw_sidecar.front.concluding import request_of, wait_concluded
from mcpgw_sidecar.front.heldcall import AHEAD, Asked, HeldCall, Item, Settled
from mcpgw_sidecar.front.room import PATIENCE, Room, busy, silence_of
from mcpgw_sidecar.inbound.callers import Caller, name_of
from mcpgw_sidecar.model.decisions import Carry, Reject
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.reasons import BAD_ANSWER
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h, sessionless, translation
from mcpgw_sidecar.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    Request,
    Response,
    result_text,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps
from mcpgw_sidecar.protocol.passing import brought_text
from mcpgw_sidecar.protocol.sessionless import Sender
from mcpgw_sidecar.protocol.statuses import failure, refusal
from mcpgw_sidecar.protocol.translation import UntranslatableError
from mcpgw_sidecar.protocol.versions import LATEST_STATEFUL
from mcpgw_sidecar.runtime.http import Receive, Send
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.upstream.sessionpool import SessionPool
from mcpgw_sidecar.upstream.stateful import UpstreamClient
from mcpgw_sidecar.upstream.words import ClientWords, rejection

log = get_logger(__name__)

MAX_HELD: Final = 250  # calls that wait for their clients
_STATE_FAULT = (
    "Invalid params: this requestState is unknown here, was used, or has expired: send the request again without it"
)


@attrs.frozen
class _Held:
    """A call that waits for its client; `of` is who that is, the server, and the digest."""

    call: HeldCall
    items: trio.MemoryReceiveChannel[Item]
    of: tuple[str, str, str]
    expires: float


@attrs.define(kw_only=True, eq=False)
class Pooling:
    """Answers the requests. `nursery` holds the calls, which may outlive a request.

    `stale` is called with a server that says that its lists changed. `silence` is the longest pause
    of a server in a call, in seconds, where its configuration says nothing else; 0 for no limit.
    """

    client: UpstreamClient
    pool: SessionPool
    stale: Callable[[ServerName], None]
    silence: float
    work: Work
    room: Room
    nursery: trio.Nursery
    _held: dict[str, _Held] = attrs.field(factory=dict, init=False)

    def count(self) -> int:
        """How many calls wait for their clients."""
        return sum(not held.call.is_over for held in self._held.values())

    async def wait_carried(
        self,
        carry: Carry,
        caller: Caller | None,
        headers: Mapping[str, str],
        record: RequestRecord,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer a request. `headers` are those of the client's."""
        events, who = Events(send), name_of(caller, headers)
        try:
            answer = await self._wait_answered(carry, who, headers, events, receive)
        except JsonTextError as error:
            answer = refusal(INVALID_REQUEST, f"Invalid Request: {error}")
        if answer is None:
            record.close("broken")  # by the client
            return
        await wait_concluded(events, carry, answer, headers, record)

    async def wait_sweeping(self) -> None:
        """Cancel the calls whose clients do not come back, for ever."""
        while True:
            await trio.sleep(1.0)
            now = trio.current_time()
            for state, held in list(self._held.items()):
                if held.expires < now:
                    del self._held[state]
                    held.call.scope.cancel()

    async def _wait_answered(
        self, carry: Carry, who: str, headers: Mapping[str, str], events: Events, receive: Receive
    ) -> bytes | Reject | None:
        """The answer; None if the client is gone before there is one."""
        request = request_of(carry)
        accepted = events if h.EVENT_STREAM in h.accepted(headers.get("accept")) else None
        sender, of = sessionless.sender_of(request), (who, carry.server.name, sessionless.digest_of(request))
        if sender.state is None and sender.answers:
            return refusal(
                INVALID_PARAMS, "Invalid params: inputResponses need the requestState that came with the questions"
            )
        if sender.state is not None:
            held = self._held.get(sender.state)
            if held is None or held.of != of:
                return refusal(INVALID_PARAMS, _STATE_FAULT)
            del self._held[sender.state]
            held.call.answer(sender)
            call, items = held.call, held.items
        else:
            out, items = trio.open_memory_channel[Item](AHEAD)
            call = self._begun(carry, request, sender, who, headers, out)
            if call.can_be_asked and len(self._held) >= MAX_HELD:
                return rejection(carry.server, busy())
            with contextlib.ExitStack() as stack:
                if not stack.enter_context(self.room.taken(who or _state_text(), len(carry.text))):
                    return rejection(carry.server, busy())
                self.nursery.start_soon(self._wait_run, call, stack.pop_all())
        try:
            call.is_read = True
            item = await self._wait_item(call, items, accepted, receive)
        except BaseException:  # nobody waits for the call any more
            call.scope.cancel()
            raise
        if item is None:
            return None
        if isinstance(item, Settled):
            return _answered(item.answer, carry)
        if len(self._held) >= MAX_HELD:
            call.scope.cancel()
            fault = "The gateway holds too many calls whose users are asked something: try again later"
            return Reject(status=OK, code=INTERNAL_ERROR, message=fault)
        call.is_read = False
        state = _state_text()
        self._held[json.loads(state)] = _Held(call, items, of, trio.current_time() + PATIENCE)
        return result_text(carry.id, sessionless.input_required(item.questions, state).encode())

    def _begun(
        self,
        carry: Carry,
        request: Request,
        sender: Sender,
        who: str,
        headers: Mapping[str, str],
        out: trio.MemorySendChannel[Item],
    ) -> HeldCall:
        capabilities = translation.capabilities_of(sender.capabilities, can_ask=True, pages=True)
        words = ClientWords(protocol_version=LATEST_STATEFUL, info=sender.info, capabilities=dumps(capabilities))
        # A verified caller may bring another token each hour.
        credentials = brought_text(headers, carry.server.forwarded) if h.X_CLAIMS not in headers else ""
        return HeldCall(
            client=self.client,
            pool=self.pool,
            stale=self.stale,
            work=self.work,
            carry=carry,
            request=request,
            sender=sender,
            capabilities=capabilities,
            headers=dict(headers),
            who=hashlib.sha256(f"{who}\n{credentials}".encode()).hexdigest() if who else "",
            words=words,
            silence=silence_of(carry.server, self.silence),
            out=out,
        )

    async def _wait_run(self, call: HeldCall, room: contextlib.ExitStack) -> None:
        with room:
            try:
                await call.wait_run()
            except Exception as error:  # of a call that was cancelled, whose outcome nobody waits for
                if not isinstance(first_in(error), UpstreamError):
                    log.exception("Carrying a call failed", server=call.carry.server.name)

    async def _wait_item(
        self, call: HeldCall, items: trio.MemoryReceiveChannel[Item], events: Events | None, receive: Receive
    ) -> Asked | Settled | None:
        """What the call says for the client to answer, or its outcome; its messages are sent on.

        None if the client is gone: that cancels the call (basic/utilities/cancellation). Without
        `events` the client takes none.
        """
        found: Asked | Settled | None = None
        async with trio.open_nursery() as beside:
            beside.start_soon(wait_cancelled, receive, events, beside.cancel_scope)
            async for item in items:
                if not isinstance(item, str):
                    found = item
                    break
                if events is not None:
                    await events.wait_sent(item)
            beside.cancel_scope.cancel()
        if found is None:
            call.scope.cancel()
        return found


def _answered(answer: Response | Reject, carry: Carry) -> bytes | Reject:
    """What the client gets: a call that was held answers the request that came back."""
    if isinstance(answer, Reject):
        return answer
    try:
        return sessionless.from_session(answer, carry.method, carry.id)
    except UntranslatableError as error:
        server = carry.server.name
        return failure(server, BAD_ANSWER, f"MCP server {server} {error}")


def _state_text() -> JsonText:
    """A state that nobody guesses, as JSON."""
    return JsonText(dumps(secrets.token_urlsafe(24)))
