"""The small Trio tools, under a clock that jumps."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mcpgw_sidecar.broker.app import KEEP_ALIVE_INTERVAL, _wait_streamed
from mcpgw_sidecar.broker.streams import COALESCE, MAX_RELAYED, PER_SESSION, Streams
from mcpgw_sidecar.catalog.federation import Discovered, federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.errors import UnavailableError
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.ports import SessionDirectory
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.sse import KEEP_ALIVE
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.listeners import Address, open_listener
from mcpgw_sidecar.runtime.watch import Watched


def snapshot(*names: str) -> Snapshot:
    server = Server(name=ServerName("s"), url="http://h", hostname="h")
    tools = [read_item(TOOL, f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}') for name in names]
    return federate(
        (server,), {server.name: Discovered({"tool": tuple(tool for tool in tools if isinstance(tool, Item))})}
    ).snapshot


async def test_equal_means_silence() -> None:
    watched = Watched(1)
    assert not watched.publish(1)
    assert watched.version == 0
    assert watched.publish(2)
    assert await watched.wait_after(0) == 1


async def test_a_reader_may_miss_values_but_never_the_last(autojump_clock: MockClock) -> None:
    del autojump_clock
    watched, seen = Watched(0), []

    async def read() -> None:
        version = 0
        while watched.value < 3:
            version = await watched.wait_after(version)
            seen.append(watched.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        watched.publish(1)
        watched.publish(2)
        await wait_all_tasks_blocked()
        watched.publish(3)
    assert seen == [2, 3]


def test_back_off_grows_to_its_cap_and_starts_over() -> None:
    backoff = Backoff(1.0, 60.0)
    for expected in (1, 2, 4, 8, 16, 32, 60, 60):
        assert expected / 2 <= backoff.next() <= expected
    backoff.reset()
    assert backoff.next() <= 1
    for _ in range(5000):
        assert backoff.next() <= 60


async def test_changes_that_come_together_are_one_notification(autojump_clock: MockClock) -> None:
    del autojump_clock
    live, streams = Watched(EMPTY), Streams()
    stream, other = streams.open("a"), streams.open("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.wait_notifying, live)
        await wait_all_tasks_blocked()
        for number in range(10):
            live.publish(snapshot(f"t{number}"))
            await trio.sleep(COALESCE / 20)
        await stream.wait_news()
        await other.wait_news()
        assert stream.pending == other.pending == {TOOL.changed}
        stream.pending.clear()
        await trio.sleep(10 * COALESCE)
        assert not stream.pending
        nursery.cancel_scope.cancel()


async def test_a_change_that_was_taken_back_is_none(autojump_clock: MockClock) -> None:
    del autojump_clock
    live, streams = Watched(snapshot("a")), Streams()
    stream = streams.open("s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.wait_notifying, live)
        await wait_all_tasks_blocked()
        live.publish(snapshot("b"))
        await trio.sleep(COALESCE / 3)
        live.publish(snapshot("a"))
        await trio.sleep(10 * COALESCE)
        assert not stream.pending
        nursery.cancel_scope.cancel()


def test_a_message_goes_to_the_newest_stream_and_is_not_lost_with_it() -> None:
    streams = Streams()
    old, new = streams.open("s"), streams.open("s")
    streams.tell_all(TOOL.changed)
    assert (old.pending, new.pending) == (set(), {TOOL.changed})
    streams.discard(new)
    assert old.pending == {TOOL.changed}
    streams.discard(old)
    assert streams._streams == {}


def test_streams_of_one_session_are_bounded() -> None:
    streams = Streams()
    opened = [streams.open("s") for _ in range(PER_SESSION + 1)]
    assert [stream.closed for stream in opened] == [True] + [False] * PER_SESSION
    streams.end_session("s")
    assert all(stream.closed for stream in opened)


async def test_a_taken_address_names_its_option() -> None:
    listener, address = await open_listener(Address("127.0.0.1", 0), "--x-address")
    async with listener:
        assert address.port != 0
        with pytest.raises(UnavailableError, match="--x-address"):
            await open_listener(address, "--x-address")
    with pytest.raises(UnavailableError, match="--x-address"):
        await open_listener(Address("no.such.host.invalid", 1), "--x-address")


def test_the_port_of_the_router_is_what_the_broker_offers() -> None:
    assert {"lookup", "wait_open"} <= set(dir(SessionDirectory))


async def test_a_silent_stream_is_kept_alive(autojump_clock: MockClock) -> None:
    del autojump_clock
    sent: list[bytes] = []

    async def send(event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(event.get("body", b""))

    stream = Streams().open("s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wait_streamed, send, stream)
        await trio.sleep(3 * KEEP_ALIVE_INTERVAL + 1)
        stream.send(b'{"a":1}')
        stream.tell(TOOL.changed)
        await wait_all_tasks_blocked()
        stream.close()
    assert sent[:5] == [b"", KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE]
    assert sent[5] == b'event: message\ndata: {"a":1}\n\n'
    assert TOOL.changed.encode() in sent[6]
    assert sent[7:] == [b""]


def test_a_client_that_does_not_read_loses_the_oldest_alone() -> None:
    streams = Streams()
    slow, other = streams.open("slow"), streams.open("other")
    for number in range(MAX_RELAYED + 5):
        streams.send("slow", b"%d" % number)
    streams.send("other", b"x")
    streams.send("nobody", b"x")
    assert (len(slow.relayed), slow.relayed[0], list(other.relayed)) == (MAX_RELAYED, b"5", [b"x"])
