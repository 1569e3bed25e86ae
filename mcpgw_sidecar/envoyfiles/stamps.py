"""The stamps' file, which says how long decisions in Envoy's memo are valid (envoy/lua/memo.lua).

The file is small, and the sidecar changes it in place before any other effect of a change.

The file has SLOTS stamps of STAMP hexadecimal characters. The first half of a stamp is a hash of
what all decisions depend on (keys, guard, virtual servers). The second half changes when a session
of its slot ends, and only then. Behind them stands a mark for each part of the catalog: a server is
in one of PARTS, lists have one of their own. It is the hash of what decisions about these servers
depend on, so a change of one server leaves those of others valid. A decision comes with the current
stamp and mark. As long as both are in the file, the router would decide the same. So the memo is as
fresh as the router itself, in every worker, and stays valid while the sidecar is not running.

After the marks come zeros. Their number changes after each change of a stamp. Envoy reads the
length of the file, which costs less than reading the file, and reads a stamp again when the length
has changed, and once a second. So Envoy also sees the change of a process that was killed between
the change of a stamp and that of the length.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path

import trio

from mcpgw_sidecar.catalog.snapshot import EMPTY, Fingerprint, Snapshot, fingerprint
from mcpgw_sidecar.envoy.contract import MARKS, PARTS, SLOTS, STAMP, TURNS
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.ports import Stamp, Started
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

FILE = "stamps"
LOOK = 1.0  # seconds between two checks of the session keys, which announce no change
_HALF = STAMP // 2
_ALL = MARKS + (PARTS + 1) * _HALF
_WHOLE = re.compile(rb"[0-9a-f]{%d}" % _ALL)


class Brief:
    """Stands in for the file when Envoy shares none with the sidecar: entries are valid briefly."""

    def of(self, session_key: str, server: ServerName | None) -> Stamp:
        """A stamp that Envoy does not compare."""
        del session_key, server
        return Stamp(0, "", 0, "")


class StampFile:
    """The file.

    Envoy must not remember a decision until `wait_following` has read a complete catalog.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._generation: str | None = None
        self._file: int | None = None
        self._stamps = bytearray()
        self._logged_error = ""

    def of(self, session_key: str, server: ServerName | None) -> Stamp | None:
        """The stamp of a decision, or with None of a list; None if Envoy must not remember it."""
        if self._generation is None:
            return None
        slot, part = _slot(session_key), _part(server)
        text, mark = self._stamps[slot * STAMP : (slot + 1) * STAMP], self._stamps[_place(part) : _place(part + 1)]
        return Stamp(slot, text.decode(), part, mark.decode())

    def end(self, session_key: str) -> None:
        """Invalidate the decisions for a session that has ended."""
        if self._file is None:
            self._open()  # also before `wait_following`: Envoy relies on the file of the process before
        self._write(_slot(session_key) * STAMP + _HALF, secrets.token_hex(_HALF // 2).encode())

    async def wait_following(self, live: Watched[Snapshot], started: Started, depends: Callable[[], str]) -> None:
        """Change the stamps with the catalog and with the text of `depends`, for ever."""
        await started.wait_over()
        version, catalog = -1, fingerprint(EMPTY)
        marks = _marks(catalog)
        while True:
            if live.version != version:
                version, catalog = live.version, fingerprint(live.value)
                marks = _marks(catalog)
            self._turn(_hash(f"{catalog.all} {depends()}"), marks)
            with trio.move_on_after(LOOK):
                await live.wait_after(version)

    def _turn(self, generation: str, marks: bytes) -> None:
        if generation == self._generation and marks == self._stamps[MARKS:]:
            return
        if self._file is None:
            self._open()
        if self._stamps[:_HALF].decode() != generation:
            stamps = (generation + secrets.token_hex(_HALF // 2) for _ in range(SLOTS))
            self._write(0, "".join(stamps).encode())
        if marks != self._stamps[MARKS:]:
            self._write(MARKS, marks)
        if self._file is not None:
            self._generation, self._logged_error = generation, ""

    def _open(self) -> None:
        """Open the file with the stamps of the process before.

        If nothing has changed, they and the entries of the memo stay valid.
        """
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.fchmod(self._file, 0o644)  # Envoy may run as another user, whatever our umask is
            stamps = os.pread(self._file, _ALL, 0)
        except OSError as error:
            self._give_up(error)
            return
        # A file that a killed process has half written is not used.
        is_whole = (
            _WHOLE.fullmatch(stamps)
            and stamps
            == b"".join(stamps[:_HALF] + stamps[at + _HALF : at + STAMP] for at in range(0, MARKS, STAMP)) + stamps[MARKS:]
        )
        self._stamps[:] = stamps if is_whole else bytes(_ALL)

    def _write(self, at: int, data: bytes) -> None:
        self._stamps[at : at + len(data)] = data
        if self._file is None:
            return
        try:
            size = os.pwrite(self._file, data, at)
            turns = os.fstat(self._file).st_size - _ALL  # from the file, because for a moment two processes may write it
            os.ftruncate(self._file, _ALL + max(turns, 0) % TURNS + 1)
        except OSError as error:
            self._give_up(error)
            return
        if size != len(data):
            self._give_up(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _give_up(self, error: OSError) -> None:
        """Remove the file after an error, so that Envoy remembers nothing.

        Envoy checks for the file each second, and `wait_following` tries again as often.
        """
        if self._logged_error != str(error.strerror):
            self._logged_error = str(error.strerror)
            log.error("Route memo is off: its file cannot be written", file=str(self._path), error=error.strerror)
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)  # takes effect at once, also for a process that has the file open
            os.close(self._file)
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._file, self._generation = None, None


def _slot(session_key: str) -> int:
    """The slot of a session; that of the stateless era, where nothing ends, is nobody's."""
    return zlib.crc32(session_key.encode()) % (SLOTS - 1) + 1 if session_key else 0


def _part(server: ServerName | None) -> int:
    return PARTS if server is None else zlib.crc32(server.encode()) % PARTS


def _place(part: int) -> int:
    return MARKS + part * _HALF


def _marks(catalog: Fingerprint) -> bytes:
    """The marks of all parts."""
    texts: dict[int, str] = {PARTS: catalog.lists}
    for name, text in sorted(catalog.servers.items()):
        texts[_part(name)] = f"{texts.get(_part(name), '')}\n{text}"
    return "".join(_hash(texts.get(part, "")) for part in range(PARTS + 1)).encode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HALF]
