"""Sessions at work under a clock that jumps: races of openings, ends, moves, heals, replicas."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.directory.store import LEASE
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionState
from mcpgw_sidecar.protocol.jsonrpc import Notification, parse_message
from tests.adapters.replicas import ASKED, ONE, FakeServer, born, dead_session, opened, running
from tests.contract.memory import MemoryStore, Shared

MINE = {"authorization": "Bearer x"}


async def test_many_calls_open_one_session_also_when_the_first_goes_away(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with running(server) as replica, trio.open_nursery() as calls:
        token, session = born(replica)
        failures: list[Reject | None] = []

        async def call() -> None:
            replica.directory.bring(session, MINE)
            failures.append(await opened(replica, session, MINE))

        with trio.CancelScope() as first:
            calls.start_soon(call)
            await trio.sleep(0.1)
            calls.start_soon(call)
            await trio.sleep(0.1)
            first.cancel()
        calls.start_soon(call)
        await trio.sleep(2)
        assert (failures, server.count) == ([None] * 3, 1)
        assert replica.upstream(token) == "u1"
        assert replica.state(token).upstreams[ONE.name].brought == MINE, "and no other header"
        assert await opened(replica, session) is None
        assert server.count == 1


async def test_a_failure_is_everybodys_and_the_next_call_tries_again(autojump_clock: MockClock) -> None:
    server = FakeServer(fails=UpstreamError("Unreachable", "cannot be reached: no"))
    async with running(server) as replica:
        token, session = born(replica)
        reject = await opened(replica, session)
        assert reject is not None
        assert (reject.status, reject.server, reject.outcome) == (200, ONE.name, "unavailable")
        server.fails = None
        assert await opened(replica, session) is None
        assert replica.upstream(token) == "u2"


async def test_a_bug_costs_its_call_alone(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer(fails=ValueError("a bug"))  # type: ignore[arg-type]
    async with running(server) as replica:
        _, session = born(replica)
        reject = await opened(replica, session)
        assert reject is not None
        assert (reject.status, reject.code) == (500, -32603)
    del caplog


async def test_a_session_of_a_handshake_that_breaks_is_closed(autojump_clock: MockClock) -> None:
    """A server that hangs has made it, and nobody will use it."""
    server = FakeServer(breaks=UpstreamError("Timeout", "did not answer"))
    async with running(server) as replica:
        _, session = born(replica)
        assert await opened(replica, session) is not None
        await trio.sleep(1)
        assert (server.closed, server.open) == ([("u1", ONE.url)], {})


async def test_a_session_that_ends_while_it_is_opened_is_closed(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with running(server) as replica, trio.open_nursery() as calls:
        token, session = born(replica)
        calls.start_soon(opened, replica, session)
        await trio.sleep(0.5)
        await replica.directory.wait_ended(session)
        await trio.sleep(2)
        assert (server.closed, server.open, replica.over) == ([("u1", ONE.url)], {}, [session.key])
        assert not isinstance(replica.directory.lookup(token), SessionState)
        assert await opened(replica, session) is None, "whoever asked sees that at the next decision"
        assert server.count == 1


@pytest.mark.parametrize("moved", [None, attrs.evolve(ONE, url="http://elsewhere/mcp")], ids=["gone", "moved"])
async def test_a_server_that_moves_while_a_session_with_it_is_opened(
    autojump_clock: MockClock, moved: Server | None
) -> None:
    server = FakeServer()
    async with running(server) as replica, trio.open_nursery() as calls:
        token, session = born(replica)
        calls.start_soon(opened, replica, session)
        await trio.sleep(0.5)
        replica.directory.forget_server(ONE)
        if moved is None:
            del replica.servers[ONE.name]
        else:
            replica.servers[ONE.name] = moved
        await trio.sleep(2)
        assert server.closed == [("u1", ONE.url)], "closed where it was opened"
        assert replica.upstream(token) is None
        if moved is not None:
            assert await opened(replica, session) is None
            assert (replica.upstream(token), server.open["u2"]) == ("u2", moved)


async def test_a_forgotten_session_is_healed_once_however_many_ask(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with running(server) as replica, trio.open_nursery() as calls:
        token, session = born(replica)
        await opened(replica, session)
        healed: list[str | None] = []

        async def heal(dead: str) -> None:
            upstream = await replica.directory.wait_healed(session, ONE, dead_session(dead), {})
            healed.append(None if upstream is None else upstream.id)

        await heal("u1")
        assert healed == [None], "it lives: a 404 was of the server's own reasons"
        server.open.clear()
        for _ in range(3):
            calls.start_soon(heal, "u1")
            await trio.sleep(0.3)
        await trio.sleep(5)
        assert healed[1:] == ["u2"] * 3
        assert (server.count, replica.upstream(token)) == (2, "u2")
        await heal("u1")
        assert healed[-1] == "u2", "it was replaced before"
        server.fails = UpstreamError("Timeout", "did not answer")
        await heal("u2")
        assert healed[-1] is None


async def test_the_first_call_waits_until_its_server_can_ask(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with running(server) as replica:
        token, session = born(replica, ASKED)
        await opened(replica, session)
        assert list(server.heard) == ["u1"], "it is heard when the call goes out"
        stream = replica.streams.open(session.key)
        replica.directory.stream_here(session)
        ask = parse_message('{"jsonrpc":"2.0","id":1,"method":"elicitation/create"}')
        for message in (ask, parse_message('{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}')):
            assert message is not None
            server.heard["u1"](message)  # type: ignore[arg-type]
        (relayed,) = stream.relayed
        assert replica.stale == [ONE.name], "it is listed again"
        ticket = replica.state(token).upstreams[ONE.name].ticket
        assert b'"mcpgw:ns/one:%b:1"' % ticket.encode() in relayed
        await replica.directory.wait_ended(session)
        await trio.sleep(2)
        assert (server.heard, stream.closed) == ({}, True)


async def test_a_server_whose_stream_does_not_come_holds_up_no_call(autojump_clock: MockClock) -> None:
    server = FakeServer(takes=10.0)
    async with running(server) as replica:
        _, session = born(replica, ASKED)
        began = trio.current_time()
        await opened(replica, session)
        assert trio.current_time() - began == pytest.approx(server.takes + timeouts.LISTEN)


async def test_a_server_without_streams_is_asked_once(autojump_clock: MockClock) -> None:
    server = FakeServer(offers_streams=False)
    async with running(server) as replica:
        _, session = born(replica, ASKED)
        await opened(replica, session)
        await trio.sleep(100)
        assert server.streams == 1


async def test_wishes_are_told_and_told_again_after_a_heal(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with running(server) as replica:
        token, session = born(replica)
        await opened(replica, session)
        replica.directory.set_level(session, "debug")
        replica.directory.subscribed(session, ONE, "x:a", wanted=True)
        await trio.sleep(2)
        assert server.results == [("u1", "logging/setLevel", '{"level":"debug"}')]
        assert list(server.heard) == ["u1"]
        server.open.clear()  # the stream's 404 heals it
        await trio.sleep(10)
        assert replica.upstream(token) == "u2"
        assert server.results[1:] == [
            ("u2", "logging/setLevel", '{"level":"debug"}'),
            ("u2", "resources/subscribe", '{"uri":"x:a"}'),
        ]
        assert list(server.heard) == ["u2"]


async def test_notifications_go_to_every_server_and_progress_to_its_own(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with running(server) as replica:
        token, session = born(replica)
        await opened(replica, session)
        ticket = replica.state(token).upstreams[ONE.name].ticket
        texts = [
            '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
            '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"mcpgw:ns/one:' + ticket + ':7"}}',
            '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"mcpgw:ns/one:x:7"}}',
            '{"jsonrpc":"2.0","method":"notifications/progress"}',
        ]
        server.fails = UpstreamError("Timeout", "did not answer")  # which is nobody's business
        for text in texts:
            message = parse_message(text)
            assert isinstance(message, Notification)
            replica.directory.tell(replica.state(token), message, {})
        await trio.sleep(1)
        sent = texts[1].replace(f'"mcpgw:ns/one:{ticket}:7"', "7")
        assert sorted(server.posted, key=str) == sorted([("u1", texts[0].encode()), ("u1", sent.encode())], key=str)


async def test_sessions_expire_and_are_closed(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    async with running(server) as replica, trio.open_nursery() as nursery:
        token, session = born(replica)
        await opened(replica, session)
        nursery.start_soon(replica.directory.wait_sweeping)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 200)
        await trio.sleep(20)
        assert (replica.over, server.closed) == ([session.key], [("u1", ONE.url)])
        assert replica.directory.statistics().gateway == 0
        assert not isinstance(replica.directory.lookup(token), SessionState)
        nursery.cancel_scope.cancel()


async def test_two_replicas_that_open_at_once_keep_one(autojump_clock: MockClock) -> None:
    server, shared = FakeServer(), Shared()
    async with (
        running(server, MemoryStore(shared, 0.1)) as first,
        running(server, MemoryStore(shared, 0.1)) as second,
        trio.open_nursery() as calls,
    ):
        token, session = born(first)
        calls.start_soon(opened, first, session)
        await trio.sleep(0.05)
        second.state(token)
        calls.start_soon(opened, second, session)
        await trio.sleep(5)
        assert first.upstream(token) == second.upstream(token) == "u1"
        assert server.closed == [("u2", ONE.url)]


async def test_a_session_that_ends_while_the_store_keeps_it_is_closed(autojump_clock: MockClock) -> None:
    server, shared = FakeServer(), Shared()
    async with running(server, MemoryStore(shared, 0.4)) as first, trio.open_nursery() as calls:
        _, session = born(first)
        calls.start_soon(opened, first, session)
        await trio.sleep(2 * 0.4 + 1 + 0.2)  # asked for session and wishes, opened, and now it is being kept
        assert list(server.open) == ["u1"]
        await first.directory.wait_ended(session)
        await trio.sleep(5)
        assert server.open == {}


async def test_one_that_ends_at_one_replica_is_over_at_the_other_and_closed(autojump_clock: MockClock) -> None:
    server, shared = FakeServer(), Shared()
    async with running(server, MemoryStore(shared)) as first, running(server, MemoryStore(shared)) as second:
        token, session = born(first)
        await opened(first, session)
        second.state(token)
        await second.directory.wait_ended(session)
        await trio.sleep(1)
        assert first.over == second.over == [session.key]
        assert set(server.closed) == {("u1", ONE.url)}, "by each replica that knows it"


@pytest.mark.duty("session.store", "session.delete-204")
async def test_delete_is_answered_once_the_store_knows(autojump_clock: MockClock) -> None:
    """So whoever comes to another replica after the answer sees the end."""
    shared = Shared()
    async with running(FakeServer(), MemoryStore(shared, pause=0.3)) as replica:
        _, session = born(replica)
        await replica.directory.wait_ended(session)
        assert list(shared.ended) == [session.key]


async def test_two_sessions_with_a_server_are_both_heard(autojump_clock: MockClock) -> None:
    """Replicas opened one each while the store was away; a subscription stands in one of them."""

    class Away(MemoryStore):
        async def wait_ticket(self, *_: Any) -> str | None:
            await trio.lowlevel.checkpoint()
            return None

        async def wait_keep(self, _session: Session, _server: ServerName, ticket: str, **_: Any) -> str:
            await trio.lowlevel.checkpoint()
            return ticket

    server, shared = FakeServer(), Shared()
    async with running(server, Away(shared)) as first, running(server, Away(shared)) as second:
        token, session = born(first, ASKED)
        second.state(token)
        await opened(first, session)
        await opened(second, session)
        await trio.sleep(2 * LEASE)
        assert sorted(server.heard) == ["u1", "u2"]


async def test_a_lease_is_handed_over_to_the_replica_that_is_left(autojump_clock: MockClock) -> None:
    server, shared = FakeServer(), Shared()
    async with running(server, MemoryStore(shared)) as second:
        async with running(server, MemoryStore(shared)) as first:
            token, session = born(first, ASKED)
            await opened(first, session)
            assert list(server.heard) == ["u1"]
            second.state(token)
            stream = second.streams.open(session.key)
            second.directory.stream_here(session)
            await trio.sleep(2 * LEASE)
            assert server.streams == 1, "one replica hears it"
            server.heard["u1"](parse_message('{"jsonrpc":"2.0","id":1,"method":"ping"}'))  # type: ignore[arg-type]
            await trio.sleep(1)
            assert len(stream.relayed) == 1, "what it hears reaches the client's stream at the other"
        await trio.sleep(2 * LEASE)
        assert (server.streams, list(server.heard)) == (2, ["u1"])


async def test_messages_that_cannot_be_left_wait_here(autojump_clock: MockClock) -> None:
    class Lost(MemoryStore):
        async def wait_post(self, session_key: str, message: bytes) -> bool:
            await trio.lowlevel.checkpoint()
            return not (session_key and message)

    server = FakeServer()
    async with running(server, Lost(Shared())) as replica:
        _, session = born(replica)
        replica.directory.stream_gone(session.key, [b"1", b"2"])
        await trio.sleep(1)
        assert list(replica.streams.open(session.key).relayed) == [b"1", b"2"]


async def test_a_client_that_comes_back_to_a_new_process_is_heard_for_again(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with running(server) as before:
        token, session = born(before, ASKED)
        await opened(before, session)
        stream = before.streams.open(session.key, primed=True)
        event_id = stream.first_event().decode().split("id: ")[1].split("\n")[0]
    async with running(server) as after:
        after.state(token)
        after.directory.bring(session, MINE)
        after.directory.stream_here(session, event_id)
        await trio.sleep(1)
        assert (after.upstream(token), list(server.heard), server.count) == ("u1", ["u1"], 1)
        assert after.state(token).upstreams[ONE.name].brought == MINE


async def test_a_client_that_comes_back_while_its_session_is_healed(autojump_clock: MockClock) -> None:
    """Its last event's id holds the ticket of the session that is dead."""
    server = FakeServer()
    async with running(server) as replica, trio.open_nursery() as calls:
        token, session = born(replica, ASKED)
        await opened(replica, session)
        stream = replica.streams.open(session.key, primed=True)
        event_id = stream.first_event().decode().split("id: ")[1].split("\n")[0]
        server.open.clear()
        calls.start_soon(replica.directory.wait_healed, session, ONE, dead_session("u1"), {})
        await trio.sleep(server.takes + 0.1)  # it is known to be dead, and another is being opened
        replica.directory.stream_here(session, event_id)
        await trio.sleep(5)
        assert (replica.upstream(token), server.closed, list(server.heard)) == ("u2", [], ["u2"])


async def test_a_replica_that_learns_of_the_session_while_it_is_healed(autojump_clock: MockClock) -> None:
    server, shared = FakeServer(), Shared()
    async with running(server, MemoryStore(shared)) as replica, trio.open_nursery() as calls:
        token, session = born(replica)
        await opened(replica, session)
        server.open.clear()
        calls.start_soon(replica.directory.wait_healed, session, ONE, dead_session("u1"), {})
        await trio.sleep(server.takes + 0.1)
        replica.directory.set_level(session, "debug")  # which reads what replicas know: the dead ticket
        await trio.sleep(5)
        assert (replica.upstream(token), server.closed) == ("u2", [])
        ticket = replica.state(token).upstreams[ONE.name].ticket
        assert shared.tickets[session.key] == {ONE.name: ticket}


async def test_a_dead_session_of_a_replica_is_not_adopted_in_place_of_another(autojump_clock: MockClock) -> None:
    """Both were forgotten when the server restarted; the store names the replica's."""
    server, shared = FakeServer(), Shared()
    async with running(server, MemoryStore(shared)) as replica:
        token, session = born(replica)
        await opened(replica, session)
        other = replica.directory.driver.sessions.seal(session, ONE, dead_session("u9"))
        shared.tickets[session.key][ONE.name] = other.ticket
        server.open.clear()
        healed = await replica.directory.wait_healed(session, ONE, dead_session("u1"), {})
        assert healed is not None
        assert (healed.id, replica.upstream(token)) == ("u2", "u2")
        assert shared.tickets[session.key][ONE.name] == healed.ticket
        server.open["u9"] = ONE.url
        shared.tickets[session.key][ONE.name] = other.ticket
        del server.open["u2"]
        healed = await replica.directory.wait_healed(session, ONE, healed, {})
        assert healed is not None
        assert healed.id == "u9", "one that lives is adopted"


async def test_a_session_that_is_adopted_while_one_is_opened_is_the_one_for_all(autojump_clock: MockClock) -> None:
    server, shared = FakeServer(), Shared()
    async with running(server, MemoryStore(Shared())) as before:
        token, session = born(before, ASKED)
        await opened(before, session)
        event_id = before.streams.open(session.key, primed=True).first_event().decode().split("id: ")[1].split("\n")[0]
    async with running(server, MemoryStore(shared)) as after, trio.open_nursery() as calls:
        after.state(token)
        calls.start_soon(opened, after, session)
        await trio.sleep(0.5)
        after.directory.stream_here(session, event_id)
        await trio.sleep(5)
        assert (after.upstream(token), server.closed) == ("u1", [("u2", ONE.url)])
        assert shared.tickets.get(session.key, {}) == {}, "the store names none that is closed"


async def test_a_replica_tells_servers_what_was_wished_elsewhere(autojump_clock: MockClock) -> None:
    server, shared = FakeServer(), Shared()
    async with running(server, MemoryStore(shared)) as first, running(server, MemoryStore(shared)) as second:
        token, session = born(first)
        await opened(first, session)
        first.directory.set_level(session, "debug")
        first.directory.subscribed(session, ONE, "x:a", wanted=True)
        await trio.sleep(1)
        message = parse_message('{"jsonrpc":"2.0","method":"notifications/cancelled"}')
        assert isinstance(message, Notification)
        second.directory.tell(second.state(token), message, {})  # which is how it learns of the session
        await trio.sleep(1)
        server.results.clear()
        server.open.clear()
        await second.directory.wait_healed(session, ONE, dead_session("u1"), {})
        await trio.sleep(1)
        assert {method for _, method, _ in server.results} == {"logging/setLevel", "resources/subscribe"}
