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
from collections.abc import Callable
from itertools import islice

import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot, changes
from mcpgw_sidecar.catalog.views import state_of
from mcpgw_sidecar.directory.sight import Sight
from mcpgw_sidecar.directory.store import MAX_KEPT
from mcpgw_sidecar.front.keepalive import KeepAlive
from mcpgw_sidecar.front.listens import Listens
from mcpgw_sidecar.front.mail import Budget, Mail
from mcpgw_sidecar.front.stream import EVERYTHING, Client, Stream
from mcpgw_sidecar.front.waking import COALESCE, COLLECT
from mcpgw_sidecar.model.names import Scope
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.sessions.rows import MAX_SESSIONS
from mcpgw_sidecar.upstream.stateful import UpstreamClient

MAX_RELAYED = 1000  # messages of servers that wait for a slow client
PER_SESSION = 4  # open streams of one session; with one more the oldest ends


class Streams:
    """All open streams, by session, and those of clients without one: `listens`.

    A message goes to the newest stream of a session (basic/transports, Multiple Connections).
    `hearing` returns the part of an event's id with the upstream sessions and wishes of a session.
    """

    def __init__(
        self,
        live: Watched[Snapshot],
        hearing: Callable[[str], str],
        sight: Sight | None = None,
        client: UpstreamClient | None = None,
    ) -> None:
        self.budget = Budget()
        self.keep_alive = KeepAlive()
        self.listens = Listens(live, client, self.keep_alive)
        self._live = live
        self._sight = sight or Sight(live)
        self._hearing = hearing
        self._clients: dict[str, Client] = {}

    def greet(self, session: str, scope: Scope = EVERYTHING) -> None:
        """Add a new session; its client is about to read the lists in their present state."""
        client = self._client(session)
        client.scope, client.state = scope, state_of(self._live.value, scope)

    def open(
        self,
        session: str,
        last_event_id: str = "",
        scope: Scope = EVERYTHING,
        *,
        primed: bool = False,
        until: float = math.inf,
    ) -> Stream:
        """Open a stream of a session, with the messages since the event of `last_event_id`.

        It ends when the token ends with which it was opened: `until`, in epoch seconds.
        """
        client, live_state = self._client(session), state_of(self._live.value, scope)
        client.scope = scope
        last_stream, last_number, state = _read(last_event_id)
        if state is not None:
            client.state = state
        stream = Stream(session, client, Mail(self.budget, MAX_RELAYED), self._hearing, primed, until)
        client.streams.append(stream)
        if len(client.streams) > PER_SESSION:
            client.streams.pop(0).close()
        for stream_id, number, message in list(client.sent or ()):
            if stream_id == last_stream and number > last_number:
                stream.send(message)
        for message in client.held.take() if client.held is not None else ():
            stream.send(message)
        for method in changes(client.state, live_state):
            stream.tell(method, live_state)
        if not primed and (hearing := self._hearing(session)) and not last_event_id.endswith(f".{hearing}"):
            stream.mark()
        return stream

    def _client(self, session: str) -> Client:
        client = self._clients.get(session)
        if client is None:
            if len(self._clients) >= MAX_SESSIONS:
                self._clients.pop(next(iter(self._clients))).forget()
            client = self._clients[session] = Client(None)
        return client

    def discard(self, stream: Stream) -> list[bytes]:
        """Remove a stream, and return the messages of servers that it has not sent.

        Another stream of its session sends the notifications that it has not sent.
        """
        client = self._clients.get(stream.session)
        if client is None:
            stream.relayed.take()
            return []
        if stream in client.streams:
            client.streams.remove(stream)
        if client.streams:
            for method in stream.pending:
                client.streams[-1].tell(method, state_of(self._live.value, client.scope))
        return stream.relayed.take()

    def end_session(self, session: str) -> None:
        """End the streams of a session that is over."""
        client = self._clients.pop(session, None)
        if client is not None:
            client.forget()
            for stream in client.streams:
                stream.close()

    def count(self) -> int:
        """The number of open streams."""
        return self.listens.count() + sum(len(client.streams) for client in self._clients.values())

    def close_all(self) -> None:
        """End all streams, because the process drains."""
        self.listens.close_all()
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
        """Send an event at once, whose id says what the gateway listens to, and the wishes."""
        client = self._clients.get(session)
        if client is not None and client.streams:
            client.streams[-1].mark()

    def hold(self, session: str, message: bytes) -> None:
        """Keep a message until the session has a stream here."""
        client = self._client(session)
        if client.held is None:
            client.held = Mail(self.budget, MAX_KEPT)
        client.held.add(message, len(message))

    async def wait_notifying(self) -> None:
        """Send notifications of changed lists, for ever; changes that come together are one."""
        version, old_lists, access = self._live.version, _lists(self._live.value), self._live.value.access
        while True:
            version = await self._live.wait_after(version)
            if _lists(self._live.value) == old_lists:
                continue
            await trio.sleep(COLLECT)
            version, snapshot = self._live.version, self._live.value
            old_lists, has_login_changed = _lists(snapshot), access.authentication != snapshot.access.authentication
            access = snapshot.access
            # In slices, so that ten thousand notifications do not delay a call.
            clients = iter(list(self._clients.items()))
            while batch := list(islice(clients, 500)):
                for session, client in batch:
                    scope = self._sight.scope(session, client.scope)
                    client.scope = scope if scope is not None else client.scope
                    if scope is None or has_login_changed:  # whoever may come back, comes back
                        for stream in client.streams:
                            stream.close()
                    elif client.streams:
                        state = state_of(snapshot, client.scope)
                        for method in changes(client.state, state):
                            client.streams[-1].tell(method, state)
                await trio.lowlevel.checkpoint()
            await trio.sleep(COALESCE - COLLECT)


def _lists(snapshot: Snapshot) -> tuple[object, ...]:
    """The values that the lists of every scope depend on."""
    access = snapshot.access
    return snapshot.state, snapshot.virtual_servers, access.rules, access.bare, access.authentication


def _read(event_id: str) -> tuple[str, int, str | None]:
    """Stream, number and state in the id of one of our events; empty for any other id."""
    stream, _, rest = event_id.partition(".")
    number, dot, rest = rest.partition(".")
    state = rest.partition(".")[0]
    is_ours = dot and number.isascii() and number.isdigit() and len(number) <= len(str(1 << 63))
    return (stream, int(number), state) if is_ours else ("", 0, None)
