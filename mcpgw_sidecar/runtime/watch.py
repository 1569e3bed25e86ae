"""A published value with one writer and any number of readers, who wake only after a change."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Watched(Generic[T]):
    """The latest value, and a way to wait for the next.

    A reader may miss values in between, but never the last.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._changed = trio.Event()

    @property
    def value(self) -> T:
        """The latest value."""
        return self._value

    @property
    def version(self) -> int:
        """The number of changes. `wait_after` waits for a later one."""
        return self._version

    def publish(self, value: T) -> bool:
        """Make `value` the latest value and wake the readers, unless it equals the current one."""
        if value == self._value:
            return False
        self._value = value
        self._version += 1
        self._changed.set()
        self._changed = trio.Event()
        return True

    async def wait_after(self, version: int) -> int:
        """Wait until there is a version later than `version`, and return it."""
        while self._version <= version:
            await self._changed.wait()
        return self._version
