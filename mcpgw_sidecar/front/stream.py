"""One notification stream of a client; streams.py has all of them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable

import attrs

from mcpgw_sidecar.directory.store import MAX_KEPT
from mcpgw_sidecar.front.mail import Mail
from mcpgw_sidecar.front.waking import Sleeper
from mcpgw_sidecar.model.names import Scope
from mcpgw_sidecar.protocol.jsonrpc import notification_text, request_text
from mcpgw_sidecar.protocol.owners import PING
from mcpgw_sidecar.protocol.sse import event_bytes

RETRY = 6000  # milliseconds (interface.md): clients outlive a restart, and do not all come at once
EVERYTHING = Scope()


@attrs.define
class Client:
    """The client of a session, and its open streams.

    `state` is that of the lists that it has read, in the scope that it named last. `sent` has the
    last messages of servers on its streams, `held` those that wait for a stream; None for none.
    """

    state: str | None
    scope: Scope = EVERYTHING
    streams: list[Stream] = attrs.field(factory=list)
    sent: Mail[tuple[str, int, bytes]] | None = None
    held: Mail[bytes] | None = None

    def forget(self) -> None:
        """Give back what its messages take, because the session is over."""
        for mail in (self.sent, self.held, *(stream.relayed for stream in self.streams)):
            if mail is not None:
                mail.take()


@attrs.define(eq=False)
class Stream(Sleeper):
    """One open stream.

    `pending` are methods of the broker's own notifications, `relayed` messages of servers. `primed`
    says that the client accepts an event without data; any other gets a ping instead, which all
    SDKs answer, where the id says something of its session. `closed` ends the stream,
    and `until`, in epoch seconds.
    """

    session: str
    _owner: Client
    relayed: Mail[bytes]
    _hearing: Callable[[str], str]
    primed: bool = False
    until: float = math.inf
    _state: str = ""
    pending: set[str] = attrs.field(factory=set)
    _marked: bool = False
    _id: str = attrs.field(factory=lambda: secrets.token_hex(4))
    _number: int = 0
    _retry: int | None = RETRY

    def tell(self, method: str, state: str) -> None:
        """Send a notification soon; after it the client has read `state` of the lists."""
        self.pending.add(method)
        self._state = state
        self.wake()

    def send(self, message: bytes) -> None:
        """Send a server's message soon."""
        self.relayed.add(message, len(message))
        self.wake()

    def mark(self) -> None:
        """Send an event soon that is there for its id."""
        self._marked = True
        self.wake()

    def first_event(self) -> bytes:
        """An event without a message, so that a client has an id before the first message."""
        return self._event(b"")

    def next_event(self) -> bytes | None:
        """The bytes of the next event, or None."""
        if self.relayed:
            message = self.relayed.pop()
            self._number += 1
            if self._owner.sent is None:
                self._owner.sent = Mail(self.relayed.budget, MAX_KEPT)
            self._owner.sent.add((self._id, self._number, message), len(message))
        elif self.pending:
            message = notification_text(self.pending.pop())
            self._number += 1
            if not self.pending:
                self._owner.state = self._state
        elif self._marked:
            self._number += 1
            message = b"" if self.primed else request_text(f"{PING}{self._id}-{self._number}", "ping")
        else:
            return None
        self._marked = False
        return self._event(message)

    def _event(self, message: bytes) -> bytes:
        retry, self._retry = self._retry, None
        return event_bytes(message, self._event_id(), retry=retry)

    def _event_id(self) -> str:
        hearing = self._hearing(self.session)
        suffix = f".{hearing}" if hearing else ""
        return f"{self._id}.{self._number}.{self._owner.state or ''}{suffix}"
