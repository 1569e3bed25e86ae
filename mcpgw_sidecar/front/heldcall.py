"""A call of a client without sessions to a server that has them, in a session of the pool.

It runs in a task of its own, because it may outlive the request that began it: where the server
asks the client something, the client gets the question as the answer, and comes back with a request
that has what its user said. Meanwhile the call waits, and so does the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import attrs
import trio

from mcpgw_sidecar.envoy.contract import CHANGES
from mcpgw_sidecar.errors import UpstreamError, upstream_in
from mcpgw_sidecar.front.room import RESTARTING
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Carry, Reject
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.reasons import BROKEN_OFF
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol import sessionless
from mcpgw_sidecar.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Message,
    Notification,
    Request,
    Response,
    notification_text,
    result_text,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps
from mcpgw_sidecar.protocol.methods import CANCELLED, SET_LEVEL
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.protocol.sessionless import Sender
from mcpgw_sidecar.protocol.statuses import failure, refusal
from mcpgw_sidecar.protocol.translation import QUESTIONS, may_ask
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.upstream.exchange import own_id
from mcpgw_sidecar.upstream.messages import Position
from mcpgw_sidecar.upstream.sessionpool import Pooled, SessionPool
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient
from mcpgw_sidecar.upstream.stateless import wait_carried
from mcpgw_sidecar.upstream.words import ClientWords, rejection

log = get_logger(__name__)

COLLECT: Final = 0.02  # seconds in which questions of a server come together
MAX_ASKED: Final = 20  # questions of one call at a time
MAX_QUESTIONS: Final = 1 << 20  # characters of them
MAX_REFUSED: Final = 20  # requests of a server, outside of the answer, that are being refused
OPENED: Final = (1.0, 2.0, 4.0, 8.0)  # seconds before a call is sent again whose user has opened a page
AHEAD: Final = 1  # messages of a server that wait for their client; each may be large


@attrs.frozen
class Asked:
    """The questions of a server that wait for their answers, by the name that the client gets."""

    questions: Mapping[str, Request]


@attrs.frozen
class Settled:
    """The outcome of a call: what the server answers, or why it does not."""

    answer: Response | Reject


Item = str | Asked | Settled
"""What a call says to its client: a message, questions, or the outcome."""


@attrs.define(kw_only=True, eq=False)
class HeldCall:
    """A call on its way. `out` gets what it says; what the client answers comes by `answer`.

    `stale` is called with a server that says that its lists changed. `silence` is the longest pause
    of the server, in seconds, None for no limit; while it waits for an answer it has none. Nobody
    hears of progress, and of the log, while nobody `is_read`.
    """

    carry: Carry
    request: Request
    sender: Sender
    capabilities: Mapping[str, object]
    headers: Mapping[str, str]
    who: str
    words: ClientWords
    client: UpstreamClient
    pool: SessionPool
    stale: Callable[[ServerName], None]
    silence: float | None
    work: Work
    out: trio.MemorySendChannel[Item]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    is_read: bool = attrs.field(default=True, init=False)
    is_over: bool = attrs.field(default=False, init=False)
    _ident: str = attrs.field(factory=own_id, init=False)
    _token: str = attrs.field(factory=own_id, init=False)
    _waiting: dict[str, Request] = attrs.field(factory=dict, init=False)
    _more: trio.Event = attrs.field(factory=trio.Event, init=False)
    _answered: trio.Event = attrs.field(factory=trio.Event, init=False)
    _count: int = attrs.field(default=0, init=False)

    @property
    def can_be_asked(self) -> bool:
        """Whether the client has said that it answers questions."""
        return not frozenset(QUESTIONS.values()).isdisjoint(self.capabilities)

    async def wait_run(self) -> None:
        """Run the call; the outcome is the last that it says, unless it is cancelled."""
        server = self.carry.server
        with self.scope, self.out:
            answer: Response | Reject = failure(server.name, BROKEN_OFF, RESTARTING.format(server.name))
            try:
                with self.work.carrying():
                    answer = await self._wait_settled()
            except Exception:  # a bug of ours costs this call, not the process
                log.exception("Carrying a call failed", server=server.name)
                answer = refusal(INTERNAL_ERROR, "Internal error of the gateway")
            self.is_over = True
            await self.out.send(Settled(answer))

    def answer(self, sender: Sender) -> None:
        """Go on with what the client answers to the questions."""
        self.sender = sender
        self._answered.set()

    async def _wait_settled(self) -> Response | Reject:
        server = self.carry.server
        try:
            async with self.pool.leased(self.who, server, self.words, self._brought, alone=self.can_be_asked) as pooled:
                answer = await self._wait_in_session(pooled)
                for pause in OPENED:
                    asked = sessionless.pages_of(answer)
                    if not asked or not await self._wait_opened(asked):
                        break
                    await trio.sleep(pause)  # whoever has opened a page has not done yet what it is for
                    answer = await self._wait_in_session(pooled)
                return answer
        except UpstreamError as error:
            return rejection(server, error)
        except JsonTextError as error:
            return refusal(INVALID_REQUEST, f"Invalid Request: {error}")

    async def _wait_opened(self, pages: Mapping[str, Request]) -> bool:
        """Whether the user opens the pages without which a server does not begin a call."""
        if not all(may_ask(sessionless.question_of(page), self.capabilities) for page in pages.values()):
            return False
        await self._wait_answers(pages)
        return all(sessionless.is_accepted(self.sender.answers.get(name)) for name in pages)

    @property
    def _brought(self) -> dict[str, str]:
        """What the server gets of the client's headers."""
        return for_server(self.headers, self.carry.server.wanted)

    async def _wait_in_session(self, pooled: Pooled) -> Response:
        """The server's answer. In a session that it has forgotten nothing has run."""
        upstream = self._upstream_of(pooled)
        try:
            return await self._wait_answer(pooled, upstream)
        except UpstreamError as error:
            if not await self.pool.wait_replaced(pooled, upstream, error.status):
                raise
        return await self._wait_answer(pooled, self._upstream_of(pooled))

    def _upstream_of(self, pooled: Pooled) -> Upstream:
        """The session, for requests with this client's headers."""
        return attrs.evolve(pooled.upstream, server=self.carry.server, headers=self._brought)

    async def _wait_answer(self, pooled: Pooled, upstream: Upstream) -> Response:
        await self._wait_level(pooled, upstream)
        body = sessionless.to_session(self.request, self._ident, self._token)
        is_over = False
        try:
            answer = await self._wait_exchanged(upstream, body)
            is_over = True
        except UpstreamError:
            is_over = True
            raise
        finally:
            if not is_over:  # the client is gone, or the process ends
                with trio.move_on_after(timeouts.CLOSE, shield=True), contextlib.suppress(UpstreamError):
                    params = dumps({"requestId": self._ident, "reason": "The client is gone"})
                    await self.client.wait_posted(upstream, notification_text(CANCELLED, params))
        return answer

    async def _wait_exchanged(self, upstream: Upstream, body: bytes) -> Response:
        """Send the request, and take what the server says and asks until it answers."""
        heard = partial(self._wait_heard, upstream)
        answer: Response | None = None
        try:
            async with trio.open_nursery() as beside:
                if self.can_be_asked:
                    opened = trio.Event()
                    beside.start_soon(_wait_listening, self, beside, upstream, opened)
                    with trio.move_on_after(timeouts.LISTEN):  # what is asked there finds nobody before
                        await opened.wait()
                    beside.start_soon(self._wait_asking, upstream)
                answer = await wait_carried(
                    self.client.http,
                    upstream,
                    body,
                    self._ident,
                    heard,
                    self.silence,
                    excused=lambda: bool(self._waiting),
                )
                beside.cancel_scope.cancel()
        except* UpstreamError as group:
            raise upstream_in(group) from None
        assert answer is not None  # noqa: S101  # else an error was raised
        return answer

    async def _wait_level(self, pooled: Pooled, upstream: Upstream) -> None:
        """Let the server send its log from the level on that the client wants."""
        level = self.sender.level
        if level is None or not sessionless.more_verbose(level, pooled.level):
            return
        pooled.level = level
        with contextlib.suppress(UpstreamError):  # a server without a log has nothing to tell
            await self.client.wait_result(upstream, SET_LEVEL, dumps({"level": level}))

    async def _wait_heard(self, upstream: Upstream, message: Request | Notification) -> None:
        """Take what the server says before its answer."""
        if isinstance(message, Request):
            if not self.is_asked(message):
                await self.client.wait_replied(upstream, message)
        elif message.method in CHANGES:
            self.stale(self.carry.server.name)
        elif self.is_read and (text := sessionless.heard(message, self._token, self.sender)) is not None:
            await self.out.send(text)

    def is_asked(self, question: Request) -> bool:
        """Take a question that the client can answer."""
        size = len(question.text) + sum(len(each.text) for each in self._waiting.values())
        if (
            len(self._waiting) >= MAX_ASKED
            or size > MAX_QUESTIONS
            or not may_ask(sessionless.question_of(question), self.capabilities)
        ):
            return False
        self._count += 1
        self._waiting[f"q{self._count}"] = question
        self._more.set()
        return True

    async def _wait_asking(self, upstream: Upstream) -> None:
        """Pass questions on, and what the client answers back, for ever."""
        while True:
            await self._more.wait()
            await trio.sleep(COLLECT)
            self._more = trio.Event()
            while self._waiting:
                await self._wait_answers(dict(self._waiting))
                for name, text in self.sender.answers.items():
                    question = self._waiting.pop(name, None)
                    if question is not None:
                        await self._wait_told(upstream, result_text(question.id, text.encode()))

    async def _wait_answers(self, questions: Mapping[str, Request]) -> None:
        """Ask the client, until it comes back: `sender` has what it answers."""
        self._answered = trio.Event()
        await self.out.send(Asked(questions))
        await self._answered.wait()

    async def _wait_told(self, upstream: Upstream, answer: bytes) -> None:
        """Give the server an answer. A status of that says nothing of the call, which has run."""
        try:
            await self.client.wait_posted(upstream, answer)
        except UpstreamError as error:
            raise UpstreamError("BrokenOff", f"did not take the answer to its question: it {error}") from None


async def _wait_listening(call: HeldCall, beside: trio.Nursery, upstream: Upstream, opened: trio.Event) -> None:
    """Hear what the server asks outside of the call's own answer."""
    refusing = 0

    async def wait_refused(message: Request) -> None:
        nonlocal refusing
        refusing += 1
        with contextlib.suppress(UpstreamError):
            await call.client.wait_replied(upstream, message)
        refusing -= 1

    def handle(message: Message) -> None:
        if isinstance(message, Request) and not call.is_asked(message) and refusing < MAX_REFUSED:
            beside.start_soon(wait_refused, message)

    with contextlib.suppress(UpstreamError):
        await call.client.wait_events(upstream, handle, own=False, position=Position(), opened=opened.set)
    opened.set()
