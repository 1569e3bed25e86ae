"""The file that says how long Envoy may rely on what it remembers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio
from lupa.luajit21 import LuaRuntime
from trio.testing import MockClock

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.envoy.contract import LENGTHS, MARKS, PARTS, SLOTS
from mcpgw_sidecar.envoyfiles.scripts import messages
from mcpgw_sidecar.envoyfiles.stamps import StampFile
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.runtime.watch import Watched
from tests.core.test_virtual import item

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Over:
    """A start that is over."""

    def is_over(self) -> bool:
        return True

    async def wait_over(self) -> None:
        await trio.lowlevel.checkpoint()

    def is_tried(self) -> bool:
        return True

    async def wait_tried(self) -> None:
        await trio.lowlevel.checkpoint()


ONE, TWO = ServerName("ns/one"), ServerName("ns/two")
ALL = MARKS + (PARTS + 1) * 8


async def followed(path: Path, depends: str = "keys", catalog: Snapshot = EMPTY) -> StampFile:
    """A process that has looked once."""
    stamps = StampFile(path)
    with trio.move_on_after(0.5):
        await stamps.wait_following(Watched(catalog), Over(), lambda: depends)
    return stamps


def of(stamps: StampFile, session: str = "session") -> tuple[int, str]:
    """The slot and the stamp of a session."""
    stamp = stamps.of(session, ONE)
    assert stamp is not None
    return stamp.slot, stamp.text


def marks(stamps: StampFile) -> list[str]:
    """The marks of two servers and of the lists."""
    stamps_now = [stamps.of("session", name) for name in (ONE, TWO, None)]
    return [stamp.mark for stamp in stamps_now if stamp is not None]


def catalog(*tools: str) -> Snapshot:
    """A tool of one server, and these of another one."""
    servers = tuple(Server(name=name, url=f"http://{name}", hostname=name, tool_prefix=name[3:]) for name in (ONE, TWO))
    offers = {ONE: Discovered({"tool": (item("a"),)}), TWO: Discovered({"tool": tuple(item(name) for name in tools)})}
    return federate(servers, offers).snapshot


async def test_a_change_of_one_server_is_none_of_another(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    before = await followed(path, catalog=catalog("b"))
    first, session = marks(before), of(before)
    after = await followed(path, catalog=catalog("b", "c"))
    second = marks(after)
    assert second[0] == first[0]
    assert second[1] != first[1]
    assert second[2] != first[2], "lists have all servers' tools"
    assert of(after) == session
    assert path.read_bytes()[MARKS : MARKS + 8 * (PARTS + 1)].isalnum()
    assert marks(await followed(path, catalog=catalog("b"))) == first


async def test_a_restart_changes_nothing_and_another_key_everything(tmp_path: Path, autojump_clock: MockClock) -> None:
    del autojump_clock
    path = tmp_path / "stamps"
    before = os.umask(0o077)
    slot, stamp = of(await followed(path))
    os.umask(before)
    assert path.read_text()[slot * 16 : slot * 16 + 16] == stamp
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (ALL + 2, 0o644)
    assert of(await followed(path)) == (slot, stamp)
    changed = of(await followed(path, "other keys"))
    assert changed[1][:8] != stamp[:8]
    assert changed[1][8:] != stamp[8:]


async def test_nothing_is_to_be_remembered_before_the_catalog_is_whole(tmp_path: Path) -> None:
    assert StampFile(tmp_path / "stamps").of("session", ONE) is None


async def test_a_session_that_ends_changes_its_own_slot_also_before_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    before = of(await followed(path))
    starting = StampFile(path)
    starting.end("session")
    after = of(await followed(path))
    assert (after[0], after[1][:8]) == (before[0], before[1][:8])
    assert after[1] != before[1]


async def test_each_change_makes_another_length_also_after_a_restart_and_after_the_longest(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    lengths = []
    for _ in range(2):
        stamps = await followed(path)
        for _ in range(3):
            stamps.end("session")
            lengths.append(path.stat().st_size)
    assert [length - ALL for length in lengths] == [3, 4, 5, 6, 7, 8]
    os.truncate(path, LENGTHS - 2)
    (await followed(path)).end("session")
    assert path.stat().st_size == ALL + 1


async def test_two_processes_for_a_moment_make_lengths_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    first, second = await followed(path), await followed(path)
    lengths = []
    for stamps in (first, second, first, second):
        stamps.end("session")
        lengths.append(path.stat().st_size)
    assert len(set(lengths)) == len(lengths)


async def test_the_length_changes_after_what_it_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has seen a length may have looked at the bytes right after it."""
    path = tmp_path / "stamps"
    stamps = await followed(path)
    before, contents, truncate = path.read_bytes(), [], os.ftruncate

    def look(file: int, length: int) -> None:
        contents.append(path.read_bytes())
        truncate(file, length)

    monkeypatch.setattr(os, "ftruncate", look)
    stamps.end("session")
    assert len(contents[0]) == len(before)
    assert contents[0] != before


async def test_what_envoy_remembers_holds_until_its_slot_changes(tmp_path: Path) -> None:
    """Not until the next second: the length of the file says at once that something is another."""
    path = tmp_path / "stamps"
    stamps = await followed(path)
    slot, stamp = of(stamps)
    lua = LuaRuntime(encoding=None)
    lua.execute(
        messages(str(path)).replace("\nfunction envoy_on_request", "\nask = holds\nfunction envoy_on_request").encode()
    )
    entry = lua.table_from({b"slot": slot, b"stamp": stamp.encode(), b"expires": time.time() + 100, b"state": 0})
    assert lua.globals().ask(entry) is False, "what holds for all decisions was not known yet"
    for _ in range(3):
        assert lua.globals().ask(entry) is True
        stamps.end("another session")
    assert lua.globals().ask(entry) is True
    stamps.end("session")
    assert lua.globals().ask(entry) is False


@pytest.mark.parametrize("damage", [b"", b"x", b"0" * 4096, b"\x00" * 4096])
async def test_a_file_that_is_half_written_is_none(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "stamps"
    before = of(await followed(path))
    whole = path.read_bytes()
    path.write_bytes(damage + whole[len(damage) :] if len(damage) > 1 else damage)
    after = of(await followed(path))
    assert after[1] != before[1]
    assert len({path.read_bytes()[at : at + 8] for at in range(0, SLOTS * 16, 16)}) == 1


async def test_a_file_that_cannot_be_written_is_none_for_whoever_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stamps"
    stamps = await followed(path)
    with path.open("rb") as envoys:
        monkeypatch.setattr(os, "pwrite", lambda *_: 3)
        stamps.end("session")
        assert envoys.read() == b""
    assert not path.exists()
    assert stamps.of("session", ONE) is None
    monkeypatch.undo()
    assert (await followed(path)).of("session", ONE) is not None
