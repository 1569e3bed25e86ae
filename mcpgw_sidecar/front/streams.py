"""The notification streams of clients (GET), and the messages that each client has still to get.

Changes of lists wait as a set of kinds, not as a queue: ten changes while a client is slow are one
notification. Messages of servers wait in a queue with a limit: a client that does not read loses
the oldest, and no other client loses anything.

Nothing is lost between two streams either. The id of an event is
`<stream>.<number>.<state>[.<hearing>]`: the stream, the number of the event there, the state of the
lists that the client has read, the tickets of the upstream sessions that the gateway listens to for
the client, and the client's sealed wishes (protocol/owners.py). A client that comes back with the
id (`Last-Event-ID`) gets the notifications since that state, also from a process that it has never
used, and the last messages of servers, which are kept for it. A client that comes back without an
id gets the notifications since its last stream here. If this process does not know the client at
all, it gets all notifications.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Literal

import attrs
import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot, changes
from mcpgw_sidecar.catalog.views import state_of
from mcpgw_sidecar.directory.store import MAX_KEPT
from mcpgw_sidecar.model.names import Scope, VirtualName
from mcpgw_sidecar.model.servers import VirtualServer
from mcpgw_sidecar.protocol.jsonrpc import notification_text
from mcpgw_sidecar.protocol.sse import event_bytes
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.sessions.rows import MAX_SESSIONS

COLLECT = 0.1  # seconds in which changes that come together become one notification
COALESCE = 0.5  # seconds between two notifications of one kind; tests of clients wait a little longer for one
MAX_RELAYED = 1000  # messages of servers that wait for a slow client
RETRY = 6000  # milliseconds (interface.md): clients outlive a restart, and do not all come at once
_EVERYTHING = Scope()
PER_SESSION = 4  # open streams of one session; with one more the oldest ends


@attrs.define
class _Client:
    """The client of a session, and its open streams.

    `state` is that of the lists that it has read, in the scope that it named last. `sent` has the
    last messages of servers on its streams, `held` those that wait for a stream; None for none.
    """

    state: str | None
    scope: Scope = _EVERYTHING
    streams: list[Stream] = attrs.field(factory=list)
    sent: deque[tuple[str, int, bytes]] | None = None
    held: deque[bytes] | None = None


@attrs.define(eq=False)
class Stream:
    """One open stream.

    `pending` are methods of the broker's own notifications, `relayed` messages of servers. `primed`
    says that the client accepts an event without data. `closed` ends the stream.
    """

    session: str
    _owner: _Client
    _hearing: Callable[[str], str]
    primed: bool = False
    _state: str = ""
    pending: set[str] = attrs.field(factory=set)
    relayed: list[bytes] = attrs.field(factory=list)  # an empty deque takes 600 bytes, in each of ten thousand streams
    closed: bool = False
    _marked: bool = False
    _id: str = attrs.field(factory=lambda: secrets.token_hex(4))
    _number: int = 0
    _retry: int | None = RETRY
    _news: bool = False
    _waiting: trio.CancelScope | None = None

    def tell(self, method: str, state: str) -> None:
        """Send a notification soon; after it the client has read `state` of the lists."""
        self.pending.add(method)
        self._state = state
        self._wake()

    def send(self, message: bytes) -> None:
        """Send a server's message soon."""
        if len(self.relayed) >= MAX_RELAYED:
            del self.relayed[0]
        self.relayed.append(message)
        self._wake()

    def mark(self) -> None:
        """Send an event without data soon, for its id, if the client accepts it (`primed`)."""
        self._marked = self.primed
        self._wake()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._news = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def wait_news(
        self, other: Callable[[], Awaitable[object]] = trio.sleep_forever, seconds: float = math.inf
    ) -> Literal["news", "silence", "other"]:
        """Wait until there is something to send, or the stream is closed, or `other` has returned.

        It waits `seconds` at most. One task waits for all: a second task for each idle stream would
        take more memory than the rest of the stream.
        """
        with trio.move_on_after(seconds) as self._waiting:
            if self._news:
                self._waiting.cancel()
            await other()
            return "other"
        outcome: Literal["news", "silence"] = "news" if self._news else "silence"
        self._waiting, self._news = None, False
        return outcome

    def first_event(self) -> bytes:
        """An event without a message, so that a client has an id before the first message."""
        return self._event(b"")

    def next_event(self) -> bytes | None:
        """The bytes of the next event, or None."""
        if self.relayed:
            message = self.relayed.pop(0)
            self._number += 1
            if self._owner.sent is None:
                self._owner.sent = deque(maxlen=MAX_KEPT)
            self._owner.sent.append((self._id, self._number, message))
        elif self.pending:
            message = notification_text(self.pending.pop())
            self._number += 1
            if not self.pending:
                self._owner.state = self._state
        elif self._marked:
            message = b""
            self._number += 1
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


class Streams:
    """All open streams, by session.

    A message goes to the newest stream of a session (basic/transports, Multiple Connections).
    `hearing` returns the part of an event's id with the upstream sessions and wishes of a session.
    """

    def __init__(self, live: Watched[Snapshot], hearing: Callable[[str], str]) -> None:
        self._live = live
        self._hearing = hearing
        self._clients: dict[str, _Client] = {}

    def greet(self, session: str, scope: Scope = _EVERYTHING) -> None:
        """Add a new session; its client is about to read the lists in their present state."""
        client = self._client(session)
        client.scope, client.state = scope, state_of(self._live.value, scope)

    def open(self, session: str, last_event_id: str = "", scope: Scope = _EVERYTHING, *, primed: bool = False) -> Stream:
        """Open a stream of a session, with the messages since the event of `last_event_id`."""
        client, live_state = self._client(session), state_of(self._live.value, scope)
        client.scope = scope
        last_stream, last_number, state = _read(last_event_id)
        if state is not None:
            client.state = state
        stream = Stream(session, client, self._hearing, primed)
        client.streams.append(stream)
        if len(client.streams) > PER_SESSION:
            client.streams.pop(0).close()
        for stream_id, number, message in list(client.sent or ()):
            if stream_id == last_stream and number > last_number:
                stream.send(message)
        if client.held is not None:
            stream.relayed.extend(client.held)
            client.held = None
        for method in changes(client.state, live_state):
            stream.tell(method, live_state)
        return stream

    def _client(self, session: str) -> _Client:
        client = self._clients.get(session)
        if client is None:
            if len(self._clients) >= MAX_SESSIONS:
                del self._clients[next(iter(self._clients))]
            client = self._clients[session] = _Client(None)
        return client

    def discard(self, stream: Stream) -> list[bytes]:
        """Remove a stream, and return the messages of servers that it has not sent.

        Another stream of its session sends the notifications that it has not sent.
        """
        client = self._clients.get(stream.session)
        if client is None:
            return []
        if stream in client.streams:
            client.streams.remove(stream)
        if client.streams:
            for method in stream.pending:
                client.streams[-1].tell(method, state_of(self._live.value, client.scope))
        return stream.relayed

    def end_session(self, session: str) -> None:
        """End the streams of a session that is over."""
        client = self._clients.pop(session, None)
        for stream in client.streams if client is not None else ():
            stream.close()

    def count(self) -> int:
        """The number of open streams."""
        return sum(len(client.streams) for client in self._clients.values())

    def close_all(self) -> None:
        """End all streams, because the process drains."""
        for client in self._clients.values():
            for stream in client.streams:
                stream.close()

    def send(self, session: str, message: bytes) -> None:
        """Send a server's message on the newest stream of a session, or keep it for the next."""
        client = self._client(session)
        if client.streams:
            client.streams[-1].send(message)
        else:
            self.hold(session, message)

    def mark(self, session: str) -> None:
        """Send an event at once, whose id says that the gateway listens to another server."""
        client = self._clients.get(session)
        if client is not None and client.streams:
            client.streams[-1].mark()

    def hold(self, session: str, message: bytes) -> None:
        """Keep a message until the session has a stream here."""
        client = self._client(session)
        if client.held is None:
            client.held = deque(maxlen=MAX_KEPT)
        client.held.append(message)

    async def wait_notifying(self) -> None:
        """Send notifications of changed lists, for ever; changes that come together are one."""
        version, old_lists = self._live.version, _lists(self._live.value)
        while True:
            version = await self._live.wait_after(version)
            if _lists(self._live.value) == old_lists:
                continue
            await trio.sleep(COLLECT)
            version, snapshot = self._live.version, self._live.value
            old_lists = _lists(snapshot)
            # In slices, so that ten thousand notifications do not delay a call.
            clients = iter(list(self._clients.values()))
            while batch := list(islice(clients, 500)):
                for client in batch:
                    if client.streams:
                        state = state_of(snapshot, client.scope)
                        for method in changes(client.state, state):
                            client.streams[-1].tell(method, state)
                await trio.lowlevel.checkpoint()
            await trio.sleep(COALESCE - COLLECT)


def _lists(snapshot: Snapshot) -> tuple[str, Mapping[VirtualName, VirtualServer]]:
    """The values that the lists of every scope depend on."""
    return snapshot.state, snapshot.virtual_servers


def _read(event_id: str) -> tuple[str, int, str | None]:
    """Stream, number and state in the id of one of our events; empty for any other id."""
    stream, _, rest = event_id.partition(".")
    number, dot, rest = rest.partition(".")
    state = rest.partition(".")[0]
    is_ours = dot and number.isascii() and number.isdigit() and len(number) <= len(str(1 << 63))
    return (stream, int(number), state) if is_ours else ("", 0, None)
