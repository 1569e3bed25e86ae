from __future__ import annotations

import pytest

from mcpgw_sidecar.sessions import ended
from mcpgw_sidecar.sessions.ended import HOUR, Ended


@pytest.mark.duty("session.delete-204")
def test_an_ended_session_is_never_forgotten_before_it_expires() -> None:
    """However many end after it: it would come back with all its rights."""
    sessions, count = Ended(), 100_000
    for number in range(count):
        sessions.add(f"k{number}", HOUR + number % 2)
    assert all(sessions.has(f"k{number}", HOUR + number % 2) for number in range(count))
    assert not any(sessions.has(f"other{number}", HOUR) for number in range(1000))
    assert not sessions.has("k0", 5 * HOUR)
    sessions.expire(2 * HOUR - 1)
    assert sessions.has("k0", HOUR)
    sessions.expire(2 * HOUR)
    assert not sessions.has("k0", HOUR)


def test_it_takes_eight_bytes_each() -> None:
    sessions, count = Ended(), 64 * ended.FRESH
    for number in range(count):
        sessions.add(f"k{number}", 0)
        sessions.add(f"k{number}", 0)
    (bucket,) = sessions._buckets.values()
    assert [len(run) for run in bucket.runs] == [ended.LONGEST, ended.LONGEST]
    assert sum(run.itemsize * len(run) for run in bucket.runs) == 8 * count
