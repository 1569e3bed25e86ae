"""Shares sessions with other replicas, and passes the news of replicas to the hub."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import assert_never

import attrs
import trio

from mcpgw_sidecar.directory.carriedcalls import CarriedCalls
from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.store import ReplicaNews, SessionStore
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import AllWishes, Session
from mcpgw_sidecar.protocol.jsonrpc import Notification, Response, parse_message
from mcpgw_sidecar.sessions import actions as a, events as e

MAX_FETCHING = 20  # rows that are read from the store at one time
TRIES = 30  # of passing on what a client says to a call, while the store does not answer

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
        if not self.calls.cancelled(session_key, notification):
            self._pass_on(session_key, notification)

    def answered(self, session_key: str, answer: Response) -> bool:
        """Take a client's answer to a question of a call, here or at a replica.

        False if nobody waits for it, as far as this process can know.
        """
        return self.calls.answered(session_key, answer) or self._pass_on(session_key, answer)

    def _pass_on(self, session_key: str, message: Notification | Response) -> bool:
        is_shared = self.store.shared and self.store.error is None
        if is_shared:
            self.nursery.start_soon(self._wait_passed_on, session_key, message.text.encode())
        return is_shared

    async def _wait_passed_on(self, session_key: str, text: bytes) -> None:
        for _ in range(TRIES):
            if await self.store.wait_word(session_key, text):
                return
            await trio.sleep(1.0)  # as long as nobody has it, a call waits

    def _word_waits(self, session_key: str, name: str) -> None:
        if self.calls.has_any(session_key):
            self.nursery.start_soon(self._wait_word, session_key, name)

    async def _wait_word(self, session_key: str, name: str) -> None:
        text = await self.store.wait_word_of(name)
        match parse_message(text) if text is not None else None:
            case Notification() as notification:
                self.calls.cancelled(session_key, notification)
            case Response() as answer:
                self.calls.answered(session_key, answer)

    async def wait_following(self) -> None:
        """Follow the news of replicas about sessions, for ever."""
        news = ReplicaNews(
            ended=lambda key, expires: self.feed(e.EndedElsewhere(key, expires)),
            ended_before=lambda key, expires: self.feed(e.EndedBefore(key, expires)),
            mail=lambda key: self.feed(e.MailWaits(key)),
            changed=lambda key: self.feed(e.RowChanged(key)),
            word=self._word_waits,
            expired=self._expired,
            gone=lambda: self.feed(e.ReplicaGone()),
            missed=lambda: self.feed(e.ReplicaGone()),
        )
        await self.store.wait_following(news)

    async def wait_adopted(self, session: Session, but: ServerName | None = None) -> str | None:
        """Adopt what replicas know of a session: its upstream sessions, and its client's wishes.

        Returns the ticket of the session with the server `but`, which is not adopted.
        """
        row = await self.store.wait_row(session)
        others = [(name, ticket) for name, ticket in row.tickets.items() if name != but]
        for server, upstream in self.sessions.unsealed(session.key, others):
            self.feed(e.Adopted(session, server.name, upstream))
        self.feed(e.WishesRead(session, AllWishes(level=row.level, resources=row.resources)))
        return None if but is None else row.tickets.get(but)

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
