"""The tables of sessions/hub.py, and the steps that several of its rules share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import NOTHING, Session, UpstreamSession, Wishes
from mcpgw_sidecar.protocol.jsontext import JsonTextError, parse_object
from mcpgw_sidecar.sessions import actions as a
from mcpgw_sidecar.sessions.ended import Ended

MAX_SESSIONS = 100_000  # about 300 bytes each; beyond it the hub drops the oldest, and refuses none
MAX_RESOURCES = 200  # subscriptions of a session with one server that survive a heal
MAX_LINKS = 200  # servers of URIs that no list has, of a session; one more and the oldest is looked for again
MAX_FORMER = 20  # sessions with servers that were removed, of a session; the oldest are left to their expiry
MAX_WISHED = 512  # characters of the URI of such a subscription: with MAX_RESOURCES, 100 kB a session at the most
ALONE = 300.0  # seconds without a stream after which servers are not heard until the client is back
_ASKABLE = frozenset({"roots", "sampling", "elicitation"})  # with one of these a client takes requests of servers


@attrs.define
class Row:
    """A session that is seen: its upstream sessions, and its client's wishes for notifications.

    `brought` has the newest headers of its client that servers want.
    """

    session: Session
    upstreams: dict[ServerName, UpstreamSession] = attrs.field(factory=dict)
    level: str | None = None
    resources: dict[ServerName, set[str]] | None = None  # most sessions have none
    brought: Mapping[str, str] = NOTHING
    links: dict[str, ServerName] | None = None  # servers of URIs that no list has; most sessions have none
    sealed: str | None = None  # its wishes, for the ids of events; None after a change
    former: list[tuple[Server, UpstreamSession]] | None = None  # with servers that are not there any more

    def leave_server(self, server: Server) -> None:
        """Use the session with a server no more.

        It is closed at the end: calls in flight in it are not cut.
        """
        upstream = self.upstreams.pop(server.name, None)
        if upstream is not None:
            self.former = [*(self.former or ()), (server, upstream)][-MAX_FORMER:]

    def uris(self, server: ServerName) -> frozenset[str]:
        """The resources of a server that the client subscribes to."""
        return frozenset((self.resources or {}).get(server, ()))

    def tell(self, server: ServerName, upstream: UpstreamSession) -> list[a.Action]:
        """Repeat the client's wishes in a session with a server that has not heard of them."""
        wishes = Wishes(level=self.level, resources=self.uris(server))
        return [] if wishes == Wishes() else [a.Tell(self.session, server, upstream, wishes)]

    def wants(self, server: ServerName) -> bool:
        """Whether the client may hear something of a server outside of its calls."""
        return self.level is not None or bool(self.uris(server)) or can_be_asked(self.session)


@attrs.define
class State:
    """The tables, by session or by session and server.

    `heard` has the upstream sessions that the gateway listens to, `dead` those that their servers
    forgot and that are not replaced yet; `streams` counts the streams of clients in this process,
    and `setting_level` the log levels on their way to replicas. `alone` says since when a client
    whose servers are heard has no stream, as far as `due` has seen it.
    """

    shared: bool
    rows: dict[str, Row] = attrs.field(factory=dict)
    ended: Ended = attrs.field(factory=Ended)
    opening: set[tuple[str, ServerName]] = attrs.field(factory=set)
    heard: dict[str, dict[ServerName, UpstreamSession]] = attrs.field(factory=dict)
    streams: Counter[str] = attrs.field(factory=Counter)
    dead: dict[tuple[str, ServerName], UpstreamSession] = attrs.field(factory=dict)
    setting_level: Counter[str] = attrs.field(factory=Counter)
    alone: dict[str, float] = attrs.field(factory=dict)

    def row(self, session: Session) -> Row | None:
        """The row of a session, which is created if missing; None if the session is over."""
        row = self.rows.get(session.key)
        if row is not None or self.ended.has(session.key, session.expires):
            return row
        if len(self.rows) >= MAX_SESSIONS:
            del self.rows[next(iter(self.rows))]
        row = self.rows[session.key] = Row(session)
        return row

    def listen(self, row: Row, server: ServerName, *, resumed: bool = False) -> list[a.Action]:
        """Listen to the open session with a server, once, and to no other session with it."""
        key, upstream = row.session.key, row.upstreams.get(server)
        old_upstream = self.heard.get(key, {}).get(server)
        if upstream is None or old_upstream == upstream:
            return []
        self.heard.setdefault(key, {})[server] = upstream
        hush = [] if old_upstream is None else [a.Hush(key, server)]
        return [*hush, a.Listen(key, server, upstream, resumed), *self.mark(key)]

    def mark(self, key: str) -> list[a.Action]:
        """Send a client an event whose id has what its session is now, if it has a stream here."""
        return [a.Mark(key)] if self.streams[key] > 0 else []

    def unhear(self, key: str, server: ServerName) -> None:
        """Stop listening to a server."""
        del self.heard[key][server]
        if not self.heard[key]:
            del self.heard[key]

    def hush(self, key: str, server: ServerName, upstream: UpstreamSession | None = None) -> list[a.Action]:
        """Stop hearing a server, in this session with it or in any."""
        heard = self.heard.get(key, {}).get(server)
        if heard is None or upstream not in {None, heard}:
            return []
        self.unhear(key, server)
        return [a.Hush(key, server)]

    def end(self, key: str, expires: int) -> list[a.Action]:
        """End a session for good."""
        self.ended.add(key, expires)
        return self.leave(key)

    def leave(self, key: str) -> list[a.Action]:
        """Remove a session from the tables, and return the actions that follow, Over first."""
        row, heard_upstreams = self.rows.pop(key, None), self.heard.pop(key, {})
        self.streams.pop(key, None)
        self.setting_level.pop(key, None)
        self.alone.pop(key, None)
        for server in [server for of, server in self.dead if of == key] if self.dead else ():
            del self.dead[key, server]
        upstreams, former = (row.upstreams, row.former or ()) if row is not None else ({}, ())
        former = [each for each in former if upstreams.get(each[0].name) != each[1]]  # that server came back
        return [
            a.Over(key),
            *(a.Hush(key, server) for server in heard_upstreams),
            *(a.Close(server, upstream) for server, upstream in upstreams.items()),
            *(a.CloseAt(server, upstream) for server, upstream in former),
        ]


def hush_alone(state: State, now: float) -> list[a.Action]:
    """Stop listening for clients that have had no stream for a while: each costs two sockets."""
    state.alone = {key: state.alone.get(key, now) for key in state.heard if state.streams[key] <= 0}
    keys = [key for key, since in state.alone.items() if now - since >= ALONE]
    return [action for key in keys for server in list(state.heard[key]) for action in state.hush(key, server)]


def one_less(counts: Counter[str], key: str) -> None:
    """Count down; a key with nothing left takes no memory."""
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def wish(row: Row, server: ServerName, uri: str, *, wanted: bool) -> bool:
    """Add a resource to the subscriptions of a client, or remove it; False beyond the limits."""
    if row.resources is None:
        row.resources = {}
    row.sealed = None
    uris = row.resources.setdefault(server, set())
    if not wanted:
        uris.discard(uri)
    elif uri not in uris and (len(uris) >= MAX_RESOURCES or len(uri) > MAX_WISHED):
        return False
    else:
        uris.add(uri)
    return True


def can_be_asked(session: Session) -> bool:
    """Whether servers may send requests to a session's client."""
    try:
        capabilities = {member.key for member in parse_object(session.capabilities)}
    except JsonTextError:
        return False
    return not capabilities.isdisjoint(_ASKABLE)
