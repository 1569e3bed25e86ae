"""What a replica and the store have missed of each other, while the store did not answer."""

from __future__ import annotations

import json
import math
import time
from functools import partial

import attrs

from mcpgw_sidecar.directory.redislink import RedisLink
from mcpgw_sidecar.directory.redisrows import SPARE, TICKET, read_row, row, wait_kept, wait_set
from mcpgw_sidecar.directory.store import ReplicaNews, SharedRow
from mcpgw_sidecar.directory.unsent import Unsent, Untold
from mcpgw_sidecar.model.sessions import Session

NEWS, ENDED = "mcpgw:news", "mcpgw:ended"
SOME = 1000  # sessions that are asked for at once


@attrs.define
class Missed:
    """Catches up for the replica `me`."""

    _link: RedisLink
    _me: str
    unsent: Unsent = attrs.field(factory=Unsent)

    async def wait_caught_up(self, news: ReplicaNews) -> None:
        """Learn which sessions have ended, and tell the store what it has missed.

        In small steps: after a long time there may be very much of both.
        """
        await self._link.wait(lambda: self._link.redis.zremrangebyscore(ENDED, "-inf", int(time.time())), 0)
        start, some = 0, [("", 0.0)]
        while some:
            some = await self._link.wait(partial(self._wait_ended, start), [])
            for key, expires in some:
                news.ended(key, int(expires))
                self.unsent.ended(key)
            start += len(some)
        for untold in self.unsent.rows():
            if untold.ended:
                old = await self._link.wait(partial(self.wait_end_sent, untold.session), SharedRow())
                news.expired(untold.session.key, old.all_tickets)
            for field in list(untold.fields):
                await self._link.wait(partial(self.wait_field_sent, untold, field), None)

    def with_newer_wishes(self, session: Session, fields: dict[str, str]) -> dict[str, str]:
        """The fields of a row, with the wishes of which the store has not been told."""
        newer = {name: value for name, value in self.unsent.fields(session.key).items() if not name.startswith(TICKET)}
        return {name: value for name, value in {**fields, **newer}.items() if value is not None}

    async def _wait_ended(self, start: int) -> list[tuple[str, float]]:
        some = await self._link.redis.zrange(ENDED, start, start + SOME - 1, withscores=True)
        return [(str(key), expires if math.isfinite(expires) else 0.0) for key, expires in some]

    async def wait_end_sent(self, session: Session) -> SharedRow:
        """Store the end of a session for replicas that come later, and publish it.

        Returns the row that it had.
        """
        await self._link.redis.zadd(ENDED, {session.key: session.expires})
        await self._link.redis.publish(NEWS, json.dumps(["ended", session.key, self._me, session.expires]))
        fields = await self._link.redis.hgetall(row(session))
        await self._link.redis.delete([row(session), f"mcpgw:m:{session.key}"])
        self.unsent.forget(session.key)
        return read_row(fields)

    async def wait_field_sent(self, untold: Untold, field: str) -> None:
        """Store a field that the store has not been told.

        The session with a server that another replica has stored counts.
        """
        if field not in untold.fields:
            return  # it was told meanwhile, or the session has ended
        session, value = untold.session, untold.fields[field]
        if value is None or not field.startswith(TICKET):
            await wait_set(self._link, session, field, value)
        elif await wait_kept(self._link, session, field, value, None) != value:
            await wait_set(self._link, session, f"{SPARE}{value[-12:]}:{field[len(TICKET) :]}", value)
        await self._link.redis.publish(NEWS, json.dumps(["changed", session.key, self._me]))
        self.unsent.told(session, field, value)
