"""The file that says how long Envoy may rely on what it remembers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio
from lupa.luajit21 import LuaRuntime
from trio.testing import MockClock

from mcpgw_sidecar.catalog.snapshot import EMPTY
from mcpgw_sidecar.envoy.contract import LENGTHS, SLOTS
from mcpgw_sidecar.envoyfiles.scripts import messages
from mcpgw_sidecar.envoyfiles.stamps import StampFile
from mcpgw_sidecar.runtime.watch import Watched

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Over:
    """A start that is over."""

    def is_over(self) -> bool:
        return True

    async def wait_over(self) -> None:
        await trio.lowlevel.checkpoint()


async def followed(path: Path, depends: str = "keys") -> StampFile:
    """A process that has looked once."""
    stamps = StampFile(path)
    with trio.move_on_after(0.5):
        await stamps.wait_following(Watched(EMPTY), Over(), lambda: depends)
    return stamps


async def test_a_restart_changes_nothing_and_another_key_everything(tmp_path: Path, autojump_clock: MockClock) -> None:
    del autojump_clock
    path = tmp_path / "stamps"
    before = os.umask(0o077)
    slot, stamp = (await followed(path)).of("session") or (0, "")
    os.umask(before)
    assert path.read_text()[slot * 16 : slot * 16 + 16] == stamp
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (SLOTS * 16 + 1, 0o644)
    assert (await followed(path)).of("session") == (slot, stamp)
    changed = (await followed(path, "other keys")).of("session")
    assert changed is not None
    assert changed[1][:8] != stamp[:8]
    assert changed[1][8:] != stamp[8:]


async def test_nothing_is_to_be_remembered_before_the_catalog_is_whole(tmp_path: Path) -> None:
    assert StampFile(tmp_path / "stamps").of("session") is None


async def test_a_session_that_ends_changes_its_own_slot_also_before_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    before = (await followed(path)).of("session")
    starting = StampFile(path)
    starting.end("session")
    after = (await followed(path)).of("session")
    assert before is not None
    assert after is not None
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
    assert [length - SLOTS * 16 for length in lengths] == [2, 3, 4, 5, 6, 7]
    os.truncate(path, LENGTHS - 2)
    (await followed(path)).end("session")
    assert path.stat().st_size == SLOTS * 16 + 1


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
    slot, stamp = stamps.of("session") or (0, "")
    lua = LuaRuntime(encoding=None)
    lua.execute(f"{messages(str(path))}\nask = holds".encode())
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
    before = (await followed(path)).of("session")
    whole = path.read_bytes()
    path.write_bytes(damage + whole[len(damage) :] if len(damage) > 1 else damage)
    after = (await followed(path)).of("session")
    assert before is not None
    assert after is not None
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
    assert stamps.of("session") is None
    monkeypatch.undo()
    assert (await followed(path)).of("session") is not None
