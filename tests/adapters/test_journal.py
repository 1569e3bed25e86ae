"""The journal: what a process has of its sessions, the next one has too."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.directory import journalfile as journals
from mcpgw_sidecar.directory.journalfile import Journal
from mcpgw_sidecar.directory.store import ReplicaNews, SharedRow
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.sessions.journal import bounded
from mcpgw_sidecar.sessions.tokens import parse_keys
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
        self.before: list[str] = []
        self.expired: list[tuple[str, dict[ServerName, str]]] = []

    def listener(self) -> ReplicaNews:
        return ReplicaNews(
            ended=lambda key, _expires: self.ended.append(key),
            ended_before=lambda key, _expires: self.before.append(key),
            mail=lambda _key: None,
            changed=lambda _key: None,
            client_message=lambda _key: None,
            expired=lambda key, tickets: self.expired.append((key, dict(tickets))),
            gone=lambda: None,
            missed=lambda: None,
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
    assert await after.wait_row(SESSION) == attrs.evolve(row, tickets={}), "each is taken once"
    after = opened_at(tmp_path)
    await after.wait_wish(SESSION, (NAME, "file:///b"), None)
    assert await after.wait_end(SESSION) == attrs.evolve(row, resources={})
    assert await after.wait_row(SESSION) == SharedRow()
    last, news = opened_at(tmp_path), News()
    with trio.move_on_after(0.01):
        await last.wait_following(news.listener())
    assert (news.before, news.ended) == (["key"], [])
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


async def test_an_end_while_two_processes_overlap_counts_at_both(tmp_path: Path) -> None:
    """The one that drains still answers a DELETE."""
    draining, started, news = opened_at(tmp_path), opened_at(tmp_path), News()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(started.wait_following, news.listener())
        await draining.wait_keep(SESSION, NAME, "t", instead_of=None)
        await draining.wait_end(SESSION)
        with trio.fail_after(10):
            while not news.ended:  # noqa: ASYNC110  # a file says it
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert (news.ended, news.before) == (["key"], [])
    assert await started.wait_ticket(SESSION, NAME) is None


async def test_it_is_written_anew_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    del autojump_clock
    for name, size in (("GROWN", 2000), ("LIMIT", 1000)):
        monkeypatch.setattr(journals, name, size)
    path, journal, sizes = tmp_path / "sessions.journal", opened_at(tmp_path), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.wait_following, News().listener())
        for number in range(200):
            session = attrs.evolve(SESSION, key=f"s{number}")
            await journal.wait_keep(session, NAME, "t" * 50, instead_of=None)
            await trio.sleep(journals.LOOK)
            while journal._is_busy:  # noqa: ASYNC110  # a thread, for which the clock does not wait
                await trio.sleep(0.01)
            sizes.append(path.stat().st_size)
        nursery.cancel_scope.cancel()
    assert max(sizes) < 5000
    assert await opened_at(tmp_path).wait_ticket(attrs.evolve(SESSION, key="s199"), NAME)
    assert not await opened_at(tmp_path).wait_ticket(attrs.evolve(SESSION, key="s0"), NAME), "the oldest make room"


async def test_what_is_said_while_it_is_written_anew_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "LIMIT", 1000)
    journal, other, going, go = opened_at(tmp_path), opened_at(tmp_path), threading.Event(), threading.Event()
    await journal.wait_keep(SESSION, NAME, "t" * 600, instead_of=None)

    def slow(rows: Any, limit: int) -> list[str]:
        going.set()
        go.wait(10)
        return bounded(rows, limit)

    monkeypatch.setattr(journals, "bounded", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.wait_following, News().listener())
        await trio.to_thread.run_sync(going.wait)
        await journal.wait_keep(OTHER, NAME, "mine", instead_of=None)
        await other.wait_keep(OTHER, TWO, "theirs", instead_of=None)
        assert other._pending, "the lock is not waited for"
        go.set()
        with trio.fail_after(10):
            while journal._pending:  # noqa: ASYNC110  # a thread ends
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    other.close()
    last = opened_at(tmp_path)
    assert [await last.wait_ticket(OTHER, name) for name in (NAME, TWO)] == ["mine", "theirs"]
    assert await last.wait_ticket(SESSION, NAME) == "t" * 600


async def test_one_that_cannot_be_written_anew_grows_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    del autojump_clock
    for name, size in (("GROWN", 100), ("LIMIT", 200), ("LONGEST", 2000)):
        monkeypatch.setattr(journals, name, size)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mcpgw_sidecar.runtime.linefile.replace_text", refuse)
    path, journal = tmp_path / "sessions.journal", opened_at(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.wait_following, News().listener())
        for number in range(100):
            await journal.wait_keep(attrs.evolve(SESSION, key=f"s{number}"), NAME, "t" * 50, instead_of=None)
            await trio.sleep(journals.LOOK)
        nursery.cancel_scope.cancel()
    assert journal.error
    assert path.stat().st_size <= 2000


async def test_a_lock_of_somebody_else_is_not_waited_for(tmp_path: Path) -> None:
    """Anybody who may read the file could have stopped the process."""
    journal = opened_at(tmp_path)
    with (tmp_path / "sessions.journal").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert await journal.wait_keep(SESSION, NAME, "t", instead_of=None) == "t"
        assert await opened_at(tmp_path).wait_ticket(SESSION, NAME) is None
    await journal.wait_keep(OTHER, NAME, "t2", instead_of=None)
    after = opened_at(tmp_path)
    assert (await after.wait_ticket(SESSION, NAME), await after.wait_ticket(OTHER, NAME)) == ("t", "t2")


async def test_nobody_else_may_read_it_and_a_link_is_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "sessions.journal", tmp_path / "other"
    path.write_text("")
    path.chmod(0o644)
    opened_at(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    path.symlink_to(other)
    assert opened_at(tmp_path).error
    assert not other.exists()


async def test_an_unsubscription_counts_whatever_key_is_the_first(tmp_path: Path) -> None:
    keys = [KEYS]
    journal = Journal(tmp_path / "sessions.journal", lambda: keys[0])
    await journal.wait_wish(SESSION, (NAME, "file:///a"), "1")
    keys[0] = parse_keys(f"{'n' * 40}\n{'k' * 40}", "test")
    await journal.wait_wish(SESSION, (NAME, "file:///b"), "1")
    await journal.wait_wish(SESSION, (NAME, "file:///a"), None)
    after = Journal(tmp_path / "sessions.journal", lambda: keys[0])
    assert (await after.wait_row(SESSION)).resources == {NAME: frozenset({"file:///b"})}


async def test_a_line_that_a_killed_process_has_half_written_costs_itself(tmp_path: Path) -> None:
    path, journal = tmp_path / "sessions.journal", opened_at(tmp_path)
    await journal.wait_keep(SESSION, NAME, "t1", instead_of=None)
    await journal.wait_keep(OTHER, NAME, "t2", instead_of=None)
    path.write_bytes(path.read_bytes()[:-3])
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
    assert (await after.wait_ticket(SESSION, NAME), await after.wait_ticket(OTHER, NAME)) == ("t2", "t3")
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
        await replica.directory.wait_ended(session)
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
        replica.directory.set_level(session, "debug")
        await trio.sleep(1)
        assert list(server.heard) == ["u1"]
    assert not server.heard
    async with running(server, opened_at(tmp_path)) as replica:
        replica.state(token)
        stream = replica.streams.open(session.key)
        replica.directory.stream_here(session)
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
