"""Messages of servers that wait for a client, within budgets of bytes.

A server chooses how long its messages are and how many it sends, so what waits is limited for each
queue, whose oldest messages make room, and for the process: there the longest queue makes room, so
that nobody loses a message because others hoard. What is dropped is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import attrs

SESSION = 8 << 20  # bytes that wait in one queue of a session: the longest message of a server fits
PROCESS = 64 << 20  # bytes that wait in the process: far below the memory limit that `inject` writes
LONG = 64 << 10  # bytes of a queue that is looked at when the process has too many

T = TypeVar("T")


@attrs.define
class Budget:
    """The bytes that wait in the process, the long queues, and how many messages were dropped."""

    used: int = 0
    dropped: int = 0
    long: set[Mail[Any]] = attrs.field(factory=set)


@attrs.define(eq=False)
class Mail(Generic[T]):
    """A queue of `limit` items at the most, each with the bytes of its message.

    `size` is their sum.
    """

    budget: Budget
    limit: int
    _items: list[tuple[T, int]] = attrs.field(factory=list)  # an empty deque takes 600 bytes, in ten thousand streams
    size: int = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter([item for item, _ in self._items])

    def add(self, item: T, size: int) -> None:
        """Add an item; the oldest make room for it."""
        self._items.append((item, size))
        self._grow(size)
        while len(self._items) > self.limit or self.size > SESSION:
            self._drop()
        while self.budget.used > PROCESS:
            longest: Mail[Any] = max(self.budget.long, key=lambda mail: mail.size, default=self)
            longest._drop()

    def pop(self) -> T:
        """Remove the oldest item, and return it."""
        item, size = self._items.pop(0)
        self._grow(-size)
        return item

    def take(self) -> list[T]:
        """Remove all items, and return them."""
        return [self.pop() for _ in range(len(self._items))]

    def _drop(self) -> None:
        self.pop()
        self.budget.dropped += 1

    def _grow(self, size: int) -> None:
        self.size += size
        self.budget.used += size
        if self.size > LONG:
            self.budget.long.add(self)
        else:
            self.budget.long.discard(self)
