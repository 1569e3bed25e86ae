"""The session store in Redis or Valkey; redisurl.py opens it.

The keys are: `mcpgw:s:<session>`, a hash (`t:<server>` tickets, `x:<its end>:<server>` those
of sessions besides, `l` the log level, `r:<server>:<uri>` subscriptions), `mcpgw:m:<session>`, a
list of messages, `mcpgw:c:<session>`, a list of what its client says to calls of replicas,
`mcpgw:r:<session>:<server>#<hash>`, a lease, `mcpgw:t:<caller and server>`, a sealed token,
`mcpgw:ended`, a sorted set by expiry, `mcpgw:replicas`, a hash with the time at which each replica
was last alive (directory/leases.py), and the channel `mcpgw:news`. All but the set and that hash
expire with their session, or before.
Tickets are sealed with the gateway's key; messages of servers and clients are stored as they are.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import attrs
import trio

from mcpgw_sidecar.directory import store as stores
from mcpgw_sidecar.directory.leases import Leases
from mcpgw_sidecar.directory.missed import NEWS, Missed
from mcpgw_sidecar.directory.redislink import PAUSE, RedisLink
from mcpgw_sidecar.directory.redisrows import TICKET, read_row, row, wait_kept
from mcpgw_sidecar.directory.store import MAX_KEPT, MAX_SAID, ReplicaNews, SharedRow
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.backoff import Backoff

MAIL_LIFE = 300  # seconds that messages wait for a client that does not come back
SAID_LIFE = 60  # seconds that what a client says to a call waits for the replica that carries it
MAIL, SAID = "mcpgw:m:", "mcpgw:c:"  # the lists of a session begin so
TOKEN = "mcpgw:t:"  # noqa: S105  # the beginning of a key
_LISTS = {"mail": (MAIL, MAX_KEPT, MAIL_LIFE), "client": (SAID, MAX_SAID, SAID_LIFE)}
log = get_logger(__name__)


@attrs.define
class RedisStore:
    """The store behind a link."""

    link: RedisLink
    shared: bool = True
    _me: str = attrs.field(factory=lambda: secrets.token_hex(8))
    _missed: Missed = attrs.field(init=False)
    _leases: Leases = attrs.field(init=False)

    @_missed.default
    def _missed_of_this(self) -> Missed:
        return Missed(self.link, self._me)

    @_leases.default
    def _leases_of_this(self) -> Leases:
        async def wait_script(script: str, keys: list[str], args: list[str]) -> list[Any] | None:
            answer: list[Any] | None = await self.link.wait(lambda: self.link.redis.eval(script, keys=keys, args=args), None)
            return answer

        async def wait_free(name: str) -> None:
            await self.link.wait(lambda: self.link.redis.publish(NEWS, json.dumps(["free", name, self._me])), None)

        return Leases(me=self._me, wait_script=wait_script, wait_free=wait_free)

    @property
    def name(self) -> str:
        """The URL of the store, without a password."""
        return self.link.name

    @property
    def error(self) -> str | None:
        """Why the store does not answer; None while it works."""
        return self.link.error

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """The ticket of the session with a server that another replica opened."""
        ticket: str | None = await self.link.wait(lambda: self.link.redis.hget(row(session), f"{TICKET}{server}"), None)
        return ticket

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """Offer a ticket to all replicas; returns the ticket that counts."""
        stored_ticket = await self.link.wait(
            lambda: wait_kept(self.link, session, f"{TICKET}{server}", ticket, instead_of), None
        )
        if stored_ticket is None:
            self._missed.unsent.keep(session, f"{TICKET}{server}", ticket)
        return stored_ticket or ticket

    async def wait_row(self, session: Session) -> SharedRow:
        """The row of a session."""
        fields: dict[str, str] = await self.link.wait(lambda: self.link.redis.hgetall(row(session)), {})
        return read_row(self._missed.with_newer_wishes(session, fields))

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Store a log level, or a subscription."""
        name = "l" if field is None else f"r:{field[0]}:{field[1]}"
        untold = self._missed.unsent.keep(session, name, value)
        await self.link.wait(lambda: self._missed.wait_field_sent(untold, name), None)

    async def wait_end(self, session: Session) -> SharedRow:
        """End a session at all replicas; returns its row."""
        self._missed.unsent.end(session)
        return await self.link.wait(lambda: self._missed.wait_end_sent(session), SharedRow())

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        """Leave a server's message for the replica with the client's stream."""
        return await self._wait_left("mail", session_key, message)

    async def wait_mail(self, session_key: str) -> list[bytes]:
        """Take the messages that wait for a client."""

        async def take() -> list[bytes]:
            return [text.encode() for text in await self.link.redis.lpop(MAIL + session_key, MAX_KEPT) or []]

        return await self.link.wait(take, [])

    async def wait_client_message(self, session_key: str, message: bytes) -> bool:
        """Leave what a client says to a call for the replica that carries it."""
        return await self._wait_left("client", session_key, message)

    async def wait_client_messages(self, session_key: str) -> list[bytes] | None:
        """What a client has said to calls."""

        async def read() -> list[bytes] | None:
            return [text.encode() for text in await self.link.redis.lrange(SAID + session_key, 0, -1)]

        return await self.link.wait(read, None)

    async def wait_client_message_taken(self, session_key: str, message: bytes) -> None:
        """Remove what a client has said to a call."""
        await self.link.wait(lambda: self.link.redis.lrem(SAID + session_key, 1, message.decode()), 0)

    async def wait_token(self, key: str) -> str | None:
        """A sealed token of a caller for a server."""
        sealed: str | None = await self.link.wait(lambda: self.link.redis.get(TOKEN + key), None)
        return sealed

    async def wait_token_kept(self, key: str, sealed: str, seconds: int) -> None:
        """Keep a sealed token for all replicas."""
        await self.link.wait(lambda: self.link.redis.set(TOKEN + key, sealed, ex=seconds), None)

    async def _wait_left(self, news: str, session_key: str, message: bytes) -> bool:
        """Add a message to a session's list, and publish that; False on failure."""
        prefix, most, life = _LISTS[news]

        async def leave() -> bool:
            await self.link.redis.rpush(prefix + session_key, [message.decode()])
            await self.link.redis.ltrim(prefix + session_key, -most, -1)
            await self.link.redis.expire(prefix + session_key, life)
            await self.link.redis.publish(NEWS, json.dumps([news, session_key, self._me]))
            return True

        return await self.link.wait(leave, False)  # noqa: FBT003  # the result while the store does not answer

    async def wait_lease(self, session_key: str, server: ServerName, waiting: Callable[[], None]) -> bool:
        """Wait for the lease of a session with a server; True if another replica had it."""
        return await self._leases.wait_taken(_lease(session_key, server), waiting)

    async def wait_lease_lost(self, session_key: str, server: ServerName) -> None:
        """Wait until another replica has taken a lease of this one."""
        await self._leases.wait_lost(_lease(session_key, server))

    def release(self, session_key: str, server: ServerName) -> None:
        """Give a lease back soon."""
        self._leases.release(_lease(session_key, server))

    async def wait_left(self) -> None:
        """Give all leases back and take no other."""
        if await self._leases.wait_left():
            await self.link.wait(lambda: self.link.redis.publish(NEWS, json.dumps(["left", self._me])), None)

    async def wait_following(self, news: ReplicaNews) -> None:
        """Report the news of other replicas, for ever.

        After a time without the store it reports the ends of sessions that it has missed, and those
        that the store has missed.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_news, news)
            nursery.start_soon(self._wait_alive, news)

    async def _wait_alive(self, news: ReplicaNews) -> None:
        """Keep the leases, and look for replicas that are gone, for ever."""
        while True:
            was_lost = self.error is not None
            if await self._leases.wait_alive():
                news.gone()
            if self.error is None and (was_lost or self._missed.unsent):
                await self._missed.wait_caught_up(news)
            await trio.sleep(stores.LEASE / 3)

    async def _wait_news(self, news: ReplicaNews) -> None:
        backoff = Backoff(PAUSE / 2, stores.LEASE / 3)
        while True:
            try:
                async with self.link.redis.pubsub(retry_policy=None) as channel:
                    await channel.subscribe(NEWS)
                    await self._missed.wait_caught_up(news)
                    news.missed()
                    backoff.reset()
                    async for message in channel:
                        if message["type"] == "message":
                            self._report(message["data"], news)
            except Exception as error:  # noqa: BLE001  # any error of the library: without news this replica goes on alone
                self.link.lost(error)
            await trio.sleep(backoff.next())

    def _report(self, text: str, news: ReplicaNews) -> None:
        try:
            match json.loads(text):
                case ["ended", str(key), str(sender), int(expires)] if sender != self._me:
                    news.ended(key, expires)
                case ["mail", str(key), str()]:
                    news.mail(key)
                case ["changed", str(key), str(sender)] if sender != self._me:
                    news.changed(key)
                case ["client", str(key), str(sender)] if sender != self._me:
                    news.client_message(key)
                case ["free", str(name), str()]:
                    self._leases.freed(name)
                case ["left", str(sender)] if sender != self._me:
                    self._leases.freed(None)
                    news.gone()
        except ValueError:
            log.debug("News of another program in the session store's channel", channel=NEWS)


def _lease(session_key: str, server: ServerName) -> str:
    return f"mcpgw:r:{session_key}:{server}"
