"""Shows clients with silent streams that these still live, by one task for all of them.

Proxies close a silent connection after 30 to 60 s. A timer for each stream would wake the process
for each stream alone: with 8,192 of them that was a sixth of a core.
"""

from __future__ import annotations

import time
from collections import deque

import attrs
import trio

from mcpgw_sidecar.front.waking import Sleeper
from mcpgw_sidecar.protocol.sse import KEEP_ALIVE
from mcpgw_sidecar.runtime.http import Send, sent_at_once

KEEP_ALIVE_INTERVAL = 15.0  # seconds (interface.md)
TICK = 0.05  # seconds between two looks which streams are due
_AT_ONCE = 20  # streams after which others have their turn


@attrs.define(eq=False)
class Kept:
    """A stream that is kept alive; `until` is in epoch seconds."""

    sleeper: Sleeper | None
    send: Send | None
    until: float

    def end(self) -> None:
        """Leave it alone, and keep nothing of it in memory."""
        self.sleeper = self.send = None


@attrs.define(eq=False)
class KeepAlive:
    """The streams, those first that are due first, with Trio's seconds when they are."""

    _due: deque[tuple[float, Kept]] = attrs.field(factory=deque, init=False)

    def begin(self, sleeper: Sleeper, send: Send, until: float) -> Kept:
        """Keep a stream alive, and close it when its time is over."""
        kept = Kept(sleeper, send, until)
        self._due.append((trio.current_time() + KEEP_ALIVE_INTERVAL, kept))
        return kept

    async def wait_keeping(self) -> None:
        """Keep all alive, for ever."""
        while True:
            await trio.sleep(TICK)
            now, done = trio.current_time(), 0
            while self._due and self._due[0][0] <= now:
                _, kept = self._due.popleft()
                if kept.sleeper is None or kept.send is None:
                    continue
                self._due.append((now + KEEP_ALIVE_INTERVAL, kept))
                if time.time() >= kept.until:
                    kept.sleeper.close()
                elif not sent_at_once(kept.send, KEEP_ALIVE):
                    kept.sleeper.remind()
                done += 1
                if done % _AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
