"""Which replica listens to a session with a server: leases in a store that runs scripts (Redis).

A lease names the replica that has it, and counts as long as that one is alive: each replica says so
three times in LEASE seconds, with one operation however many leases it has. Who waits for a lease
is told when it is given back, and looks again when a replica is gone. A lease that its replica
forgot to give back expires by itself, unless it is renewed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import attrs
import trio

from mcpgw_sidecar.directory import store as stores

REPLICAS = "mcpgw:replicas"
RENEWED = 20.0  # seconds after which all leases are renewed; they expire after three times as long
BATCH = 500  # leases that one script renews
_NOW = "local time = redis.call('time')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
# Keys: the replicas, then leases. Arguments: this replica, LEASE and the life of a lease in
# milliseconds. It takes each lease that no living replica has, and returns the places of others.
_TAKE = (
    _NOW
    + """
local others = {}
for i = 2, #KEYS do
  local holder = redis.call('get', KEYS[i])
  local seen = holder and holder ~= ARGV[1] and tonumber(redis.call('hget', KEYS[1], holder))
  if seen and now - seen < tonumber(ARGV[2]) then
    others[#others + 1] = i - 2
  else
    redis.call('set', KEYS[i], ARGV[1], 'px', ARGV[3])
  end
end
return others
"""
)
# The same keys and arguments. It says that this replica is alive, and returns the others that are.
_ALIVE = (
    _NOW
    + """
local all, living = redis.call('hgetall', KEYS[1]), {}
for i = 1, #all, 2 do
  local seen = tonumber(all[i + 1]) or 0
  if all[i] ~= ARGV[1] and now - seen < tonumber(ARGV[2]) then
    living[#living + 1] = all[i]
  elseif now - seen > 100 * tonumber(ARGV[2]) then
    redis.call('hdel', KEYS[1], all[i])
  end
end
redis.call('hset', KEYS[1], ARGV[1], now)
return living
"""
)
_FREE = "if redis.call('get', KEYS[1]) == ARGV[1] then return {redis.call('del', KEYS[1])} end\nreturn {0}"
_LEAVE = "return {redis.call('hdel', KEYS[1], ARGV[1])}"


@attrs.define(kw_only=True, eq=False)
class Leases:
    """The leases of a replica, `me`.

    `wait_script` runs a script with keys and arguments, and returns None while the store does not
    answer: then every replica listens, which is better than none. `wait_free` tells replicas that
    wait that a lease is free.
    """

    me: str
    wait_script: Callable[[str, list[str], list[str]], Awaitable[list[Any] | None]]
    wait_free: Callable[[str], Awaitable[None]]
    _held: dict[str, trio.Event] = attrs.field(factory=dict)
    """Leases of this replica, each with the event of its loss."""
    _holders: Counter[str] = attrs.field(factory=Counter)
    _waiting: dict[str, trio.Event] = attrs.field(factory=dict)
    _given_back: list[str] = attrs.field(factory=list)
    _others: frozenset[str] = frozenset()
    _renewed: float = 0.0
    _is_over: bool = False

    async def wait_taken(self, name: str, waiting: Callable[[], None]) -> bool:
        """Wait for a lease; True, after a call of `waiting`, if another replica had it."""
        had_to_wait = False
        while True:
            if not self._is_over:
                event = self._waiting.setdefault(name, trio.Event())
                if not await self._take([name]):
                    self._waiting.pop(name, None)
                    self._held.setdefault(name, trio.Event())
                    self._holders[name] += 1
                    return had_to_wait
            else:
                event = trio.Event()  # never again in this process
            had_to_wait = True
            waiting()
            with trio.move_on_after(RENEWED):
                await event.wait()

    async def wait_lost(self, name: str) -> None:
        """Wait until another replica has taken a lease of this one."""
        held = self._held.get(name)
        if held is not None:
            await held.wait()

    def release(self, name: str) -> None:
        """Give a lease back soon, unless all of them were."""
        self._waiting.pop(name, None)
        if self._holders[name] > 1:  # who comes next had taken it before this one was over
            self._holders[name] -= 1
            return
        del self._holders[name]
        if self._held.pop(name, None) is not None and not self._is_over:
            self._given_back.append(name)

    def freed(self, name: str | None) -> None:
        """A lease is free, or with None those of a replica are: who waits for it looks again."""
        names = list(self._waiting) if name is None else [name]
        for each in names:
            if (event := self._waiting.pop(each, None)) is not None:
                event.set()

    async def wait_left(self) -> bool:
        """Give all leases back, and take none any more; False while the store does not answer."""
        self._is_over = True
        self._held.clear()
        return await self.wait_script(_LEAVE, [REPLICAS], [self.me]) is not None

    async def wait_alive(self) -> bool:
        """Say that this replica is alive, and give back and renew what is due.

        True if another one is gone.
        """
        if self._is_over:
            return False
        given_back, self._given_back = self._given_back, []
        for name in given_back:
            if name in self._held:
                continue
            if await self.wait_script(_FREE, [name], [self.me]) is None:
                self._given_back.append(name)  # the store may still have it, for a replica that listens no more
            else:
                await self.wait_free(name)
        living = await self.wait_script(_ALIVE, [REPLICAS], self._arguments)
        if living is None:
            self._renewed = 0.0  # this replica may seem to be gone, so another may take its leases
            return False
        if trio.current_time() - self._renewed > RENEWED or self._renewed == 0.0:
            self._renewed = trio.current_time()
            await self._wait_renewed()
        others, self._others = self._others, frozenset(map(str, living))
        is_gone = bool(others - self._others)
        if is_gone:
            self.freed(None)
        return is_gone

    async def _wait_renewed(self) -> None:
        for names in _batches(list(self._held)):
            for number in await self._take(names):
                lost = self._held.pop(names[number], None)
                if lost is not None:
                    lost.set()

    async def _take(self, names: list[str]) -> list[int]:
        """Take leases; the numbers of those that another replica has."""
        taken = await self.wait_script(_TAKE, [REPLICAS, *names], self._arguments)
        return [int(number) for number in taken or ()]

    @property
    def _arguments(self) -> list[str]:
        return [self.me, str(int(stores.LEASE * 1000)), str(int(3 * RENEWED * 1000))]


def _batches(names: list[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while batch := list(islice(rest, BATCH)):
        yield batch
