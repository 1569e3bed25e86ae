"""The journal: what a process has of its sessions, the next one has too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.directory import journal as journals
from mcpgw_sidecar.directory.journal import Journal
from mcpgw_sidecar.directory.store import ReplicaNews, SharedRow
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.sessions import Session
from tests.adapters.replicas import ASKED, KEYS, ONE, FakeServer, born, dead_session, opened, running

NAME, TWO = ONE.name, ServerName("ns/two")
SESSION = Session(
    key="key",
    expires=int(time.time()) + 1000,
    protocol_version="2025-11-25",
    client_info=JsonText("{}"),
    capabilities=JsonText("{}"),
)
OTHER = attrs.evolve(SESSION, key="other")


def opened_at(path: Path) -> Journal:
    return Journal(path / "sessions.journal", lambda: KEYS)


class News:
    def __init__(self) -> None:
        self.ended: list[str] = []
        self.expired: list[tuple[str, dict[ServerName, str]]] = []

    def listener(self) -> ReplicaNews:
        return ReplicaNews(
            ended=lambda key, _expires: self.ended.append(key),
            mail=lambda _key: None,
            changed=lambda _key: None,
            expired=lambda key, tickets: self.expired.append((key, dict(tickets))),
            gone=lambda: None,
        )


@pytest.mark.duty("session.journal")
async def test_the_next_process_has_what_this_one_had(tmp_path: Path) -> None:
    before = opened_at(tmp_path)
    assert await before.wait_row(SESSION) == SharedRow()
    assert await before.wait_keep(SESSION, NAME, "t1", instead_of=None) == "t1"
    assert await before.wait_keep(SESSION, NAME, "t2", instead_of="t1") == "t2"
    for uri in ("file:///a", "file:///b"):
        await before.wait_wish(SESSION, (NAME, uri), "1")
    await before.wait_wish(SESSION, (NAME, "file:///a"), None)
    for level in ("debug", "info", "debug"):
        await before.wait_wish(SESSION, None, level)
    await before.wait_keep(OTHER, NAME, "t3", instead_of=None)
    after = opened_at(tmp_path)
    row = SharedRow(tickets={NAME: "t2"}, level="debug", resources={NAME: frozenset({"file:///b"})})
    assert (await after.wait_ticket(SESSION, NAME), await after.wait_ticket(SESSION, TWO)) == ("t2", None)
    assert await after.wait_row(SESSION) == row
    await after.wait_wish(SESSION, (NAME, "file:///b"), None)
    assert await after.wait_end(SESSION) == attrs.evolve(row, resources={})
    last, news = opened_at(tmp_path), News()
    with trio.move_on_after(0.01):
        await last.wait_following(news.listener())
    assert news.ended == ["key"]
    assert await last.wait_row(SESSION) == SharedRow()
    assert await last.wait_ticket(OTHER, NAME) == "t3"
    assert (tmp_path / "sessions.journal").stat().st_mode & 0o777 == 0o600
    assert "file:" not in (tmp_path / "sessions.journal").read_text()


async def test_two_processes_for_a_moment_know_what_each_other_does(tmp_path: Path) -> None:
    """One drains while the next one is there already, and has written the file anew."""
    draining = opened_at(tmp_path)
    for number in range(3):
        await draining.wait_keep(SESSION, NAME, f"t{number}", instead_of=None)
    started = opened_at(tmp_path)
    await draining.wait_keep(OTHER, NAME, "late", instead_of=None)
    await started.wait_keep(SESSION, TWO, "mine", instead_of=None)
    assert await started.wait_ticket(OTHER, NAME) == "late"
    assert await started.wait_ticket(SESSION, NAME) == "t2"
    await draining.wait_keep(OTHER, NAME, "later", instead_of=None)
    assert await started.wait_ticket(OTHER, NAME) == "later"
    last = opened_at(tmp_path)
    assert [await last.wait_ticket(SESSION, name) for name in (NAME, TWO)] == ["t2", "mine"]


async def test_it_is_written_anew_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "GROWN", 2000)
    monkeypatch.setattr(journals, "LIMIT", 1000)
    path, journal, sizes = tmp_path / "sessions.journal", opened_at(tmp_path), []
    for number in range(200):
        session = attrs.evolve(SESSION, key=f"s{number}")
        await journal.wait_keep(session, NAME, "t" * 50, instead_of=None)
        sizes.append(path.stat().st_size)
    assert max(sizes) < 5000
    assert await opened_at(tmp_path).wait_ticket(attrs.evolve(SESSION, key="s199"), NAME)
    assert not await opened_at(tmp_path).wait_ticket(attrs.evolve(SESSION, key="s0"), NAME), "the oldest make room"


async def test_a_line_that_a_killed_process_has_half_written_costs_itself(tmp_path: Path) -> None:
    path, journal = tmp_path / "sessions.journal", opened_at(tmp_path)
    await journal.wait_keep(SESSION, NAME, "t1", instead_of=None)
    await journal.wait_keep(OTHER, NAME, "t2", instead_of=None)
    path.write_bytes(path.read_bytes()[:-20] + b"\xff")
    journal = opened_at(tmp_path)
    assert (await journal.wait_ticket(SESSION, NAME), await journal.wait_ticket(OTHER, NAME)) == ("t1", None)


async def test_a_file_that_cannot_be_written_fails_no_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, write = opened_at(tmp_path), os.write
    await journal.wait_keep(SESSION, NAME, "t1", instead_of=None)

    def full(file: int, data: bytes) -> int:
        if data.startswith(b"key"):
            write(file, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        assert await journal.wait_keep(SESSION, NAME, "t2", instead_of="t1") == "t2"
    assert journal.error == "No space left on device"
    monkeypatch.undo()
    await journal.wait_keep(OTHER, NAME, "t3", instead_of=None)
    assert journal.error is None
    after = opened_at(tmp_path)
    assert (await after.wait_ticket(SESSION, NAME), await after.wait_ticket(OTHER, NAME)) == ("t1", "t3")
    nowhere = Journal(tmp_path / "sessions.journal" / "no directory", lambda: KEYS)
    assert nowhere.error
    assert await nowhere.wait_keep(SESSION, NAME, "t", instead_of=None) == "t"
    assert await nowhere.wait_row(SESSION) == SharedRow()


@pytest.mark.duty("session.upstream-delete")
async def test_sessions_of_the_process_before_are_closed_when_they_expire(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    del autojump_clock
    server = FakeServer()
    async with running(server, opened_at(tmp_path)) as replica:
        _, session = born(replica)
        await opened(replica, session)
        _, other = born(replica)
        await opened(replica, other)
    async with running(server, opened_at(tmp_path)) as replica:
        await replica.directory.wait_ended(session, {})
        await trio.sleep(1)
        assert server.closed == [("u1", ONE.url)], "DELETE closes what the process before has opened"
        monkeypatch.setattr(time, "time", lambda: session.expires + 10.0)
        await trio.sleep(2 * journals.SWEEP)
        assert server.closed == [("u1", ONE.url), ("u2", ONE.url)]


@pytest.mark.duty("session.journal")
async def test_a_client_that_comes_back_without_an_id_is_heard_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Also in a session that its server has forgotten; and it is told of what nobody heard."""
    del autojump_clock
    server = FakeServer()
    async with running(server, opened_at(tmp_path)) as replica:
        token, session = born(replica)
        await opened(replica, session)
        replica.directory.subscribed(session, ONE, "file:///a", wanted=True)
        replica.directory.set_level(session, "debug", {})
        await trio.sleep(1)
        assert list(server.heard) == ["u1"]
    assert not server.heard
    async with running(server, opened_at(tmp_path)) as replica:
        replica.state(token)
        stream = replica.streams.open(session.key)
        replica.directory.stream_here(session, {})
        await trio.sleep(1)
        assert list(server.heard) == ["u1"]
        assert [b"file:///a" in message for message in stream.relayed] == [True]
        server.results.clear()
        server.open.clear()
        await replica.directory.wait_healed(session, ONE, dead_session("u1"), {})
        await trio.sleep(3)
        assert [(ident, method) for ident, method, _ in server.results] == [
            ("u2", "logging/setLevel"),
            ("u2", "resources/subscribe"),
        ]


async def test_a_call_after_a_restart_goes_on_in_the_session_with_its_server(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    del autojump_clock
    server = FakeServer()
    async with running(server, opened_at(tmp_path)) as replica:
        token, session = born(replica, ASKED)
        await opened(replica, session)
    async with running(server, opened_at(tmp_path)) as replica:
        replica.state(token)
        await opened(replica, session)
        assert (replica.upstream(token), server.count) == ("u1", 1)
