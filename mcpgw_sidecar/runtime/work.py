"""What a process is doing for its clients, so that it can end without breaking it off."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import trio

FAREWELL = 2.0  # seconds in which a client is told that the process ends
LOOK = 0.02  # seconds between two looks whether what was begun is done


class Work:
    """Requests in progress, and what of them only waits for a server.

    `seconds_left` are those until the process ends; there is no limit before the drain.
    """

    def __init__(self) -> None:
        self._requests: set[object] = set()
        self._waits: set[trio.CancelScope] = set()
        self._carried: set[trio.CancelScope] = set()
        self._patience = math.inf
        self._deadline = math.inf

    def seconds_left(self) -> float:
        """The seconds until the process ends."""
        return max(0.0, self._deadline - trio.current_time())

    @contextlib.contextmanager
    def doing(self) -> Iterator[None]:
        """Count a request in, which a drain lets end."""
        request = object()
        self._requests.add(request)
        try:
            yield
        finally:
            self._requests.discard(request)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[trio.CancelScope]:
        """Wait for a server; a drain cancels the scope after a while (`cancelled_caught`)."""
        with _among(self._waits, trio.current_time() + self._patience) as scope:
            yield scope

    @contextlib.contextmanager
    def carrying(self) -> Iterator[trio.CancelScope]:
        """Wait for what a client wants; the scope is cancelled shortly before the process ends."""
        with _among(self._carried, self._deadline - FAREWELL) as scope:
            yield scope

    async def wait_done(self, *, seconds: float, last: float, patience: float) -> None:
        """Wait until the requests in progress are done: `seconds` at most, less the `last` of them.

        What begins meanwhile is served, and not waited for. From now on nothing waits for a server
        longer than `patience`.
        """
        self._deadline, self._patience = trio.current_time() + seconds, patience
        for scope in self._waits:
            scope.deadline = trio.current_time() + patience
        for scope in self._carried:
            scope.deadline = min(scope.deadline, self._deadline - FAREWELL)
        begun = set(self._requests)
        with trio.move_on_after(max(seconds - last, seconds / 2)):
            while begun & self._requests:  # noqa: ASYNC110  # a set has no event for its last element
                await trio.sleep(LOOK)


async def wait_begun() -> None:
    """Let the tasks that were just started take their first step: the journal has it then.

    They start in the next turn of the loop, before or after this task; so it waits for two.
    """
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


@contextlib.contextmanager
def _among(scopes: set[trio.CancelScope], deadline: float) -> Iterator[trio.CancelScope]:
    """A scope that is one of those of which a drain changes the deadlines."""
    with trio.CancelScope(deadline=deadline) as scope:
        scopes.add(scope)
        try:
            yield scope
        finally:
            scopes.discard(scope)
