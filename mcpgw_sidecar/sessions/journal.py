"""The lines of the journal, which keeps what a session has over a restart without a store.

`<session> <expires> <what> <text>`: `ticket <server>=<ticket>` (without a ticket: the session with
the server is dead), `wish <sealed>` and `unwish <sealed>` (sessions/tickets.py), and `ended`. A
later line of the same session counts. Tickets and wishes are sealed with the gateway's key; the
name of a session opens nothing without it. A line that cannot be read is left out: a process that
was killed may have written half of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote

import attrs

from mcpgw_sidecar.model.names import ServerName

TICKET: Final = "ticket"
WISH: Final = "wish"
UNWISH: Final = "unwish"
ENDED: Final = "ended"
_WORDS = 4


@attrs.define
class Kept:
    """What is kept of a session: the tickets of its sessions with servers, and sealed wishes."""

    expires: int
    ended: bool = False
    tickets: dict[ServerName, str] = attrs.field(factory=dict)
    wishes: dict[str, None] = attrs.field(factory=dict)

    def take(self, what: str, text: str) -> None:
        """Take a later line; nothing comes after the end."""
        if self.ended:
            return
        if what == TICKET:
            name, _, ticket = text.partition("=")
            self.tickets.pop(ServerName(unquote(name)), None)
            if ticket:
                self.tickets[ServerName(unquote(name))] = ticket
        elif what == WISH:
            self.wishes.pop(text, None)  # a level that is set again counts again
            self.wishes[text] = None
        elif what == UNWISH:
            self.wishes.pop(text, None)
        elif what == ENDED:
            self.ended = True
            self.tickets.clear()
            self.wishes.clear()

    def lines(self, key: str) -> list[str]:
        """The lines that say all this."""
        if self.ended:
            return [line(key, self.expires, ENDED)]
        tickets = [line(key, self.expires, TICKET, ticket_text(name, ticket)) for name, ticket in self.tickets.items()]
        return [*tickets, *(line(key, self.expires, WISH, text) for text in self.wishes)]


def line(key: str, expires: int, what: str, text: str = "-") -> str:
    """One line, with its end."""
    return f"{key} {expires} {what} {text}\n"


def ticket_text(server: ServerName, ticket: str | None) -> str:
    """The text of a line about a session with a server; None says that it is dead."""
    return f"{quote(server, safe='/')}={ticket or ''}"


def replayed(lines: Iterable[str], now: float, rows: dict[str, Kept] | None = None) -> dict[str, Kept]:
    """What the lines say of each session that has not expired, the oldest first.

    With `rows`, the lines come after what these say.
    """
    rows = {} if rows is None else rows
    for text in lines:
        words = text.rstrip("\n").split(" ")
        if len(words) != _WORDS or not (words[1].isascii() and words[1].isdecimal()) or int(words[1]) <= now:
            continue
        key, expires, what, rest = words
        row = rows.get(key)
        if row is None:
            row = rows[key] = Kept(int(expires))
        row.take(what, rest)
    return rows


def bounded(rows: Mapping[str, Kept], limit: int) -> list[str]:
    """The lines of rows, at most `limit` characters: the oldest sessions go first, ends last."""
    kept: list[str] = []
    for is_ended in (True, False):
        for key, row in reversed(list(rows.items())):
            lines = row.lines(key) if row.ended is is_ended else []
            limit -= sum(map(len, lines))
            if limit < 0:
                return kept[::-1]
            kept += reversed(lines)
    return kept[::-1]
