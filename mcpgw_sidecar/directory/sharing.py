"""Shares sessions with other replicas, and passes the news of replicas to the hub."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import assert_never

import attrs
import trio

from mcpgw_sidecar.directory.carriedcalls import CarriedCalls
from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.store import ReplicaNews, SessionStore, SharedRow
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import AllWishes, Session, short
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsonrpc import Notification, Response
from mcpgw_sidecar.protocol.relayed import cancellation
from mcpgw_sidecar.sessions import actions as a, events as e

log = get_logger(__name__)

MAX_FETCHING = 20  # rows that are read from the store at one time
MAX_PASSED = 64 << 10  # bytes of what a client says to a call that a replica carries
MAX_PASSING = 200  # of these that are on their way to the store
TRIES = 10  # to pass them on, or to read them, while the store does not answer
PAUSE = 1.0  # seconds between two of them

Sharable = a.Post | a.FetchMail | a.FetchRow | a.ShareSubscription | a.ShareEnd


@attrs.define(kw_only=True, eq=False)
class Sharing:
    """Uses the session store. `feed` takes the events that answer the hub's actions.

    `calls` are those that this process carries, whose clients may speak to any replica.
    """

    sessions: OpenSessions
    store: SessionStore
    nursery: trio.Nursery
    feed: Callable[[e.Event], None]
    calls: CarriedCalls = attrs.field(factory=CarriedCalls)
    _outgoing: deque[tuple[str, bytes]] = attrs.field(factory=deque)
    """Messages for replicas, in their order.

    It stays short: while the store does not answer, only one operation a second waits for it.
    """
    _passing: int = 0
    _ending: dict[str, trio.Event] = attrs.field(factory=dict)
    _fetching: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_FETCHING))

    def do(self, action: Sharable) -> None:
        """Carry out an action of the hub."""
        match action:
            case a.Post(key, message):
                if not self._outgoing:
                    self.nursery.start_soon(self._wait_posting)
                self._outgoing.append((key, message))
            case a.FetchMail(key):
                self.nursery.start_soon(self._wait_mail, key)
            case a.FetchRow(session):
                self.nursery.start_soon(self._wait_row, session)
            case a.ShareSubscription(session, server, uri, wanted):
                self.nursery.start_soon(self.store.wait_wish, session, (server, uri), "1" if wanted else None)
            case a.ShareEnd(session):
                self._ending[session.key] = trio.Event()
                self.nursery.start_soon(self._wait_ended, action)
            case _:
                assert_never(action)

    def cancelled(self, session_key: str, notification: Notification) -> None:
        """Cancel the call that a client's notification names, here or at a replica."""
        text = cancellation(notification) if not self.calls.cancelled(session_key, notification) else None
        if text is not None:
            self._pass_on(session_key, text)

    def answered(self, session_key: str, answer: Response) -> bool:
        """Take a client's answer to a question of a call, here or at a replica.

        False if nobody has asked, or if the answer cannot be passed on.
        """
        if self.calls.answered(session_key, answer):
            return True
        is_asked = self.sessions.is_question(session_key, str(answer.id_value))
        return is_asked and self._pass_on(session_key, answer.text.encode())

    def _pass_on(self, session_key: str, message: bytes) -> bool:
        """Pass on what a client says to a call that a replica carries; False beyond the limits."""
        if not self.store.shared or len(message) > MAX_PASSED or self._passing >= MAX_PASSING:
            return False
        self._passing += 1
        self.nursery.start_soon(self._wait_passed_on, session_key, message)
        return True

    async def _wait_passed_on(self, session_key: str, message: bytes) -> None:
        try:
            for _ in range(TRIES):
                if await self.store.wait_client_message(session_key, message):
                    return
                await trio.sleep(PAUSE)
            log.warning("What a client said to a call did not reach the replica that carries it", session=short(session_key))
        finally:
            self._passing -= 1

    def _client_spoke(self, session_key: str) -> None:
        if self.calls.has_any(session_key):
            self.nursery.start_soon(self._wait_client_messages, session_key)

    def _missed(self) -> None:
        self.feed(e.ReplicaGone())
        for session_key in self.calls.sessions():
            self._client_spoke(session_key)

    async def _wait_client_messages(self, session_key: str) -> None:
        for _ in range(TRIES):
            messages = await self.store.wait_client_messages(session_key)
            if messages is not None:
                break
            await trio.sleep(PAUSE)
        for message in messages or ():
            if self.calls.take(session_key, message):
                await self.store.wait_client_message_taken(session_key, message)

    async def wait_following(self) -> None:
        """Follow the news of replicas about sessions, for ever."""
        news = ReplicaNews(
            ended=lambda key, expires: self.feed(e.EndedElsewhere(key, expires)),
            ended_before=lambda key, expires: self.feed(e.EndedBefore(key, expires)),
            mail=lambda key: self.feed(e.MailWaits(key)),
            changed=lambda key: self.feed(e.RowChanged(key)),
            client_message=self._client_spoke,
            expired=self._expired,
            gone=lambda: self.feed(e.ReplicaGone()),
            missed=self._missed,
        )
        await self.store.wait_following(news)

    async def wait_adopted(self, session: Session) -> None:
        """Adopt what replicas know of a session: its upstream sessions, and its client's wishes."""
        row = await self.store.wait_row(session)
        for server, upstream in self.sessions.unsealed(session.key, row.tickets.items()):
            self.feed(e.Adopted(session, server.name, upstream))
        self._read_wishes(session, row)

    async def wait_wishes(self, session: Session) -> None:
        """Read what a session's client has wished at replicas."""
        if self.store.shared:
            self._read_wishes(session, await self.store.wait_row(session))

    def _read_wishes(self, session: Session, row: SharedRow) -> None:
        self.feed(e.WishesRead(session, AllWishes(level=row.level, resources=row.resources)))

    async def wait_level(self, session: Session, level: str) -> None:
        """Adopt the upstream sessions of other processes, and share a log level with them."""
        await self.store.wait_wish(session, None, level)
        await self.wait_adopted(session)
        self.feed(e.LevelShared(session.key))

    async def wait_end_shared(self, session_key: str) -> None:
        """Wait until the store knows that a session has ended here, or does not answer in time."""
        ending = self._ending.get(session_key)
        if ending is not None:
            await ending.wait()

    def _expired(self, session_key: str, tickets: Iterable[tuple[ServerName, str]]) -> None:
        for server, upstream in self.sessions.unsealed(session_key, tickets):
            self.feed(e.LeftOpen(server.name, upstream))

    async def _wait_row(self, session: Session) -> None:
        async with self._fetching:  # after the end of a replica there may be thousands
            await self._wait_mail(session.key)
            await self.wait_adopted(session)
        self.feed(e.Shared(session))

    async def _wait_mail(self, key: str) -> None:
        for message in await self.store.wait_mail(key):
            self.feed(e.Said(key, message))

    async def _wait_posting(self) -> None:
        while self._outgoing:
            key, message = self._outgoing[0]
            if not await self.store.wait_post(key, message):
                self.feed(e.NotPosted(key, message))
            self._outgoing.popleft()

    async def _wait_ended(self, action: a.ShareEnd) -> None:
        try:
            row = await self.store.wait_end(action.session)
        finally:
            self._ending.pop(action.session.key).set()
        for server, upstream in self.sessions.unsealed(action.session.key, row.all_tickets, action.brought):
            if (server.name, upstream.id) not in action.here:
                self.feed(e.LeftOpen(server.name, upstream))
