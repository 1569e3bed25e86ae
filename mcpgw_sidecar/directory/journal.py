"""The session store of a process alone: a file beside the session key, for the next process.

Each change of a session is one line at the end of the file (sessions/journal.py); nothing is read
but at the start, and what another process has added meanwhile: while one drains, the next has
started. The file is written anew at the start, and when it has grown, without what is over; this
takes 0.1 s at the most, by LIMIT. A file that cannot be written costs what it would have kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import trio

from mcpgw_sidecar.directory.store import ReplicaNews, SharedRow, Unshared
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import AllWishes, Session
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.files import replace_text
from mcpgw_sidecar.sessions.journal import ENDED, TICKET, UNWISH, WISH, Kept, bounded, line, replayed, ticket_text
from mcpgw_sidecar.sessions.tickets import open_wishes, seal_wishes
from mcpgw_sidecar.sessions.tokens import SessionKeys

log = get_logger(__name__)

FILE = "sessions.journal"
LIMIT = 16 << 20  # bytes after the file is written anew: some 50,000 sessions; the oldest make room
GROWN = 1 << 20  # bytes, and as much as it had, until it is written anew
SWEEP = 60.0  # seconds between two looks for sessions that have expired


class Journal(Unshared):
    """The store of a file. `keys` returns the session keys.

    `error` says why the file cannot be written.
    """

    def __init__(self, path: Path, keys: Callable[[], SessionKeys]) -> None:
        self.name = str(path)
        self._path = path
        self._keys = keys
        self._file: int | None = None
        self._size = 0  # bytes of the file as far as this process knows
        self._read = 0  # bytes that it has read
        self._is_torn = False  # the last line may be half of one
        self._anew = 0  # bytes from which on the file is written anew
        self._rows: dict[str, Kept] = {}  # of sessions that another process wrote
        self._alone(self._write_anew)

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """The ticket of the session with a server that the process before opened."""
        row = self._row(session.key)
        return None if row is None else row.tickets.get(server)

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """Keep a ticket, which counts."""
        del instead_of
        self._add(session, TICKET, ticket_text(server, ticket))
        return ticket

    async def wait_row(self, session: Session) -> SharedRow:
        """What the process before had of a session."""
        row, level, resources = self._row(session.key), None, dict[ServerName, frozenset[str]]()
        if row is None:
            return SharedRow()
        for sealed in row.wishes:
            wishes = open_wishes(self._keys(), session.key, sealed)
            level = wishes.level or level
            for server, uris in wishes.resources.items():
                resources[server] = resources.get(server, frozenset()) | uris
        return SharedRow(tickets=dict(row.tickets), level=level, resources=resources)

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Keep a log level, or a subscription."""
        wishes = AllWishes(level=value) if field is None else AllWishes(resources={field[0]: frozenset({field[1]})})
        sealed = seal_wishes(self._keys(), session.key, wishes)
        self._add(session, WISH if value is not None else UNWISH, sealed)

    async def wait_end(self, session: Session) -> SharedRow:
        """Keep the end of a session; returns what the process before had of it."""
        row = await self.wait_row(session)
        self._add(session, ENDED, "-")
        self._rows.pop(session.key, None)
        return row

    async def wait_following(self, news: ReplicaNews) -> None:
        """Report sessions that had ended before the start, and later those that have expired."""
        for key, row in list(self._rows.items()):
            if row.ended:
                news.ended(key, row.expires)
                del self._rows[key]
        while True:
            await trio.sleep(SWEEP)
            now = time.time()
            for key, row in [(key, row) for key, row in self._rows.items() if row.expires <= now]:
                del self._rows[key]
                news.expired(key, row.tickets)

    def _row(self, key: str) -> Kept | None:
        if self._file is not None and os.fstat(self._file).st_size != self._size:
            self._alone(self._read_on)
        return self._rows.get(key)

    def _add(self, session: Session, what: str, text: str) -> None:
        if (row := self._rows.get(session.key)) is not None:
            row.take(what, text)
        data = line(session.key, session.expires, what, text).encode()

        def write(file: int) -> None:
            if self._size > self._anew:
                file = self._write_anew(file)
            start = b"\n" if self._is_torn else b""
            self._is_torn = True
            written = os.write(file, start + data)
            self._is_torn = written != len(start + data)
            self._size += written

        self._alone(write)

    def _alone(self, step: Callable[[int], object]) -> None:
        """Do something with the file while no other process does.

        Any error of the system is logged once, and costs what was to be kept.
        """
        try:
            file = self._locked()
            try:
                step(file)
            finally:
                fcntl.flock(self._file or file, fcntl.LOCK_UN)
        except OSError as error:
            self._failed(error.strerror or type(error).__name__)
        else:
            self.error = None

    def _failed(self, words: str) -> None:
        if self.error != words:
            log.error("Sessions are not kept for the next start", file=self.name, error=words)
        self.error = words

    def _locked(self) -> int:
        """The file at the path, locked: another process may just have put a new one there."""
        while True:
            if self._file is None:
                if self._anew == 0:  # the start: somebody took the directory away later
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._read, self._size = 0, -1
            fcntl.flock(self._file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == os.fstat(self._file).st_ino:
                    return self._file
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _read_on(self, file: int) -> None:
        """Read what another process has added."""
        self._size = os.fstat(file).st_size
        text = os.pread(file, self._size - self._read, self._read).decode(errors="replace")
        self._read = self._size
        replayed(text.splitlines(), time.time(), self._rows)

    def _write_anew(self, file: int) -> int:
        """Write the file anew without what is over, and return it."""
        before = os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
        rows = replayed(before.splitlines(), time.time())
        if self._anew == 0:
            self._rows = rows  # the start
        text = "".join(bounded(rows, LIMIT))
        self._anew = 2 * len(text) + GROWN
        if text != before:
            replace_text(self._path, text, mode=0o600)
            self._close()
            file = self._locked()
        self._read = self._size = os.fstat(file).st_size
        self._is_torn = False
        return file
