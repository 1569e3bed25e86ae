"""The lines of the journal, which keeps what a session has over a restart without a store.

`<session> <expires> <what> <text> .`, where what and text are `ticket <server>=<ticket>`,
`wish <name>=<sealed>`, `unwish <name>` (sessions/tickets.py), or `ended -`. A later line of a
session counts. Tickets and wishes are sealed with the gateway's key; the name of a session opens
nothing without it, and that of a wish is a hash. A line that cannot be read, or has no full stop,
is left out: a process that was killed may have written half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final, TypeVar
from urllib.parse import quote, unquote

import attrs

from mcpgw_sidecar.model.names import ServerName

TICKET: Final = "ticket"
WISH: Final = "wish"
UNWISH: Final = "unwish"
ENDED: Final = "ended"
MAX_WISHES: Final = 500  # of a session; one more and the oldest is not kept
MAX_TICKETS: Final = 500
_WORDS: Final = 5
_DIGITS: Final = 12  # of a time in seconds
K = TypeVar("K")


@attrs.define
class Kept:
    """What is kept of a session: tickets of its sessions with servers, sealed wishes by name."""

    expires: int
    ended: bool = False
    tickets: dict[ServerName, str] = attrs.field(factory=dict)
    wishes: dict[str, str] = attrs.field(factory=dict)

    def take(self, what: str, text: str) -> None:
        """Take a later line; nothing comes after the end."""
        name, _, rest = text.partition("=")
        if self.ended:
            return
        if what == TICKET:
            _put(self.tickets, ServerName(unquote(name)), rest, MAX_TICKETS)
        elif what == WISH:
            _put(self.wishes, name, rest, MAX_WISHES)
        elif what == UNWISH:
            self.wishes.pop(name, None)
        elif what == ENDED:
            self.ended = True
            self.tickets.clear()
            self.wishes.clear()

    def lines(self, key: str) -> list[str]:
        """The lines that say all this."""
        if self.ended:
            return [line(key, self.expires, ENDED)]
        tickets = [line(key, self.expires, TICKET, ticket_text(name, ticket)) for name, ticket in self.tickets.items()]
        return [*tickets, *(line(key, self.expires, WISH, wish_text(*wish)) for wish in self.wishes.items())]


def line(key: str, expires: int, what: str, text: str = "-") -> str:
    """One line, with its end."""
    return f"{key} {expires} {what} {text} .\n"


def ticket_text(server: ServerName, ticket: str) -> str:
    """The text of a line about a session with a server."""
    return f"{quote(server, safe='/')}={ticket}"


def wish_name(session_key: str, field: tuple[ServerName, str] | None) -> str:
    """The name of a subscription to a URI of a server, or of the log level (None).

    It is the same whatever key seals the wish.
    """
    if field is None:
        return "level"
    return blake2b("\n".join(field).encode(), digest_size=8, key=session_key.encode()[:64]).hexdigest()


def wish_text(name: str, sealed: str) -> str:
    """The text of a line about a wish."""
    return f"{name}={sealed}"


def replayed(lines: Iterable[str], now: float, rows: dict[str, Kept]) -> list[str]:
    """Add to rows what later lines say of sessions that have not expired; returns their keys."""
    keys: dict[str, None] = {}
    for text in lines:
        words = text.split(" ")
        if len(words) != _WORDS or words[-1] != "." or not _is_time(words[1]) or int(words[1]) <= now:
            continue
        key, expires, what, rest, _ = words
        row = rows.get(key)
        if row is None:
            row = rows[key] = Kept(int(expires))
        row.take(what, rest)
        keys[key] = None
    return list(keys)


def bounded(rows: Mapping[str, Kept], limit: int) -> list[str]:
    """The lines of rows, at most `limit` characters: the oldest sessions go first, ends last."""
    kept: list[str] = []
    for is_ended in (True, False):
        for key, row in reversed(list(rows.items())):
            lines = row.lines(key) if row.ended is is_ended else []
            size = sum(map(len, lines))
            if size <= limit:  # one that is too long for itself takes no other along
                limit -= size
                kept += reversed(lines)
    return kept[::-1]


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


def _put(values: dict[K, str], name: K, value: str, limit: int) -> None:
    values.pop(name, None)  # what is said again is the newest
    if value:
        values[name] = value
    if len(values) > limit:
        del values[next(iter(values))]
