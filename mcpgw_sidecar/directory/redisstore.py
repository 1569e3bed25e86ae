"""The session store in Redis or Valkey (optional extra `redis`: coredis, imported at first use).

The keys are: `mcpgw:s:<session>`, a hash (`t:<server>` tickets, `l` the log level,
`r:<server>:<uri>` subscriptions), `mcpgw:m:<session>`, a list of messages,
`mcpgw:r:<session>:<server>`, a lease, `mcpgw:ended`, a sorted set by expiry, `mcpgw:replicas`, a
hash with the time at which each replica was last alive (directory/leases.py), and the channel
`mcpgw:news`. All but the set and that hash expire with their session. Tickets are sealed with the
gateway's key; messages of servers are stored as they are.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import attrs
import trio

from mcpgw_sidecar.directory import store as stores
from mcpgw_sidecar.directory.leases import Leases
from mcpgw_sidecar.directory.store import MAX_KEPT, ReplicaNews, SharedRow, seconds_left
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.sessions.rows import MAX_SESSIONS

log = get_logger(__name__)

PAUSE = 1.0  # seconds after a failure without another operation
MAIL_LIFE = 300  # seconds that messages wait for a client that does not come back
_NEWS, _ENDED = "mcpgw:news", "mcpgw:ended"
_KEEP = """
local now = redis.call('hget', KEYS[1], ARGV[1])
if now and now ~= ARGV[3] then return now end
redis.call('hset', KEYS[1], ARGV[1], ARGV[2])
redis.call('expire', KEYS[1], ARGV[4])
return ARGV[2]
"""
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_REMEDY = "write redis:// or valkey:// (with TLS rediss:// or valkeys://) and HOST:PORT"
T = TypeVar("T")


@attrs.define
class RedisStore:
    """The store of a URL; `opened` makes it. `name` is the URL without a password."""

    name: str
    _redis: Any
    shared: bool = True
    error: str | None = None
    _me: str = attrs.field(factory=lambda: secrets.token_hex(8))
    _quiet_until: float = 0.0
    _unsent_ends: dict[str, int] = attrs.field(factory=dict)
    """Sessions that ended here while the store did not answer, with their expiry."""
    _leases: Leases = attrs.field(init=False)

    @_leases.default
    def _leases_of_this(self) -> Leases:
        async def wait_script(script: str, keys: list[str], args: list[str]) -> list[Any] | None:
            answer: list[Any] | None = await self._wait(lambda: self._redis.eval(script, keys=keys, args=args), None)
            return answer

        async def wait_free(name: str) -> None:
            await self._wait(lambda: self._redis.publish(_NEWS, json.dumps(["free", name, self._me])), None)

        return Leases(me=self._me, wait_script=wait_script, wait_free=wait_free)

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """The ticket of the session with a server that another replica opened."""
        ticket: str | None = await self._wait(lambda: self._redis.hget(_row(session), f"t:{server}"), None)
        return ticket

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """Offer a ticket to all replicas; returns the ticket that counts."""
        args = [f"t:{server}", ticket, instead_of or "", seconds_left(session)]
        stored_ticket = await self._wait(lambda: self._redis.eval(_KEEP, keys=[_row(session)], args=args), ticket)
        return str(stored_ticket)

    async def wait_row(self, session: Session) -> SharedRow:
        """The row of a session."""
        return _read_row(await self._wait(lambda: self._redis.hgetall(_row(session)), {}))

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Store a log level, or a subscription."""
        name = "l" if field is None else f"r:{field[0]}:{field[1]}"

        async def keep() -> None:
            if value is None:
                await self._redis.hdel(_row(session), [name])
            else:
                await self._redis.hset(_row(session), {name: value})
                await self._redis.expire(_row(session), seconds_left(session))
            await self._redis.publish(_NEWS, json.dumps(["changed", session.key, self._me]))

        await self._wait(keep, None)

    async def wait_end(self, session: Session) -> SharedRow:
        """End a session at all replicas; returns its row."""
        if len(self._unsent_ends) >= MAX_SESSIONS:
            del self._unsent_ends[next(iter(self._unsent_ends))]
        self._unsent_ends[session.key] = session.expires

        async def end() -> SharedRow:
            await self._wait_end_sent(session.key, session.expires)
            fields = await self._redis.hgetall(_row(session))
            await self._redis.delete([_row(session), f"mcpgw:m:{session.key}"])
            return _read_row(fields)

        return await self._wait(end, SharedRow())

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        """Leave a server's message for the replica with the client's stream."""
        key = f"mcpgw:m:{session_key}"

        async def post() -> bool:
            await self._redis.rpush(key, [message.decode()])
            await self._redis.ltrim(key, -MAX_KEPT, -1)
            await self._redis.expire(key, MAIL_LIFE)
            await self._redis.publish(_NEWS, json.dumps(["mail", session_key, self._me]))
            return True

        return await self._wait(post, False)  # noqa: FBT003  # the result while the store does not answer

    async def wait_mail(self, session_key: str) -> list[bytes]:
        """Take the messages that wait for a client."""

        async def take() -> list[bytes]:
            return [text.encode() for text in await self._redis.lpop(f"mcpgw:m:{session_key}", MAX_KEPT) or []]

        return await self._wait(take, [])

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
            await self._wait(lambda: self._redis.publish(_NEWS, json.dumps(["left", self._me])), None)

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
            if self.error is None and (was_lost or self._unsent_ends):
                await self._wait(lambda: self._wait_caught_up(news), None)
            await trio.sleep(stores.LEASE / 3)

    async def _wait_news(self, news: ReplicaNews) -> None:
        backoff = Backoff(PAUSE / 2, stores.LEASE / 3)
        while True:
            try:
                async with self._redis.pubsub(retry_policy=None) as channel:
                    await channel.subscribe(_NEWS)
                    await self._wait_caught_up(news)
                    backoff.reset()
                    async for message in channel:
                        if message["type"] == "message":
                            self._report(message["data"], news)
            except Exception as error:  # noqa: BLE001  # any error of the library: without news this replica goes on alone
                self._lost(error)
            await trio.sleep(backoff.next())

    async def _wait_caught_up(self, news: ReplicaNews) -> None:
        await self._redis.zremrangebyscore(_ENDED, "-inf", int(time.time()))
        for key, expires in list(self._unsent_ends.items()):
            await self._wait_end_sent(key, expires)
        for key, expires in await self._redis.zrange(_ENDED, 0, -1, withscores=True):
            news.ended(key, int(expires))

    async def _wait_end_sent(self, key: str, expires: int) -> None:
        """Store the end of a session for replicas that come later, and publish it."""
        await self._redis.zadd(_ENDED, {key: expires})
        await self._redis.publish(_NEWS, json.dumps(["ended", key, self._me, expires]))
        self._unsent_ends.pop(key, None)

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

    async def _wait(self, operation: Callable[[], Awaitable[T]], default: T) -> T:
        """The result of an operation, or `default` while the store does not answer."""
        if trio.current_time() < self._quiet_until:
            return default
        try:
            with trio.fail_after(timeouts.STORE):
                result = await operation()
        except Exception as error:  # noqa: BLE001  # no error of the library may fail a call
            self._lost(error)
            return default
        if self.error is not None:
            self.error = None
            log.info("Session store is back", store=self.name)
        return result

    def _lost(self, error: Exception) -> None:
        self._quiet_until = trio.current_time() + PAUSE
        words = str(error) or type(error).__name__
        if self.error is None:
            log.warning(
                "Session store lost: sessions of other replicas get new sessions with their servers until it is back",
                store=self.name,
                error=words,
            )
        self.error = words


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    """The store of a URL. A store that does not answer is no error.

    Raises ConfigurationError for a URL that is none of a store.
    """
    scheme, _, rest = url.partition("://")
    name = f"{scheme}://{rest.rpartition('@')[2]}"
    if scheme not in _SCHEMES or not rest:
        raise ConfigurationError([f"--session-store {name}: {_REMEDY}"])
    try:
        import coredis  # noqa: PLC0415  # it takes 0.4 s and 18 MB, and most sidecars do not need it
    except ModuleNotFoundError as error:
        if error.name != "coredis":
            raise
        raise ConfigurationError(["--session-store needs coredis: pip install 'mcpgw-sidecar[redis]'"]) from None
    try:
        redis = coredis.Redis.from_url(f"{_SCHEMES[scheme]}://{rest}", decode_responses=True, verify_version=False)
    except ValueError as error:
        raise ConfigurationError([f"--session-store {name}: {error}; {_REMEDY}"]) from None
    async with redis:
        yield RedisStore(name, redis)


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
    tickets = {ServerName(field[2:]): ticket for field, ticket in fields.items() if field.startswith("t:")}
    return SharedRow(
        tickets=tickets, level=fields.get("l"), resources={name: frozenset(uris) for name, uris in resources.items()}
    )
