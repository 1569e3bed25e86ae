"""The small Trio tools, under a clock that jumps."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mcpgw_sidecar.errors import UnavailableError
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.listeners import Address, open_listener
from mcpgw_sidecar.runtime.watch import Watched


async def test_equal_means_silence() -> None:
    watched = Watched(1)
    assert not watched.publish(1)
    assert watched.version == 0
    assert watched.publish(2)
    assert await watched.wait_after(0) == 1


async def test_a_reader_may_miss_values_but_never_the_last(autojump_clock: MockClock) -> None:
    del autojump_clock
    watched, values = Watched(0), []

    async def read() -> None:
        version = 0
        while watched.value < 3:
            version = await watched.wait_after(version)
            values.append(watched.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        watched.publish(1)
        watched.publish(2)
        await wait_all_tasks_blocked()
        watched.publish(3)
    assert values == [2, 3]


def test_back_off_grows_to_its_cap_and_starts_over() -> None:
    backoff = Backoff(1.0, 60.0)
    for expected in (1, 2, 4, 8, 16, 32, 60, 60):
        assert expected / 2 <= backoff.next() <= expected
    backoff.reset()
    assert backoff.next() <= 1
    for _ in range(5000):
        assert backoff.next() <= 60


@pytest.mark.duty("cli.exit-69")
async def test_a_taken_address_names_its_option() -> None:
    listener, address = await open_listener(Address("127.0.0.1", 0), "--x-address")
    async with listener:
        assert address.port != 0
        with pytest.raises(UnavailableError, match="--x-address"):
            await open_listener(address, "--x-address")
    with pytest.raises(UnavailableError, match="--x-address"):
        await open_listener(Address("no.such.host.invalid", 1), "--x-address")
