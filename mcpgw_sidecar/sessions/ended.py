"""Which sessions have ended: none is forgotten before it expires, because it would come back.

Eight bytes of a hash are kept of each; nobody but the gateway chooses keys. Those that expire in
one hour are in sorted runs, which are merged up to a length that takes a few milliseconds.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b

import attrs

HOUR = 3600  # seconds of expiry that share a bucket
FRESH = 1024  # sessions of a bucket that are not in a run yet
LONGEST = 1 << 15  # sessions of a run


@attrs.define
class _Bucket:
    fresh: set[int] = attrs.field(factory=set)
    runs: list[array[int]] = attrs.field(factory=list)

    def has(self, number: int) -> bool:
        return number in self.fresh or any(_has(run, number) for run in self.runs)

    def add(self, number: int) -> None:
        self.fresh.add(number)
        if len(self.fresh) < FRESH:
            return
        numbers, self.fresh = sorted(self.fresh), set()
        while self.runs and len(self.runs[-1]) == len(numbers) < LONGEST:
            numbers = sorted([*self.runs.pop(), *numbers])
        self.runs.append(array("Q", numbers))


@attrs.define
class Ended:
    """The sessions that have ended, by key and expiry."""

    _buckets: dict[int, _Bucket] = attrs.field(factory=dict)

    def add(self, key: str, expires: int) -> None:
        """Add a session, if it is not there."""
        if not self.has(key, expires):
            self._buckets.setdefault(expires // HOUR, _Bucket()).add(_number(key))

    def has(self, key: str, expires: int) -> bool:
        """Whether a session has ended."""
        bucket = self._buckets.get(expires // HOUR)
        return bucket is not None and bucket.has(_number(key))

    def expire(self, now: float) -> None:
        """Forget the sessions whose hour of expiry is over."""
        for hour in [hour for hour in self._buckets if (hour + 1) * HOUR <= now]:
            del self._buckets[hour]


def _number(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())


def _has(run: array[int], number: int) -> bool:
    at = bisect_left(run, number)
    return at < len(run) and run[at] == number
