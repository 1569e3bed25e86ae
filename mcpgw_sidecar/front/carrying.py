"""Carries requests of sessions to servers that speak the stateless era alone.

The messages are translated on their way (protocol/translation.py). What a server says before its
answer, progress and its log, goes to the client as events, and so does what it asks; else the
answer is plain JSON. The client's cancellation closes the server's stream. A client that is gone
has not cancelled: the server gets some time more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import attrs
import trio

from mcpgw_sidecar.directory.carriedcalls import CarriedCalls
from mcpgw_sidecar.envoy.contract import CHANGES
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.front.answers import OK, Events, wait_left
from mcpgw_sidecar.front.concluding import request_of, wait_concluded
from mcpgw_sidecar.front.pages import Pages
from mcpgw_sidecar.front.room import PATIENCE, RESTARTING, Room, busy, silence_of
from mcpgw_sidecar.model.decisions import Carry, Reject
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.reasons import BAD_ANSWER, BROKEN_OFF
from mcpgw_sidecar.model.sessions import AllWishes, Session
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h, translation
from mcpgw_sidecar.protocol.jsonrpc import INVALID_REQUEST, SERVER_ERROR, Notification, Request
from mcpgw_sidecar.protocol.jsontext import JsonTextError
from mcpgw_sidecar.protocol.methods import MESSAGE, PROGRESS
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.protocol.statuses import failure, refusal
from mcpgw_sidecar.protocol.translation import ELICIT, Asked, Question, UntranslatableError
from mcpgw_sidecar.protocol.versions import LATEST_STATEFUL
from mcpgw_sidecar.runtime.http import Receive, Send
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.upstream.exchange import Exchanger, own_id
from mcpgw_sidecar.upstream.stateful import Upstream
from mcpgw_sidecar.upstream.stateless import wait_carried
from mcpgw_sidecar.upstream.words import rejection

GONE = 30.0  # seconds that a call goes on without its client
MAX_ROUNDS = 10  # of questions of one call
_PAUSE, _LONGEST = 0.05, 0.25  # seconds before a call that a busy server wants again, doubled with each time
_CANCEL = '{"action":"cancel"}'
_RELAYED = frozenset({PROGRESS, MESSAGE})
_LEVEL = "info"  # of the log that a client gets which has set no level: its era leaves that to the server


@attrs.define(kw_only=True)
class Carrier:
    """Carries requests.

    `wishes` returns those of a session, by its key; `stale` is called with a server that says that
    its lists changed. `silence` is the longest pause of a server in a call, in seconds, where its
    configuration says nothing else; 0 for no limit. `calls` has what runs, and `question_id`
    makes an id for a question to a session's client.
    """

    http: Exchanger
    wishes: Callable[[str], AllWishes]
    stale: Callable[[ServerName], None]
    silence: float
    calls: CarriedCalls
    question_id: Callable[[str], str]
    work: Work
    room: Room

    async def wait_carried(
        self, carry: Carry, headers: Mapping[str, str], record: RequestRecord, receive: Receive, send: Send
    ) -> None:
        """Answer a request. `headers` are those of the client's request."""
        events, session = Events(send), carry.session
        assert session is not None  # noqa: S101  # others go to pooling.py
        accepts = h.EVENT_STREAM in h.accepted(headers.get("accept"))
        call = _Call(self, carry, session, headers, events if accepts else None)
        with self.room.taken(session.key, len(carry.text)) as has_room:
            answer = await self._wait_run(call, receive) if has_room else rejection(carry.server, busy())
        await wait_concluded(events, carry, answer, headers, record)

    async def _wait_run(self, call: _Call, receive: Receive) -> bytes | Reject:
        """Carry a request until it is answered or cancelled, or its client or the process goes."""
        carry = call.carry
        answer: bytes | Reject = Reject(status=OK, code=SERVER_ERROR, message="Request cancelled")
        async with trio.open_nursery() as beside:
            beside.start_soon(_wait_orphaned, receive, call.events, beside.cancel_scope)
            with self.calls.cancellable(call.session.key, json.loads(carry.id, parse_int=float)):
                with self.work.carrying() as scope:
                    answer = await call.wait_settled()
                if scope.cancelled_caught:
                    answer = failure(carry.server.name, BROKEN_OFF, RESTARTING.format(carry.server.name))
            beside.cancel_scope.cancel()
        return answer


@attrs.frozen
class _Call:
    """One request on its way; `events` is None for a client that takes none."""

    carrier: Carrier
    carry: Carry
    session: Session
    headers: Mapping[str, str]
    events: Events | None

    async def wait_settled(self) -> bytes | Reject:
        """The answer for the client, or why there is none."""
        server = self.carry.server
        try:
            return await self._wait_answer()
        except UpstreamError as error:
            return rejection(server, error)
        except UntranslatableError as error:
            return failure(server.name, BAD_ANSWER, f"MCP server {server.name} {error}")
        except JsonTextError as error:
            return refusal(INVALID_REQUEST, f"Invalid Request: {error}")

    async def _wait_answer(self) -> bytes:
        request = request_of(self.carry)
        session, server, http = self.session, self.carry.server, self.carrier.http
        brought = {**for_server(self.headers, server.wanted), **self.carry.headers}
        upstream = Upstream.stateless(server, brought)
        level = self.carrier.wishes(session.key).level or _LEVEL
        has_pages = session.protocol_version == LATEST_STATEFUL  # older ones know no mode
        capabilities = translation.capabilities_of(
            json.loads(session.capabilities), can_ask=self.events is not None, pages=has_pages
        )
        envelope, answers = translation.envelope_of(session, level, capabilities), ""
        turn, pages = 0, Pages()
        while turn <= MAX_ROUNDS:
            ident = own_id()
            body = translation.to_stateless(request, ident, envelope, answers)
            answer = await wait_carried(
                http, upstream, body, ident, self._wait_heard, silence_of(server, self.carrier.silence)
            )
            if translation.is_mismatch(answer):
                self.carrier.stale(server.name)  # its tools want other headers than they did
            asked = translation.asked_in(answer)
            if asked is None:
                for message in pages.completed():
                    assert self.events is not None  # noqa: S101  # else nobody was sent there
                    await self.events.wait_sent(message)
                return translation.to_stateful(answer, self.carry.method, self.carry.id)
            again = await pages.wait_again(asked)
            if again is not None:
                answers = asked.answered(again)
                continue
            if not asked.questions:
                await trio.sleep(min(_LONGEST, _PAUSE * 2.0**turn))
            answers = asked.answered(await self._wait_asked(asked, capabilities, pages))
            turn += 1
        raise UntranslatableError(f"asks again and again: {MAX_ROUNDS} times for one call")

    async def _wait_heard(self, message: Request | Notification) -> None:
        """Pass on what the server says before its answer, if the client may hear it."""
        if isinstance(message, Notification) and message.method in CHANGES:
            self.carrier.stale(self.carry.server.name)
        elif isinstance(message, Notification) and message.method in _RELAYED and self.events is not None:
            await self.events.wait_sent(message.text)

    async def _wait_asked(self, asked: Asked, capabilities: Mapping[str, object], pages: Pages) -> dict[str, str]:
        """The client's answers to all questions of the server, as JSON, by their names."""
        for question in asked.questions:
            if not translation.may_ask(question, capabilities):
                raise UntranslatableError(f"asks its user something ({question.method[:80]}) that this client cannot answer")
        answers: dict[str, str] = {}

        async def wait_one(question: Question) -> None:
            answer = await self._wait_one(question, pages)
            if answer is not None:
                answers[question.name] = answer

        async with trio.open_nursery() as nursery:
            for question in asked.questions:
                nursery.start_soon(wait_one, question)
        if len(answers) < len(asked.questions):
            raise UntranslatableError("asked this client something that it did not answer")
        return answers

    async def _wait_one(self, question: Question, pages: Pages) -> str | None:
        """The answer to a question; None where a client cannot say that there is none."""
        assert self.events is not None  # noqa: S101  # else nobody is asked
        key, answer = self.session.key, None
        ident = self.carrier.question_id(key)
        with self.carrier.calls.waiting(key, ident) as answers:
            params = pages.params(question, ident)
            text = f'{{"jsonrpc":"2.0","id":"{ident}","method":"{question.method}","params":{params}}}'
            await self.events.wait_sent(text)
            with trio.move_on_after(PATIENCE):
                answer = await answers.receive()
        if answer is not None and answer.result is not None:
            said = answer.text[answer.result.start : answer.result.end]
            pages.answered(question, ident, said)
            return said
        return _CANCEL if question.method == ELICIT else None


async def _wait_orphaned(receive: Receive, events: Events | None, scope: trio.CancelScope) -> None:
    """Give a call some time more once its client is gone."""
    await wait_left(receive, events)
    scope.deadline = trio.current_time() + GONE
