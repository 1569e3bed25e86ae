"""The session store of a process alone: a file beside the session key, for the next process.

Each change of a session is a line (sessions/journal.py). What the process before had is read at the
start, and what another process adds meanwhile: while one drains, the next has started. A thread
writes the file anew when it has grown, without what is over. A file that cannot be read or written
costs what it would have kept.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from mcpgw_sidecar.directory.store import ReplicaNews, SharedRow, Unshared
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import AllWishes, Session
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.linefile import LineFile
from mcpgw_sidecar.sessions.journal import (
    ENDED,
    TICKET,
    UNWISH,
    WISH,
    Kept,
    bounded,
    line,
    replayed,
    ticket_text,
    wish_name,
    wish_text,
)
from mcpgw_sidecar.sessions.tickets import open_wishes, seal_wishes
from mcpgw_sidecar.sessions.tokens import SessionKeys

log = get_logger(__name__)

NAME = "sessions.journal"
LIMIT = 8 << 20  # bytes after the file is written anew: some 25,000 sessions; the oldest make room
GROWN = 1 << 20  # bytes, and as much as it had, until it is written anew
LONGEST = 64 << 20  # bytes; one that cannot be written anew grows no further
PENDING = 10_000  # lines that wait while the file cannot be written
LOOK = 0.25  # seconds between two looks at what another process has added
SWEEP = 60.0  # seconds between two looks for sessions that have expired
T = TypeVar("T")


class Journal(Unshared):
    """The store of a file. `keys` returns the session keys.

    Its rows are what other processes had, and this one has not taken yet.
    """

    def __init__(self, path: Path, keys: Callable[[], SessionKeys]) -> None:
        self._path = path
        self._keys = keys
        self._file = LineFile(path)
        self._pending: list[str] = []
        self._is_busy = False  # a thread has the file
        self._anew = LIMIT // 2  # bytes from which on the file is written anew
        self._rows: dict[str, Kept] = {}
        self._ended: list[tuple[str, int]] = []  # by another process, since the start
        self._failure: str | None = None
        self._attempt(lambda: path.parent.mkdir(parents=True, exist_ok=True), None)
        self._look()
        self._before, self._ended = self._ended, []

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self._path)

    @property
    def error(self) -> str | None:
        """Why the file cannot be written."""
        return self._failure

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """The ticket of the session with a server that the process before opened."""
        self._look()
        row = self._rows.get(session.key)
        return None if row is None else row.tickets.pop(server, None)

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """Keep a ticket, which counts."""
        del instead_of
        self._add(session, TICKET, ticket_text(server, ticket))
        return ticket

    async def wait_row(self, session: Session) -> SharedRow:
        """What the process before had of a session."""
        self._look()
        row, level, resources = self._rows.pop(session.key, None), None, dict[ServerName, frozenset[str]]()
        if row is None:
            return SharedRow()
        for sealed in row.wishes.values():
            wishes = open_wishes(self._keys(), session.key, sealed)
            level = wishes.level or level
            for server, uris in wishes.resources.items():
                resources[server] = resources.get(server, frozenset()) | uris
        return SharedRow(tickets=row.tickets, level=level, resources=resources)

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Keep a log level, or a subscription."""
        name = wish_name(session.key, field)
        row = self._rows.get(session.key)
        if row is not None:
            row.wishes.pop(name, None)  # the client's newer word, which this process has
        if value is None:
            self._add(session, UNWISH, name)
            return
        wishes = AllWishes(level=value) if field is None else AllWishes(resources={field[0]: frozenset({field[1]})})
        self._add(session, WISH, wish_text(name, seal_wishes(self._keys(), session.key, wishes)))

    async def wait_end(self, session: Session) -> SharedRow:
        """Keep the end of a session; returns what the process before had of it."""
        row = await self.wait_row(session)
        self._add(session, ENDED, "-")
        return row

    async def wait_following(self, news: ReplicaNews) -> None:
        """Report the sessions that had ended, that end elsewhere, and that expire, for ever."""
        for key, expires in self._before:
            news.ended_before(key, expires)
        self._before.clear()
        sweep = trio.current_time() + SWEEP
        while True:
            await trio.sleep(LOOK)
            self._look()
            for key, expires in self._ended:
                news.ended(key, expires)
            self._ended.clear()
            self._flush()
            await self._wait_shorter()
            if trio.current_time() >= sweep:
                sweep += SWEEP
                self._sweep(news)

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._flush()
        self._file.close()

    def _sweep(self, news: ReplicaNews) -> None:
        now = time.time()
        for key, row in [(key, row) for key, row in self._rows.items() if row.expires <= now]:
            del self._rows[key]
            news.expired(key, row.tickets.items())

    def _add(self, session: Session, what: str, text: str) -> None:
        self._pending.append(line(session.key, session.expires, what, text))
        del self._pending[:-PENDING]
        self._flush()

    def _flush(self) -> None:
        if self._pending and not self._is_busy:
            self._attempt(self._write, None)

    def _write(self) -> None:
        lines = "".join(self._pending).encode()
        if self._file.size() + len(lines) > LONGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._file.add(lines)
        self._pending.clear()
        self._failure = None

    def _look(self) -> None:
        """Read what another process has added."""
        lines: list[str] = [] if self._is_busy else self._attempt(self._file.fresh, [])
        for key in replayed(lines, time.time(), self._rows):
            row = self._rows[key]
            if row.ended:
                self._ended.append((key, row.expires))
                del self._rows[key]

    async def _wait_shorter(self) -> None:
        """Write the file anew, if it has grown."""
        size = self._attempt(self._file.size, 0)
        if size <= self._anew:
            return
        self._is_busy = True
        try:
            await trio.to_thread.run_sync(self._file.replace, _shorter)
        except OSError as error:
            self._failed(error)
            self._anew = 2 * size  # not again and again
        else:
            self._anew = 2 * self._file.size() + GROWN
        finally:
            self._is_busy = False
        self._look()

    def _attempt(self, step: Callable[[], T], default: T) -> T:
        """Do something with the file; `default` on failure, and while another process has it."""
        try:
            return step()
        except BlockingIOError:
            return default
        except OSError as error:
            self._failed(error)
            return default

    def _failed(self, error: OSError) -> None:
        words = error.strerror or type(error).__name__
        if self._failure != words:
            log.warning("Sessions are not kept for the next start", file=self.name, error=words)
        self._failure = words


def _shorter(lines: list[str]) -> str:
    """The text of the file without what is over."""
    rows: dict[str, Kept] = {}
    replayed(lines, time.time(), rows)
    return "".join(bounded(rows, LIMIT))
