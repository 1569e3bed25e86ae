"""The broker's connection to one server, under a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.protocol.jsonrpc import Message, Notification
from mcpgw_sidecar.protocol.jsontext import Member, parse_object
from mcpgw_sidecar.upstream import listing
from mcpgw_sidecar.upstream.connection import LISTEN_AGAIN, PACE, RETRY_CAP, Connection
from mcpgw_sidecar.upstream.listing import ListBudget, Room, wait_discovered
from mcpgw_sidecar.upstream.messages import Position
from mcpgw_sidecar.upstream.stateful import Handshake, Upstream

SERVER = Server(name=ServerName("ns/one"), url="http://one/mcp", hostname="one")
CHANGED = Notification("notifications/tools/list_changed", None, "")


@attrs.define
class FakeClient:
    """A server that does what a test says."""

    connected: list[dict[str, str]] = attrs.field(factory=list)
    lists: int = 0
    closed: int = 0
    streams: int = 0
    fails: bool = False
    says: float = 0.0
    """Seconds between two notifications that its list has changed; 0 is none."""
    ends: bool = False
    ended: int | None = None
    """The HTTP status of its answer to a session that it has forgotten."""
    tools: str = ""
    """The items of its list, as JSON."""
    forgets: int = 0
    """How many of its next sessions it forgets at once."""

    async def wait_initialized(self, server: Server, *, headers: dict[str, str], **_: Any) -> Handshake:
        del server
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise UpstreamError("Unreachable", "cannot be reached: no")
        self.connected.append(headers)
        self.ended = 404 if self.forgets > 0 else None
        self.forgets -= 1
        return Handshake(UpstreamSession(id="u", protocol_version="2025-11-25"), "about", frozenset())

    async def wait_result(self, upstream: Upstream, method: str, params: str) -> tuple[str, list[Member]]:
        del upstream, method, params
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise UpstreamError("Unreachable", "cannot be reached: no")
        if self.ended is not None:
            raise UpstreamError("HttpError", f"answered HTTP {self.ended}", status=self.ended)
        self.lists += 1
        text = f'{{"tools":[{self.tools}]}}'
        return text, parse_object(text)

    async def wait_events(
        self, upstream: Upstream, handle: Callable[[Message], None], *, own: bool, position: Position
    ) -> bool:
        del upstream, position
        assert own
        self.streams += 1
        while not self.ends:
            await trio.sleep(self.says or 1.0)
            if self.says:
                handle(CHANGED)
        raise UpstreamError("BadAnswer", "broke off")

    async def wait_closed(self, upstream: Upstream) -> None:
        del upstream
        await trio.lowlevel.checkpoint()
        self.closed += 1


@attrs.define
class Report:
    discovered: list[Discovered] = attrs.field(factory=list)
    modern: list[Discovered | None] = attrs.field(factory=list)
    failed: list[float] = attrs.field(factory=list)


@attrs.define
class FakeModern:
    """What a server says of the stateless era: after some seconds, if at all."""

    speaks: bool = False
    seconds: float = 0.0
    tools: str = ""
    asked: int = 0

    async def wait_discovered(self, server: Server, headers: dict[str, str]) -> Handshake:
        del server, headers
        self.asked += 1
        await trio.sleep(self.seconds)
        if not self.speaks:
            raise UpstreamError("HttpError", "answered HTTP 400", status=400)
        return Handshake(UpstreamSession(id=None, protocol_version="2026-07-28"), "modern", frozenset())

    async def wait_events(self, upstream: Upstream, handle: Any, *, kinds: Any, position: Any) -> bool:
        del upstream, handle, kinds, position
        await trio.lowlevel.checkpoint()
        return False

    async def wait_result(self, upstream: Upstream, method: str, params: str) -> tuple[str, list[Member]]:
        del upstream, method, params
        await trio.lowlevel.checkpoint()
        if self.tools == "broken":
            raise UpstreamError("BadAnswer", "answered nonsense")
        text = f'{{"tools":[{self.tools}]}}'
        return text, parse_object(text)


async def watched(
    client: FakeClient,
    seconds: float,
    server: Server = SERVER,
    report: Report | None = None,
    modern: FakeModern | None = None,
) -> Report:
    """What a connection reports in some time."""
    report, modern = report or Report(), modern or FakeModern()
    connection = Connection(
        client=client,  # type: ignore[arg-type]
        modern=modern,  # type: ignore[arg-type]
        server=server,
        room=Room(ListBudget()),
        modern_room=Room(ListBudget()),
        refresh=60.0,
        discovered=lambda offer, also: (report.discovered.append(offer), report.modern.append(also)),
        failed=lambda _error: report.failed.append(trio.current_time()),
    )
    with trio.move_on_after(seconds):
        await connection.wait_connecting()
    return report


async def test_a_server_that_always_changes_is_paced(autojump_clock: MockClock) -> None:
    client = FakeClient(says=PACE / 50)
    report = await watched(client, 10.0)
    assert len(report.discovered) == client.lists
    assert 90 <= client.lists <= 10.0 / PACE + 1
    assert (report.discovered[0].instructions, report.discovered[0].protocol_versions) == ("about", ("2025-11-25",))
    assert client.closed == 1, "its session ends with the connection"


async def test_a_silent_server_is_checked_once_a_while(autojump_clock: MockClock) -> None:
    client = FakeClient()
    await watched(client, 185.0)
    assert (client.lists, client.streams) == (4, 1)


async def test_what_changed_while_nobody_listened_is_seen(autojump_clock: MockClock) -> None:
    client = FakeClient(ends=True)
    await watched(client, 3 * LISTEN_AGAIN)
    assert client.streams >= 2
    assert client.lists >= 2


async def test_a_server_that_fails_is_tried_again_less_and_less_often(autojump_clock: MockClock) -> None:
    client = FakeClient(fails=True)
    report = await watched(client, 1000.0)
    pauses = [after - before for before, after in zip(report.failed, report.failed[1:], strict=False)]
    assert 1000 / RETRY_CAP <= len(pauses) <= 45
    assert max(pauses) <= RETRY_CAP
    assert pauses[0] <= 1.0


async def test_a_rotated_credential_makes_another_connection(autojump_clock: MockClock, tmp_path: Path) -> None:
    file = tmp_path / "credential"
    file.write_text("Bearer one")
    server = attrs.evolve(SERVER, credential_file=str(file))
    client = FakeClient()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched, client, 300.0, server)
        await trio.sleep(61)
        file.write_text("Bearer two")
    assert [headers["authorization"] for headers in client.connected] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_session_that_has_ended_is_opened_anew_without_a_failure(
    autojump_clock: MockClock, status: int, *, fails: bool
) -> None:
    client = FakeClient()
    report = Report()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched, client, 100.0, SERVER, report)
        await trio.sleep(30.0)
        client.ended, client.fails = status, fails
    assert len(client.connected) == (1 if fails else 2)
    assert bool(report.failed) == fails, "unless a new one fails too"


@pytest.mark.parametrize("sessions", [1, 2])
async def test_a_session_that_is_forgotten_before_its_first_list_is_no_failure_once(
    autojump_clock: MockClock, sessions: int
) -> None:
    """A server that restarted just now; its tools would be unknown until the next try."""
    client = FakeClient(forgets=sessions)
    report = await watched(client, 0.5)
    assert bool(report.failed) == (sessions > 1)
    assert len(client.connected) == 2
    assert client.closed == 2


async def test_another_answer_is_a_failure(autojump_clock: MockClock) -> None:
    client = FakeClient()
    report = Report()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched, client, 65.0, SERVER, report)
        await trio.sleep(30.0)
        client.ended = 503
    assert report.failed


async def test_a_bug_costs_this_server_alone(autojump_clock: MockClock) -> None:
    class Broken(FakeClient):
        async def wait_initialized(self, server: Server, **_: Any) -> Handshake:
            raise ZeroDivisionError(server)

    assert len((await watched(Broken(), 1.5)).failed) >= 2


@pytest.mark.duty("security.list-budget")
async def test_the_lists_of_a_server_and_of_all_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """One server just under every limit took 700 MB, more than its pod has."""
    monkeypatch.setattr(listing, "MAX_SERVER", 300)
    monkeypatch.setattr(listing, "MAX_ALL", 500)
    budget, shake = ListBudget(), Handshake(UpstreamSession(id="u", protocol_version="2025-11-25"), "", frozenset())
    rooms = {name: Room(budget) for name in "abc"}

    async def tools(name: str, size: int, text: str = "x") -> tuple[int, str]:
        item = '{"name":"a","inputSchema":{"type":"object"},"description":"%s"}'
        client = FakeClient(tools=item % (text * ((size - len(item) - 10) // len(text.encode()))))
        server = attrs.evolve(SERVER, name=ServerName(name))
        upstream = Upstream(server, shake.session, {})
        found = await wait_discovered(client, upstream, shake, rooms[name])  # type: ignore[arg-type]
        return len(found.items["tool"]), " ".join(each.reason for each in found.unusable)

    full = "the list was cut after 0 tools: the lists of all servers have more than 0 MiB"
    assert await tools("a", 280) == (1, "")
    assert await tools("b", 310) == (0, "the list was cut after 0 tools: its lists have more than 0 MiB")
    assert await tools("b", 200, "😀") == (1, ""), "bytes, not characters"
    assert await tools("c", 200) == (0, full)
    assert await tools("a", 290) == (1, ""), "its own room counts once"
    assert await tools("a", 305) == (0, "the list was cut after 0 tools: its lists have more than 0 MiB")
    assert await tools("c", 200) == (1, ""), "what was cut takes no room"
    rooms["c"].close()
    assert await tools("c", 200) == (0, full), "nobody is connected with it any more"
    assert budget.size == rooms["b"].size


TOOL_TEXT = '{"name":"t","inputSchema":{"type":"object"}}'


@pytest.mark.duty("era.direct")
async def test_which_eras_a_server_speaks_is_found_by_asking(autojump_clock: MockClock) -> None:
    del autojump_clock
    both = await watched(FakeClient(tools=TOOL_TEXT), 5, modern=FakeModern(speaks=True, tools=TOOL_TEXT))
    assert both.discovered[0].protocol_versions == ("2025-11-25",)
    assert both.modern[0] is not None
    assert both.modern[0].protocol_versions == ("2026-07-28",)
    assert [item.key for item in both.modern[0].items["tool"]] == ["t"]
    old = await watched(FakeClient(), 5)
    assert old.modern == [None]
    alone = await watched(FakeClient(fails=True), 5, modern=FakeModern(speaks=True, tools=TOOL_TEXT))
    assert (alone.discovered[0], alone.failed) == (Discovered(), [])
    assert alone.modern[0] is not None
    neither = await watched(FakeClient(fails=True), 5)
    assert (neither.discovered, len(neither.failed) > 0) == ([], True)


@pytest.mark.duty("era.direct")
async def test_a_server_that_does_not_say_its_era_costs_no_time(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    report, times = Report(), list[float]()
    report.discovered = _Timed(times)
    await watched(FakeClient(), 30, report=report, modern=FakeModern(speaks=True, seconds=20))
    assert times[0] - start < 2
    assert report.modern == [None]
    del autojump_clock


class _Timed(list[Discovered]):
    """Notes when something is appended."""

    def __init__(self, times: list[float]) -> None:
        super().__init__()
        self.times = times

    def append(self, value: Discovered) -> None:
        self.times.append(trio.current_time())
        super().append(value)


@pytest.mark.duty("era.direct")
async def test_lists_of_one_era_that_cannot_be_had(autojump_clock: MockClock) -> None:
    del autojump_clock
    report = await watched(FakeClient(tools=TOOL_TEXT), 5, modern=FakeModern(speaks=True, tools="broken"))
    assert report.modern == [None]
    assert report.discovered[0].items["tool"]
    alone = await watched(FakeClient(fails=True), 5, modern=FakeModern(speaks=True, tools="broken"))
    assert (alone.discovered, len(alone.failed) > 0) == ([], True)
