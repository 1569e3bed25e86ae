"""The stamps' file: it says how long the decisions hold that Envoy remembers (envoy/lua/memo.lua).

It is small, and is changed in place before anything else learns of the change.

The file holds SLOTS stamps of STAMP hexadecimal characters. The first half of a stamp is a hash of what
all decisions depend on (catalog, keys, guard); the second half changes whenever a session of this slot
ends, and only then. A decision comes with the stamp of its moment: as long as that stands in the file,
the router would decide the same. So what Envoy remembers is as fresh as the router itself, in every
worker, and stays valid while the sidecar is away.

Behind the stamps stand zeros, whose number changes with each change of a stamp, after it. Envoy asks
for the length of the file, which costs less than to read it, and reads a stamp again when the length has
changed, and once a second: so it also sees the change of a process that was killed between the two.
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

from mcpgw_sidecar.catalog.snapshot import Snapshot, fingerprint
from mcpgw_sidecar.envoy.contract import SLOTS, STAMP, TURNS
from mcpgw_sidecar.model.ports import Started
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

FILE = "stamps"
LOOK = 1.0  # seconds between two looks at what is not announced: session keys
_HALF = STAMP // 2
_ALL = SLOTS * STAMP
_WHOLE = re.compile(rb"[0-9a-f]{%d}" % _ALL)


class Brief:
    """Stands for the file where Envoy shares none with us: a decision is remembered for a moment."""

    def of(self, session_key: str) -> tuple[int, str]:
        """A slot and a stamp that nobody compares."""
        del session_key
        return 0, ""


class StampFile:
    """The file. Until `wait_following` has looked at a complete catalog, no decision is to be remembered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._generation: str | None = None
        self._file: int | None = None
        self._stamps = bytearray()
        self._said = ""

    def of(self, session_key: str) -> tuple[int, str] | None:
        """Slot and stamp of a session, None for a decision that nobody may remember."""
        if self._generation is None:
            return None
        slot = _slot(session_key)
        return slot, self._stamps[slot * STAMP : (slot + 1) * STAMP].decode()

    def end(self, session_key: str) -> None:
        """The session has ended: nothing that was decided for it holds."""
        if self._file is None:
            self._open()  # also before the first look: Envoy relies on what the process before has left
        self._write(_slot(session_key) * STAMP + _HALF, secrets.token_hex(_HALF // 2).encode())

    async def wait_following(self, live: Watched[Snapshot], started: Started, depends: Callable[[], str]) -> None:
        """Follow what decisions depend on, for ever: the catalog, and what `depends` says."""
        await started.wait_over()
        version, catalog = -1, ""
        while True:
            if live.version != version:
                version, catalog = live.version, fingerprint(live.value)
            self._turn(hashlib.sha256(f"{catalog} {depends()}".encode()).hexdigest())
            with trio.move_on_after(LOOK):
                await live.wait_after(version)

    def _turn(self, generation: str) -> None:
        generation = generation[:_HALF]
        if generation == self._generation:
            return
        if self._file is None:
            self._open()
        if self._stamps[:_HALF].decode() != generation:
            stamps = (generation + secrets.token_hex(_HALF // 2) for _ in range(SLOTS))
            self._write(0, "".join(stamps).encode())
        if self._file is not None:
            self._generation, self._said = generation, ""

    def _open(self) -> None:
        """The file as the process before left it: what Envoy remembers since then holds if nothing has changed."""
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.fchmod(self._file, 0o644)  # Envoy may run as another user, whatever our umask is
            found = os.pread(self._file, _ALL, 0)
        except OSError as error:
            self._give_up(error)
            return
        # One that a killed process has half-written is none.
        whole = _WHOLE.fullmatch(found) and found == b"".join(
            found[:_HALF] + found[at + _HALF : at + STAMP] for at in range(0, len(found), STAMP)
        )
        self._stamps[:] = found if whole else bytes(_ALL)

    def _write(self, at: int, data: bytes) -> None:
        self._stamps[at : at + len(data)] = data
        if self._file is None:
            return
        try:
            written = os.pwrite(self._file, data, at)
            turns = os.fstat(self._file).st_size - _ALL  # of the file, not of ours: for a moment two processes may write it
            os.ftruncate(self._file, _ALL + max(turns, 0) % TURNS + 1)
        except OSError as error:
            self._give_up(error)
            return
        if written != len(data):
            self._give_up(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _give_up(self, error: OSError) -> None:
        """Without the file Envoy remembers nothing: it looks for it each second, and so do we."""
        if self._said != str(error.strerror):
            self._said = str(error.strerror)
            log.error("Route memo is off: its file cannot be written", file=str(self._path), error=error.strerror)
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)  # at once, also for whoever has it open
            os.close(self._file)
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._file, self._generation = None, None


def _slot(session_key: str) -> int:
    return zlib.crc32(session_key.encode()) % SLOTS
