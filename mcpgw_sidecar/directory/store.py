"""The session store, which replicas share, and the stand-in for it; journalfile.py has another.

A session id contains everything to verify it, so replicas share only what happens to a session
later: its end, its upstream sessions, the wishes of its client, and messages that wait for its
stream. All of it may be lost: then the next call opens another upstream session, and no call fails
(design, decision 6).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import attrs
import trio

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session


@attrs.frozen(kw_only=True)
class SharedRow:
    """The row of a session in the store: tickets by server, log level, subscriptions by server.

    `spare` has tickets that do not count, but whose sessions are open.
    """

    tickets: Mapping[ServerName, str] = attrs.field(factory=dict)
    spare: tuple[tuple[ServerName, str], ...] = ()
    level: str | None = None
    resources: Mapping[ServerName, frozenset[str]] = attrs.field(factory=dict)

    @property
    def all_tickets(self) -> list[tuple[ServerName, str]]:
        """Those of all sessions that are open."""
        return [*self.tickets.items(), *self.spare]


@attrs.frozen(kw_only=True)
class ReplicaNews:
    """Callbacks for the news of other replicas.

    They say that a session has ended (key, expiry), had ended before this process started, has
    mail, or that its row has changed; that its client has said something to a call;
    that a session is over whose sessions with servers nobody has closed, with their tickets; that a
    replica has gone; or that news may have been missed.
    """

    ended: Callable[[str, int], None]
    ended_before: Callable[[str, int], None]
    mail: Callable[[str], None]
    changed: Callable[[str], None]
    client_message: Callable[[str], None]
    expired: Callable[[str, Iterable[tuple[ServerName, str]]], None]
    gone: Callable[[], None]
    missed: Callable[[], None]


class SessionStore(Protocol):
    """The session store. It never fails a caller.

    While the store does not answer, each method returns what it returns without a store.
    """

    shared: bool
    """Whether there may be other replicas."""

    @property
    def error(self) -> str | None:
        """Why the store does not answer; None while it works."""

    @property
    def name(self) -> str:
        """The URL of the store, without a password."""

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """The ticket of the session with a server that another replica opened."""

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """Offer a ticket to all replicas; returns the ticket that counts.

        That is the ticket of another replica, unless there is none, or only `instead_of`, whose
        session is dead.
        """

    async def wait_row(self, session: Session) -> SharedRow:
        """The row of a session."""

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Store a log level (`field` is None), or a subscription to a URI of a server.

        With `value` None it removes the subscription.
        """

    async def wait_end(self, session: Session) -> SharedRow:
        """End a session at all replicas; returns its row."""

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        """Leave a server's message for the replica with the client's stream; False on failure."""

    async def wait_mail(self, session_key: str) -> list[bytes]:
        """Take the messages that wait for a client."""

    async def wait_client_message(self, session_key: str, message: bytes) -> bool:
        """Leave what a client says to a call for the replica that carries it; False on failure."""

    async def wait_client_messages(self, session_key: str) -> list[bytes] | None:
        """What a client has said to calls, as far as nobody has taken it; None on failure."""

    async def wait_client_message_taken(self, session_key: str, message: bytes) -> None:
        """Remove what a client has said to a call."""

    async def wait_token(self, key: str) -> str | None:
        """A sealed token of a caller for a server, that another replica has kept."""

    async def wait_token_kept(self, key: str, sealed: str, seconds: int) -> None:
        """Keep a sealed token for all replicas, for some seconds."""

    async def wait_lease(self, session_key: str, server: ServerName, waiting: Callable[[], None]) -> bool:
        """Wait for the lease to listen to a session with a server; True if another replica had it.

        Then `waiting` is called first. One replica has it at a time: until `release`, or its end. A
        replica that is killed loses its leases after LEASE seconds.
        """

    async def wait_lease_lost(self, session_key: str, server: ServerName) -> None:
        """Wait until another replica has taken a lease of this one, which seemed to have ended."""

    def release(self, session_key: str, server: ServerName) -> None:
        """Give a lease back soon."""

    async def wait_left(self) -> None:
        """Give all leases back and take no other, because this replica ends."""

    async def wait_following(self, news: ReplicaNews) -> None:
        """Report the news of other replicas, for ever."""


MAX_KEPT = 100  # messages of servers that are kept for a client whose stream broke
MAX_SAID = 20  # messages of one client to its calls that wait for the replicas that carry these
LEASE = 5.0  # seconds after which another replica may listen in place of one that is dead


class Unshared:
    """Stands in for a store: there is one replica, or each opens upstream sessions of its own."""

    shared = False

    @property
    def error(self) -> str | None:
        """It always works."""
        return None

    @property
    def name(self) -> str:
        """What stands in place of a URL."""
        return "memory"

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        """No ticket."""
        del session, server
        return None

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        """The ticket itself, which counts."""
        del session, server, instead_of
        return ticket

    async def wait_row(self, session: Session) -> SharedRow:
        """An empty row."""
        del session
        return SharedRow()

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        """Store nothing."""

    async def wait_end(self, session: Session) -> SharedRow:
        """Store nothing; returns an empty row."""
        del session
        return SharedRow()

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        """False, because there is no other replica."""
        del session_key, message
        return False

    async def wait_client_message(self, session_key: str, message: bytes) -> bool:
        """False, because there is no other replica."""
        del session_key, message
        return False

    async def wait_client_messages(self, session_key: str) -> list[bytes]:
        """Nothing was left."""
        del session_key
        return []

    async def wait_client_message_taken(self, session_key: str, message: bytes) -> None:
        """Nothing was left."""

    async def wait_token(self, key: str) -> str | None:
        """No token."""
        del key
        return None

    async def wait_token_kept(self, key: str, sealed: str, seconds: int) -> None:
        """Keep nothing."""

    async def wait_mail(self, session_key: str) -> list[bytes]:
        """No messages."""
        del session_key
        return []

    async def wait_lease(self, session_key: str, server: ServerName, waiting: Callable[[], None]) -> bool:
        """False, because there is no other replica."""
        del session_key, server, waiting
        return False

    async def wait_lease_lost(self, session_key: str, server: ServerName) -> None:
        """For ever."""
        del session_key, server
        await trio.sleep_forever()

    def release(self, session_key: str, server: ServerName) -> None:
        """Nothing to give back."""

    async def wait_left(self) -> None:
        """Nothing to give back."""

    async def wait_following(self, news: ReplicaNews) -> None:
        """Report nothing."""


def seconds_left(session: Session) -> int:
    """The time for which a session's row has to be kept."""
    return max(1, session.expires - int(time.time()))
