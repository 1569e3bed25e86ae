"""Something that has to be sent some time, to a client that may go away before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import attrs
import trio

COLLECT = 0.1  # seconds in which changes that come together become one notification
COALESCE = 0.5  # seconds between two notifications of one kind; tests of clients wait a little longer for one


@attrs.define(eq=False)
class Sleeper:
    """Sleeps until there is something to send. `closed` is its end."""

    closed: bool = attrs.field(default=False, init=False)
    _news: bool = attrs.field(default=False, init=False)
    _waiting: trio.CancelScope | None = attrs.field(default=None, init=False)

    def close(self) -> None:
        """Nothing more will be sent."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """There is something to send."""
        self._news = True
        self.remind()

    def remind(self) -> None:
        """Let it show that it is there, unless it is sending something."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def wait_news(
        self, other: Callable[[], Awaitable[object]] = trio.sleep_forever
    ) -> Literal["news", "silence", "other"]:
        """Wait until there is something to send, or it is closed, or `other` has returned.

        "silence" is that somebody reminds it. One task waits for all: a second task for each idle
        stream would take more memory than the rest of the stream.
        """
        with trio.CancelScope() as self._waiting:
            if self._news:
                self._waiting.cancel()
            await other()
            return "other"
        outcome: Literal["news", "silence"] = "news" if self._news else "silence"
        self._waiting, self._news = None, False
        return outcome
