"""What replicas share of sessions, and how it is without a store.

A session id says all that is needed to verify it; only what happens to a session later has to be shared: that it has ended, which sessions
with servers are open for it, what its client wants to hear of, and messages that wait for its stream. All of it may be lost: then another
session with the server is opened, and no call fails (design, decision 6).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session


@attrs.frozen(kw_only=True)
class SharedRow:
    """A session as the store has it: tickets by server, the log level, subscriptions by server."""

    tickets: Mapping[ServerName, str] = attrs.field(factory=dict)
    level: str | None = None
    resources: Mapping[ServerName, frozenset[str]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Listener:
    """What a store tells of other replicas: a session has ended (key, expiry), has mail, or its row changed."""

    ended: Callable[[str, int], None]
    mail: Callable[[str], None]
    changed: Callable[[str], None]


class SessionStore(Protocol):
    """A store never fails a caller: while it is lost, every method gives what it gives without a store."""

    shared: bool
    """Whether there are other replicas to think of at all."""
    error: str | None
    """Why it is lost at the moment; None while it works."""
    name: str
    """Its URL, without a password."""

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """The ticket of the session with a server that another replica opened."""

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """Offer a ticket for all; gives the one that counts: another's, unless there was none but the dead `instead_of`."""

    async def wait_row(self, session: Session) -> SharedRow:
        """Everything of a session."""

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Keep a log level (`field` None), or that a URI of a server is subscribed to (`value` None: no longer)."""

    async def wait_end(self, session: Session) -> SharedRow:
        """End a session everywhere; gives what it had."""

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        """Leave a server's message for whichever replica has the client's stream; False when that cannot be."""

    async def wait_mail(self, session_key: str) -> list[bytes]:
        """Take the messages that wait for a client."""

    async def wait_lease(self, session_key: str, server: ServerName) -> bool:
        """Take or prolong the right to hear a server in a session, for LEASE seconds: one replica has it."""

    async def wait_following(self, listener: Listener) -> None:
        """Tell of other replicas, for ever."""


MAX_KEPT = 100  # messages of servers that are kept for a client whose stream broke
LEASE = 15.0  # seconds after which another replica may hear a server in a dead one's place


class Unshared:
    """No store: one replica, or several that each open sessions with servers of their own."""

    shared = False
    name = "memory"
    error: str | None = None

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """None is there."""
        del session, server
        return None

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """The one that was offered counts."""
        del session, server, instead_of
        return ticket

    async def wait_row(self, session: Session) -> SharedRow:
        """Nothing."""
        del session
        return SharedRow()

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Nobody else is to know."""

    async def wait_end(self, session: Session) -> SharedRow:
        """Nobody else is to know."""
        del session
        return SharedRow()

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        """Nowhere to leave it."""
        del session_key, message
        return False

    async def wait_mail(self, session_key: str) -> list[bytes]:
        """None."""
        del session_key
        return []

    async def wait_lease(self, session_key: str, server: ServerName) -> bool:
        """There is nobody else."""
        del session_key, server
        return True

    async def wait_following(self, listener: Listener) -> None:
        """Nothing is ever told."""


def seconds_left(session: Session) -> int:
    """How long a session's row has to be kept."""
    return max(1, session.expires - int(time.time()))
