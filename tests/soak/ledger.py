"""What went wrong in a run, and what explains it."""

from __future__ import annotations

import time
from collections import Counter

import attrs
import trio

from tests.soak.faults import ROWS, Row

_ROWS = {row.fault: row for row in ROWS}
AROUND = 10.0  # seconds


@attrs.define
class Fault:
    """A fault that was made: its row, its server if it has one, when it began and ended."""

    row: Row
    server: str | None
    start: float
    end: float = float("inf")


@attrs.define
class Ledger:
    """The account of a run. `final` says that its end has been checked.

    `unended` are the clients whose DELETE failed.
    """

    count: int = 0
    faults: list[Fault] = attrs.field(factory=list)
    explained: Counter[tuple[str, str, str]] = attrs.field(factory=Counter)
    unexplained: list[str] = attrs.field(factory=list)
    wrongs: list[str] = attrs.field(factory=list)
    answered: list[tuple[str, str]] = attrs.field(factory=list)
    unended: set[str] = attrs.field(factory=set)
    final: trio.Event = attrs.field(factory=trio.Event)

    def begin(self, fault: str, server: str | None = None) -> Fault:
        """A fault begins; its `end` is set by whoever ends it."""
        made = Fault(_ROWS[fault], server, time.time())
        self.faults.append(made)
        return made

    def wrong(self, words: str) -> None:
        """Something that no fault explains."""
        self.wrongs.append(words)

    def succeeded(self, server: str, nonce: str) -> None:
        """A call has been answered rightly."""
        self.answered.append((server, nonce))

    def judge(self, what: str, server: str | None, start: float, seen: str, words: str) -> None:
        """Look for a fault that explains a failure that a request of `start` has just met."""
        now = time.time()
        for fault in reversed(self.faults):
            row = fault.row
            is_there = fault.start <= now and start <= fault.end + row.after
            is_its = not row.of_server or fault.server in {None, server}
            if is_there and is_its and seen in row.seen:
                self.explained[row.fault, what, seen] += 1
                return
        self.unexplained.append(f"{start:.1f}-{now:.1f} {what} {server or ''}: {seen}; {words}; {self.around(now)}")

    def met(self, fault: str, start: float, end: float) -> bool:
        """Whether a fault of these words began within a time."""
        return any(fault in made.row.fault and start <= made.start <= end for made in self.faults)

    def around(self, when: float, by: float = AROUND) -> list[str]:
        """What was done in the ten seconds before and after."""
        return [
            f"{fault.row.fault} {fault.server or ''} {fault.start:.1f}-{fault.end:.1f}"
            for fault in self.faults
            if fault.start < when + by and fault.end > when - by
        ]
