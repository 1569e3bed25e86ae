"""The session store in Redis or Valkey; redisurl.py opens it.

The keys are: `mcpgw:s:<session>`, a hash (`t:<server>` tickets, `x:<its end>:<server>` those
of sessions besides, `l` the log level, `r:<server>:<uri>` subscriptions), `mcpgw:m:<session>`, a
list of messages, `mcpgw:r:<session>:<server>`, a lease, `mcpgw:ended`, a sorted set by expiry,
`mcpgw:replicas`, a hash with the time at which each replica was last alive (directory/leases.py),
and the channel `mcpgw:news`. All but the set and that hash expire with their session. Tickets are
sealed with the gateway's key; messages of servers are stored as they are.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import attrs
import trio

from mcpgw_sidecar.directory import store as stores
from mcpgw_sidecar.directory.leases import Leases
from mcpgw_sidecar.directory.redislink import PAUSE, RedisLink
from mcpgw_sidecar.directory.store import MAX_KEPT, ReplicaNews, SharedRow, seconds_left
from mcpgw_sidecar.directory.unsent import Unsent, Untold
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.backoff import Backoff

MAIL_LIFE = 300  # seconds that messages wait for a client that does not come back
log = get_logger(__name__)

_NEWS, _ENDED = "mcpgw:news", "mcpgw:ended"
_KEEP = """
local now = redis.call('hget', KEYS[1], ARGV[1])
if now and now ~= ARGV[3] then return now end
redis.call('hset', KEYS[1], ARGV[1], ARGV[2])
redis.call('expire', KEYS[1], ARGV[4])
return ARGV[2]
"""
_TICKET, _SPARE = "t:", "x:"  # with the server: fields of a row


@attrs.define
class RedisStore:
    """The store behind a link."""

    link: RedisLink
    shared: bool = True
    _me: str = attrs.field(factory=lambda: secrets.token_hex(8))
    _unsent: Unsent = attrs.field(factory=Unsent)
    _leases: Leases = attrs.field(init=False)

    @_leases.default
    def _leases_of_this(self) -> Leases:
        async def wait_script(script: str, keys: list[str], args: list[str]) -> list[Any] | None:
            answer: list[Any] | None = await self.link.wait(lambda: self.link.redis.eval(script, keys=keys, args=args), None)
            return answer

        async def wait_free(name: str) -> None:
            await self.link.wait(lambda: self.link.redis.publish(_NEWS, json.dumps(["free", name, self._me])), None)

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
        ticket: str | None = await self.link.wait(lambda: self.link.redis.hget(_row(session), f"{_TICKET}{server}"), None)
        return ticket

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """Offer a ticket to all replicas; returns the ticket that counts."""
        stored_ticket = await self.link.wait(
            lambda: _wait_kept(self.link, session, f"{_TICKET}{server}", ticket, instead_of), None
        )
        if stored_ticket is None:
            self._unsent.keep(session, f"{_TICKET}{server}", ticket)
        return stored_ticket or ticket

    async def wait_row(self, session: Session) -> SharedRow:
        """The row of a session."""
        return _read_row(await self.link.wait(lambda: self.link.redis.hgetall(_row(session)), {}))

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Store a log level, or a subscription."""
        name = "l" if field is None else f"r:{field[0]}:{field[1]}"

        async def keep() -> None:
            await _wait_set(self.link, session, name, value)
            await self.link.redis.publish(_NEWS, json.dumps(["changed", session.key, self._me]))
            self._unsent.told(session, name)

        self._unsent.keep(session, name, value)
        await self.link.wait(keep, None)

    async def wait_end(self, session: Session) -> SharedRow:
        """End a session at all replicas; returns its row."""
        self._unsent.end(session)

        async def end() -> SharedRow:
            await self._wait_end_sent(session)
            fields = await self.link.redis.hgetall(_row(session))
            await self.link.redis.delete([_row(session), f"mcpgw:m:{session.key}"])
            return _read_row(fields)

        return await self.link.wait(end, SharedRow())

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        """Leave a server's message for the replica with the client's stream."""
        key = f"mcpgw:m:{session_key}"

        async def post() -> bool:
            await self.link.redis.rpush(key, [message.decode()])
            await self.link.redis.ltrim(key, -MAX_KEPT, -1)
            await self.link.redis.expire(key, MAIL_LIFE)
            await self.link.redis.publish(_NEWS, json.dumps(["mail", session_key, self._me]))
            return True

        return await self.link.wait(post, False)  # noqa: FBT003  # the result while the store does not answer

    async def wait_mail(self, session_key: str) -> list[bytes]:
        """Take the messages that wait for a client."""

        async def take() -> list[bytes]:
            return [text.encode() for text in await self.link.redis.lpop(f"mcpgw:m:{session_key}", MAX_KEPT) or []]

        return await self.link.wait(take, [])

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
            await self.link.wait(lambda: self.link.redis.publish(_NEWS, json.dumps(["left", self._me])), None)

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
            if self.error is None and (was_lost or self._unsent):
                await self.link.wait(lambda: self._wait_caught_up(news), None)
            await trio.sleep(stores.LEASE / 3)

    async def _wait_news(self, news: ReplicaNews) -> None:
        backoff = Backoff(PAUSE / 2, stores.LEASE / 3)
        while True:
            try:
                async with self.link.redis.pubsub(retry_policy=None) as channel:
                    await channel.subscribe(_NEWS)
                    await self._wait_caught_up(news)
                    backoff.reset()
                    async for message in channel:
                        if message["type"] == "message":
                            self._report(message["data"], news)
            except Exception as error:  # noqa: BLE001  # any error of the library: without news this replica goes on alone
                self.link.lost(error)
            await trio.sleep(backoff.next())

    async def _wait_caught_up(self, news: ReplicaNews) -> None:
        await self.link.redis.zremrangebyscore(_ENDED, "-inf", int(time.time()))
        for key, expires in await self.link.redis.zrange(_ENDED, 0, -1, withscores=True):
            news.ended(key, int(expires))
            self._unsent.ended(key)
        for row in self._unsent.rows():
            if row.ended:
                await self._wait_end_sent(row.session)
            else:
                await self._wait_row_sent(row)

    async def _wait_end_sent(self, session: Session) -> None:
        """Store the end of a session for replicas that come later, and publish it."""
        await self.link.redis.zadd(_ENDED, {session.key: session.expires})
        await self.link.redis.publish(_NEWS, json.dumps(["ended", session.key, self._me, session.expires]))
        self._unsent.forget(session.key)

    async def _wait_row_sent(self, row: Untold) -> None:
        """Store what happened to a session while the store was away.

        The session with a server that another replica has stored counts.
        """
        for field, value in list(row.fields.items()):
            if value is None or not field.startswith(_TICKET):
                await _wait_set(self.link, row.session, field, value)
            elif await _wait_kept(self.link, row.session, field, value, None) != value:
                await _wait_set(self.link, row.session, f"{_SPARE}{value[-12:]}:{field[len(_TICKET) :]}", value)
            self._unsent.told(row.session, field)
        await self.link.redis.publish(_NEWS, json.dumps(["changed", row.session.key, self._me]))

    def _report(self, text: str, news: ReplicaNews) -> None:
        try:
            match json.loads(text):
                case ["ended", str(key), str(sender), int(expires)] if sender != self._me:
                    news.ended(key, expires)
                case ["mail", str(key), str()]:
                    news.mail(key)
                case ["changed", str(key), str(sender)] if sender != self._me:
                    news.changed(key)
                case ["free", str(name), str()]:
                    self._leases.freed(name)
                case ["left", str(sender)] if sender != self._me:
                    self._leases.freed(None)
                    news.gone()
        except ValueError:
            log.debug("News of another program in the session store's channel", channel=_NEWS)


async def _wait_kept(link: RedisLink, session: Session, field: str, ticket: str, instead_of: str | None) -> str:
    args = [field, ticket, instead_of or "", seconds_left(session)]
    return str(await link.redis.eval(_KEEP, keys=[_row(session)], args=args))


async def _wait_set(link: RedisLink, session: Session, field: str, value: str | None) -> None:
    if value is None:
        await link.redis.hdel(_row(session), [field])
    else:
        await link.redis.hset(_row(session), {field: value})
        await link.redis.expire(_row(session), seconds_left(session))


def _row(session: Session) -> str:
    return f"mcpgw:s:{session.key}"


def _lease(session_key: str, server: ServerName) -> str:
    return f"mcpgw:r:{session_key}:{server}"


def _read_row(fields: dict[str, str]) -> SharedRow:
    resources: dict[ServerName, set[str]] = {}
    for field in fields:
        kind, _, rest = field.partition(":")
        if kind == "r":
            server, _, uri = rest.partition(":")
            resources.setdefault(ServerName(server), set()).add(uri)
    spare = [(ServerName(field.split(":", 2)[2]), ticket) for field, ticket in fields.items() if field.startswith(_SPARE)]
    tickets = {ServerName(field[2:]): ticket for field, ticket in fields.items() if field.startswith(_TICKET)}
    return SharedRow(
        tickets=tickets,
        spare=tuple(spare),
        level=fields.get("l"),
        resources={name: frozenset(uris) for name, uris in resources.items()},
    )
