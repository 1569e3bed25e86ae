"""The notification streams of clients (GET): who listens, and what each is still to be told.

Of changes to lists a set of kinds waits, not a queue: ten changes while a client is slow are one notification. Messages of servers wait
in a queue with an end: a client that does not read loses the oldest, and nobody else loses anything.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.model.kinds import KINDS
from mcpgw_sidecar.runtime.watch import Watched

COALESCE = 0.3  # seconds in which changes become one notification; half a second is what clients' tests wait
MAX_RELAYED = 1000  # messages of servers that wait for a slow client
PER_SESSION = 4  # open streams of one session; with one more the oldest ends


@attrs.define(eq=False)
class Stream:
    """One open stream. `pending` are methods of notifications of our own that it is still to send, `relayed` messages of servers.

    `closed` ends it.
    """

    session: str
    pending: set[str] = attrs.field(factory=set)
    relayed: deque[bytes] = attrs.field(factory=lambda: deque(maxlen=MAX_RELAYED))
    closed: bool = False
    _wake: trio.Event = attrs.field(factory=trio.Event)

    def tell(self, method: str) -> None:
        """Have a notification sent."""
        self.pending.add(method)
        self._wake.set()

    def send(self, message: bytes) -> None:
        """Have a server's message sent."""
        self.relayed.append(message)
        self._wake.set()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self._wake.set()

    async def wait_news(self) -> None:
        """Wait until there is something to send, or the end."""
        await self._wake.wait()
        self._wake = trio.Event()


class Streams:
    """All open streams, by session. A message goes to one stream of a session: the newest (basic/transports, Multiple Connections)."""

    def __init__(self) -> None:
        self._streams: dict[str, list[Stream]] = {}

    def open(self, session: str) -> Stream:
        """A new stream of a session."""
        stream = Stream(session)
        streams = self._streams.setdefault(session, [])
        streams.append(stream)
        if len(streams) > PER_SESSION:
            streams.pop(0).close()
        return stream

    def discard(self, stream: Stream) -> None:
        """The stream is gone; what it did not send any more goes to another one of its session."""
        streams = self._streams.get(stream.session, [])
        if stream in streams:
            streams.remove(stream)
        for method in stream.pending if streams else ():
            streams[-1].tell(method)
        for message in stream.relayed if streams else ():
            streams[-1].send(message)
        if not streams:
            self._streams.pop(stream.session, None)

    def end_session(self, session: str) -> None:
        """The session is over."""
        for stream in self._streams.get(session, ()):
            stream.close()

    def close_all(self) -> None:
        """The process drains."""
        for session in list(self._streams):
            self.end_session(session)

    def send(self, session: str, message: bytes) -> None:
        """Hand a server's message to a session; one without a stream is not listening."""
        streams = self._streams.get(session)
        if streams:
            streams[-1].send(message)

    def tell_all(self, method: str) -> None:
        """Tell every session once."""
        for streams in self._streams.values():
            streams[-1].tell(method)

    async def wait_notifying(self, live: Watched[Snapshot]) -> None:
        """Tell clients of changes to the lists, for ever; one notification a list for changes that come together."""
        told, version = live.value, live.version
        while True:
            version = await live.wait_after(version)
            if not _changes(told, live.value):
                continue
            await trio.sleep(COALESCE)
            version = live.version
            for method in _changes(told, live.value):
                self.tell_all(method)
            told = live.value


def _changes(old: Snapshot, new: Snapshot) -> list[str]:
    """The notifications that lead from one state to another."""
    return sorted({kind.changed for kind in KINDS if old.of(kind).digest != new.of(kind).digest})
