"""The notification streams of clients (GET): who listens, and what each is still to be told.

Of changes to lists a set of kinds waits, not a queue: ten changes while a client is slow are one
notification. Messages of servers wait in a queue with an end: a client that does not read loses the
oldest, and nobody else loses anything.

Nothing is lost between two streams either. The id of an event says which stream it was on, its number
there, the state of the lists that its client knew, and in which sessions servers are heard for it
(tickets): `<stream>.<number>.<state>[.<server>:<ticket>,...]`. A client that comes back with it
(`Last-Event-ID`) is told what changed since, also by a process that never saw it; and the last messages
of servers are kept for it. A client that comes back without an id is told what changed since its last
stream here; to one that this process does not know at all, everything may have changed.
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
COALESCE = 0.5  # seconds between two notifications of one kind; what clients' tests wait for one is a little more
MAX_RELAYED = 1000  # messages of servers that wait for a slow client
MAX_HEARING = 4000  # characters in an event's id: as a header it has to come back
_EVERYTHING = Scope()
PER_SESSION = 4  # open streams of one session; with one more the oldest ends


@attrs.define
class _Client:
    """A session: its open streams, the state of the lists that it knows, and what servers sent it lately (None: nothing yet).

    The lists are those of the scope that it named last.
    """

    state: str | None
    scope: Scope = _EVERYTHING
    streams: list[Stream] = attrs.field(factory=list)
    sent: deque[tuple[str, int, bytes]] | None = None
    held: deque[bytes] | None = None


@attrs.define(eq=False)
class Stream:
    """One open stream. `pending` are methods of the broker's own notifications, `relayed` messages of servers.

    `primed`: the client takes an event without data. `closed` ends it.
    """

    session: str
    _owner: _Client
    _hearing: Callable[[str], str]
    primed: bool = False
    _state: str = ""
    pending: set[str] = attrs.field(factory=set)
    relayed: list[bytes] = attrs.field(factory=list)  # a deque takes 600 bytes when it is empty, and ten thousand are
    closed: bool = False
    _marked: bool = False
    _id: str = attrs.field(factory=lambda: secrets.token_hex(4))
    _number: int = 0
    _news: bool = False
    _waiting: trio.CancelScope | None = None

    def tell(self, method: str, state: str) -> None:
        """Have a notification sent that leads to a state of the lists."""
        self.pending.add(method)
        self._state = state
        self._wake()

    def send(self, message: bytes) -> None:
        """Have a server's message sent."""
        if len(self.relayed) >= MAX_RELAYED:
            del self.relayed[0]
        self.relayed.append(message)
        self._wake()

    def mark(self) -> None:
        """Have an event sent that holds nothing but its id, where the client takes such (`primed`)."""
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
        """Wait until there may be something to send, or the end, for `seconds` at most, or until `other` has returned.

        One task waits for both: a second one for each idle stream would cost more memory than all else of it.
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
        """An event without a message: whoever is cut off before the first one has an id to come back with."""
        return event_bytes(b"", self._event_id())

    def next_event(self) -> bytes | None:
        """The bytes of the next event, None when nothing waits."""
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
        return event_bytes(message, self._event_id())

    def _event_id(self) -> str:
        hearing = self._hearing(self.session)
        suffix = f".{hearing}" if hearing and len(hearing) <= MAX_HEARING else ""
        return f"{self._id}.{self._number}.{self._owner.state or ''}{suffix}"


class Streams:
    """All open streams, by session. A message goes to the newest of a session (basic/transports, Multiple Connections).

    `hearing` gives what the ids of events say of a session's servers.
    """

    def __init__(self, live: Watched[Snapshot], hearing: Callable[[str], str]) -> None:
        self._live = live
        self._hearing = hearing
        self._clients: dict[str, _Client] = {}

    def greet(self, session: str, scope: Scope = _EVERYTHING) -> None:
        """A session is born here: the lists that it knows are those of now."""
        client = self._client(session)
        client.scope, client.state = scope, state_of(self._live.value, scope)

    def open(self, session: str, last_event_id: str = "", scope: Scope = _EVERYTHING, *, primed: bool = False) -> Stream:
        """A new stream of a session, with what its client missed since the event of that id."""
        client, now = self._client(session), state_of(self._live.value, scope)
        client.scope = scope
        last, number, state = _read(last_event_id)
        if state is not None:
            client.state = state
        stream = Stream(session, client, self._hearing, primed)
        client.streams.append(stream)
        if len(client.streams) > PER_SESSION:
            client.streams.pop(0).close()
        for origin, sent, message in list(client.sent or ()):
            if origin == last and sent > number:
                stream.send(message)
        if client.held is not None:
            stream.relayed.extend(client.held)
            client.held = None
        for method in changes(client.state, now):
            stream.tell(method, now)
        return stream

    def _client(self, session: str) -> _Client:
        client = self._clients.get(session)
        if client is None:
            if len(self._clients) >= MAX_SESSIONS:
                del self._clients[next(iter(self._clients))]
            client = self._clients[session] = _Client(None)
        return client

    def discard(self, stream: Stream) -> list[bytes]:
        """The stream is gone; gives the messages of servers that it did not send any more.

        Another stream of its session tells of the changes that it did not tell of.
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
        """The session is over."""
        client = self._clients.pop(session, None)
        for stream in client.streams if client is not None else ():
            stream.close()

    def close_all(self) -> None:
        """The process drains."""
        for client in self._clients.values():
            for stream in client.streams:
                stream.close()

    def send(self, session: str, message: bytes) -> None:
        """Send a server's message on the newest stream of a session; without one it is kept."""
        client = self._client(session)
        if client.streams:
            client.streams[-1].send(message)
        else:
            self.hold(session, message)

    def mark(self, session: str) -> None:
        """A server is heard for a session from now on: the next event's id says so, so one is sent at once."""
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
        """Tell clients of changes to the lists, for ever; one notification a list for changes that come together."""
        version, before = self._live.version, _lists(self._live.value)
        while True:
            version = await self._live.wait_after(version)
            if _lists(self._live.value) == before:
                continue
            await trio.sleep(COLLECT)
            version, snapshot = self._live.version, self._live.value
            before = _lists(snapshot)
            # In slices: ten thousand clients are told without holding up a call.
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
    """All that the lists of every scope follow from."""
    return snapshot.state, snapshot.virtual_servers


def _read(event_id: str) -> tuple[str, int, str | None]:
    """Stream, number and state of one of our events; of anything else nothing."""
    stream, _, rest = event_id.partition(".")
    number, dot, rest = rest.partition(".")
    state = rest.partition(".")[0]
    is_ours = dot and number.isascii() and number.isdigit() and len(number) <= len(str(1 << 63))
    return (stream, int(number), state) if is_ours else ("", 0, None)
