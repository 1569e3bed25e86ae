"""A file of lines to which two processes add for a moment: one drains, the next has started.

Who writes holds a lock of the file, and never waits for it in the event loop. Whole lines alone are
read; lines of this process are not. The file may be replaced by a shorter one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from mcpgw_sidecar.runtime.files import replace_text

_PATIENCE = 1.0  # seconds that a thread waits for the lock
_AGAIN = 0.01


class LineFile:
    """The file at a path, which is made if it is missing; only its owner may read it.

    Its methods raise OSError, BlockingIOError while another process has the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._read = 0  # bytes that this process has read or written
        self._fresh: list[str] = []

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def size(self) -> int:
        """Its length in bytes."""
        return os.fstat(self._opened()).st_size

    def fresh(self) -> list[str]:
        """The lines that another process has added since the last call."""
        self._fetch(self._opened())
        fresh, self._fresh = self._fresh, []
        return fresh

    def add(self, lines: bytes) -> None:
        """Add lines, each with its end; all of them are there afterwards, or this raises."""
        file = self._locked()
        try:
            self._fetch(file)
            size = os.fstat(file).st_size
            is_torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # a process was killed, or the disk is full
            data = b"\n" + lines if is_torn else lines
            written = os.write(file, data)
            self._read = size + written
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def replace(self, change: Callable[[list[str]], str]) -> None:
        """Write the file anew: `change` makes its text of its lines. To run in a thread."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                file = self._locked()
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(_AGAIN)
        try:
            self._fetch(file)
            size = os.fstat(file).st_size
            text = change(os.pread(file, size, 0).decode(errors="replace").splitlines())
            replace_text(self._path, text, mode=0o600)
            self.close()
            self._read = os.fstat(self._opened()).st_size
        finally:
            if self._file == file:
                fcntl.flock(file, fcntl.LOCK_UN)  # else it was closed, and the lock with it

    def _opened(self) -> int:
        """The file that is at the path now."""
        if self._file is not None:
            try:
                if os.stat(self._path).st_ino == os.fstat(self._file).st_ino:
                    return self._file
            except FileNotFoundError:
                pass
            self.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        os.fchmod(self._file, 0o600)
        self._read = 0
        return self._file

    def _locked(self) -> int:
        file = self._opened()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = os.fstat(file).st_ino
        file = self._opened()
        if os.fstat(file).st_ino != locked:
            raise BlockingIOError(errno.EAGAIN, "another process has just replaced the file")
        return file

    def _fetch(self, file: int) -> None:
        size = os.fstat(file).st_size
        if size > self._read:
            whole, _, _ = os.pread(file, size - self._read, self._read).rpartition(b"\n")
            if whole:
                self._fresh += whole.decode(errors="replace").split("\n")
                self._read += len(whole) + 1
