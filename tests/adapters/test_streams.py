"""The notification streams of clients, under a clock that jumps."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.front.answers import wait_streamed
from mcpgw_sidecar.front.keepalive import KEEP_ALIVE_INTERVAL
from mcpgw_sidecar.front.mail import Mail
from mcpgw_sidecar.front.stream import Stream
from mcpgw_sidecar.front.streams import COALESCE, COLLECT, MAX_RELAYED, PER_SESSION, Streams
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.jsonrpc import notification_text
from mcpgw_sidecar.protocol.sse import KEEP_ALIVE, SseParser
from mcpgw_sidecar.runtime.watch import Watched


def snapshot(*names: str) -> Snapshot:
    server = Server(name=ServerName("s"), url="http://h", hostname="h")
    tools = [read_item(TOOL, f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}') for name in names]
    return federate(
        (server,), {server.name: Discovered({"tool": tuple(tool for tool in tools if isinstance(tool, Item))})}
    ).snapshot


def nobody(_session: str) -> str:
    """No server is heard for any session."""
    return ""


def greeted(streams: Streams, session: str) -> Stream:
    """A stream of a session that was born here."""
    streams.greet(session)
    return streams.open(session)


@pytest.mark.duty("notify.list-changed")
async def test_changes_that_come_together_are_one_notification(autojump_clock: MockClock) -> None:
    del autojump_clock
    live = Watched(EMPTY)
    streams = Streams(live, nobody)
    stream, other = greeted(streams, "a"), greeted(streams, "b")
    count = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.wait_notifying)
        await wait_all_tasks_blocked()
        for number in range(10):
            live.publish(snapshot(f"t{number}"))
            await trio.sleep(COLLECT / 20)
        await stream.wait_news()
        await other.wait_news()
        assert stream.pending == other.pending == {TOOL.changed}
        while stream.next_event() is not None:
            pass
        await trio.sleep(10 * COALESCE)
        assert not stream.pending
        for number in range(20):  # a change every tenth of a second: one notification in half of one
            live.publish(snapshot(f"u{number}"))
            await trio.sleep(0.1)
            count += stream.next_event() is not None
        assert 3 <= count <= 4
        nursery.cancel_scope.cancel()


@pytest.mark.duty("notify.list-changed")
async def test_a_change_that_was_taken_back_is_none(autojump_clock: MockClock) -> None:
    del autojump_clock
    live = Watched(snapshot("a"))
    streams = Streams(live, nobody)
    stream = greeted(streams, "s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.wait_notifying)
        await wait_all_tasks_blocked()
        live.publish(snapshot("b"))
        await trio.sleep(COLLECT / 3)
        live.publish(snapshot("a"))
        await trio.sleep(10 * COALESCE)
        assert not stream.pending
        nursery.cancel_scope.cancel()


@pytest.mark.duty("transport.one-stream")
def test_a_message_goes_to_the_newest_stream_and_is_not_lost_with_it() -> None:
    streams = Streams(Watched(EMPTY), nobody)
    old, new = greeted(streams, "s"), streams.open("s")
    streams.send("s", b"1")
    assert (list(old.relayed), list(new.relayed)) == ([], [b"1"])
    for message in streams.discard(new):  # to where the session's messages go
        streams.send("s", message)
    assert list(old.relayed) == [b"1"]
    for message in streams.discard(old):
        streams.send("s", message)
    assert list(streams.open("s").relayed) == [b"1"]
    assert streams.discard(Stream("another", streams._client("s"), Mail(streams.budget, 1), nobody)) == []
    streams.end_session("s")
    assert streams._clients == {}


def events(stream: Stream) -> list[tuple[str, str]]:
    """Id and data of everything that waits on a stream."""
    pairs = []
    while (event := stream.next_event()) is not None:
        (parsed,) = SseParser(1 << 20).feed(event)
        pairs.append((parsed.id or "", parsed.data))
    return pairs


@pytest.mark.duty("resume.missed")
def test_who_comes_back_is_told_what_changed_since() -> None:
    live = Watched(snapshot("a"))
    streams = Streams(live, nobody)
    stream = greeted(streams, "s")
    (first,) = SseParser(1 << 20).feed(stream.first_event())
    assert (first.data, events(stream)) == ("", [])
    streams.discard(stream)
    assert events(streams.open("s", first.id or "")) == []
    live.publish(snapshot("b"))
    elsewhere = Streams(live, nobody)  # another process, or this one after a restart
    for resumed in (streams.open("s"), elsewhere.open("s", first.id or "")):
        assert [data for _, data in events(resumed)] == [notification_text(TOOL.changed).decode()]
    assert len(events(Streams(live, nobody).open("s"))) == 3, "nobody knows what it knows: all lists may have changed"


@pytest.mark.duty("resume.missed", "resume.own-alone")
def test_messages_that_went_down_with_a_stream_come_again_on_the_one_that_resumes_it() -> None:
    streams = Streams(Watched(EMPTY), nobody)
    stream = greeted(streams, "s")
    for text in (b"1", b"2", b"3"):
        streams.send("s", text)
    sent = events(stream)
    streams.discard(stream)
    assert [data for _, data in events(streams.open("s", sent[0][0]))] == ["2", "3"]
    assert events(streams.open("s", sent[2][0])) == []
    assert events(streams.open("s")) == [], "another stream is never sent them"


@pytest.mark.parametrize("event_id", ["", "x", "a.b.c", "mcpgw:ns/one:t:1", f"a.{10**30}.x", "a.\u0661.x"])
def test_an_id_of_somebody_else_resumes_nothing(event_id: str) -> None:
    streams = Streams(Watched(EMPTY), nobody)
    stream = greeted(streams, "s")
    streams.send("s", b"1")
    events(stream)
    assert events(streams.open("s", event_id)) == []


def test_an_id_with_a_state_that_nobody_knows_may_have_missed_everything() -> None:
    streams = Streams(Watched(EMPTY), nobody)
    greeted(streams, "s")
    assert len(events(streams.open("s", "a.1.x"))) == 3


def test_streams_of_one_session_are_bounded() -> None:
    streams = Streams(Watched(EMPTY), nobody)
    opened = [streams.open("s") for _ in range(PER_SESSION + 1)]
    assert [stream.closed for stream in opened] == [True] + [False] * PER_SESSION
    streams.end_session("s")
    assert all(stream.closed for stream in opened)


@pytest.mark.duty("transport.keep-alive")
async def test_a_silent_stream_is_kept_alive(autojump_clock: MockClock) -> None:
    del autojump_clock
    sent: list[bytes] = []

    async def send(event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(event.get("body", b""))

    streams = Streams(Watched(EMPTY), nobody)
    stream = greeted(streams, "s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.keep_alive.wait_keeping)
        nursery.start_soon(wait_streamed, trio.sleep_forever, send, stream, streams.keep_alive)
        await trio.sleep(3 * KEEP_ALIVE_INTERVAL + 1)
        stream.send(b'{"a":1}')
        stream.tell(TOOL.changed, "")
        await wait_all_tasks_blocked()
        stream.close()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sent[:5] == [b"", KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE, KEEP_ALIVE]
    assert sent[5].endswith(b'event: message\ndata: {"a":1}\n\n')
    assert TOOL.changed.encode() in sent[6]
    assert sent[7:] == [b""]


async def test_a_stream_ends_with_its_token(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    del autojump_clock
    monkeypatch.setattr(time, "time", lambda: 1000 + trio.current_time() - start)
    start, streams = trio.current_time(), Streams(Watched(EMPTY), nobody)
    stream = streams.open("s", until=1000 + 2.5 * KEEP_ALIVE_INTERVAL)
    others = [streams.open(f"{number}") for number in range(50)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.keep_alive.wait_keeping)
        for each in others:
            nursery.start_soon(wait_streamed, trio.sleep_forever, wait_unsent, each, streams.keep_alive)
        await wait_streamed(trio.sleep_forever, wait_unsent, stream, streams.keep_alive)
        assert 2.5 * KEEP_ALIVE_INTERVAL < trio.current_time() - start < 3.5 * KEEP_ALIVE_INTERVAL
        assert not any(each.closed for each in others)
        nursery.cancel_scope.cancel()


async def wait_unsent(_message: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.duty("notify.slow-reader")
def test_a_client_that_does_not_read_loses_the_oldest_alone() -> None:
    streams = Streams(Watched(EMPTY), nobody)
    slow, other = greeted(streams, "slow"), greeted(streams, "other")
    for number in range(MAX_RELAYED + 5):
        streams.send("slow", b"%d" % number)
    streams.send("other", b"x")
    streams.send("nobody", b"x")
    assert (len(slow.relayed), next(iter(slow.relayed)), list(other.relayed)) == (MAX_RELAYED, b"5", [b"x"])
