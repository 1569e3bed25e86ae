"""What waits for clients is bounded in bytes, and only who hoards loses."""

from __future__ import annotations

import pytest

from mcpgw_sidecar.front import mail
from mcpgw_sidecar.front.mail import Budget, Mail
from mcpgw_sidecar.front.streams import Streams
from mcpgw_sidecar.runtime.watch import Watched
from tests.adapters.test_streams import EMPTY, nobody


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("SESSION", 100), ("PROCESS", 250), ("LONG", 20)):
        monkeypatch.setattr(mail, name, size)


def test_the_oldest_make_room() -> None:
    budget = Budget()
    queue = Mail[str](budget, 3)
    for name in "abcd":
        queue.add(name, 10)
    assert (list(queue), budget.used, budget.dropped) == (["b", "c", "d"], 30, 1)
    queue.add("e", 90)
    assert (list(queue), budget.used, budget.dropped) == (["d", "e"], 100, 3)
    queue.add("too long", 101)
    assert (list(queue), budget.used, budget.dropped) == ([], 0, 6)
    assert budget.long == set()


def test_the_longest_queue_makes_room_in_the_process() -> None:
    budget = Budget()
    hoards = [Mail[int](budget, 100) for _ in range(2)]
    for number in range(10):
        for hoard in hoards:
            hoard.add(number, 10)
    other = Mail[str](budget, 100)
    for _ in range(5):
        other.add("x", 15)
    assert (len(other), sorted(len(hoard) for hoard in hoards)) == (5, [8, 9])
    assert budget.used <= 250
    assert [hoard.take()[-1] for hoard in hoards] == [9, 9]
    assert (other.take(), budget.used, budget.long) == (["x"] * 5, 0, set())


def test_many_short_queues_do_not_take_more_either() -> None:
    budget = Budget()
    queues = [Mail[int](budget, 100) for _ in range(20)]
    for queue in queues:
        queue.add(1, 15)
    assert budget.used <= 250
    assert budget.dropped == 4


@pytest.mark.parametrize("end", ["over", "evicted", "read"])
def test_what_is_gone_takes_nothing(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(Watched(EMPTY), nobody)
    for number in range(20):
        streams.send("s", b"%10d" % number)
    assert (streams.budget.used, streams.budget.dropped) == (100, 10)
    stream = streams.open("s")
    assert len(stream.relayed) == 10
    if end == "over":
        streams.end_session("s")
    elif end == "evicted":
        monkeypatch.setattr("mcpgw_sidecar.front.streams.MAX_SESSIONS", 1)
        streams.hold("other", b"")
    else:
        while stream.next_event() is not None:
            pass
        assert streams.budget.used == 100, "kept for a client that comes back with an id"
        streams.end_session("s")
    assert streams.budget.used == 0
    assert streams.discard(stream) == []
