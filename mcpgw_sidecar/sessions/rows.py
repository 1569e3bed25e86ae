"""What sessions/hub.py knows: its tables, and the steps that several of its rules take."""

from __future__ import annotations

from collections import Counter

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session, UpstreamSession
from mcpgw_sidecar.protocol.jsontext import JsonTextError, parse_object
from mcpgw_sidecar.sessions import actions as a

MAX_SESSIONS = 100_000  # a bound on memory, about 300 bytes each: beyond it the oldest is forgotten, never refused
MAX_RESOURCES = 200  # subscriptions of a session with one server that survive a heal
MAX_WISHED = 512  # characters of a URI that is remembered for that: with MAX_RESOURCES, 100 kB a session at the most
_ASKABLE = frozenset({"roots", "sampling", "elicitation"})  # capabilities of clients that servers may send requests to


@attrs.define
class Row:
    """A session that is seen: its sessions with servers, and what its client wishes to hear of."""

    session: Session
    upstreams: dict[ServerName, UpstreamSession] = attrs.field(factory=dict)
    level: str | None = None
    resources: dict[ServerName, set[str]] | None = None  # most sessions have none

    def uris(self, server: ServerName) -> frozenset[str]:
        """The resources of a server that the client subscribes to."""
        return frozenset((self.resources or {}).get(server, ()))


@attrs.define
class State:
    """The tables, by session or by session and server.

    `heard` has sessions with servers that are heard, `dead` those that were forgotten and not yet
    replaced; `streams` counts clients' streams here, `setting_level` log levels on their way to replicas.
    """

    shared: bool
    rows: dict[str, Row] = attrs.field(factory=dict)
    ended: dict[str, int] = attrs.field(factory=dict)
    opening: set[tuple[str, ServerName]] = attrs.field(factory=set)
    heard: dict[str, dict[ServerName, UpstreamSession]] = attrs.field(factory=dict)
    streams: Counter[str] = attrs.field(factory=Counter)
    dead: dict[tuple[str, ServerName], UpstreamSession] = attrs.field(factory=dict)
    setting_level: Counter[str] = attrs.field(factory=Counter)

    def row(self, session: Session) -> Row | None:
        """The row of a session, which is seen from now on; None when it is over."""
        row = self.rows.get(session.key)
        if row is not None or session.key in self.ended:
            return row
        if len(self.rows) >= MAX_SESSIONS:
            del self.rows[next(iter(self.rows))]
        row = self.rows[session.key] = Row(session)
        return row

    def listen(self, row: Row, server: ServerName) -> list[a.Action]:
        """Hear the session with a server that is open, once, and no other one."""
        key, upstream = row.session.key, row.upstreams.get(server)
        heard = self.heard.get(key, {}).get(server)
        if upstream is None or heard == upstream:
            return []
        self.heard.setdefault(key, {})[server] = upstream
        hush = [] if heard is None else [a.Hush(key, server)]
        return [*hush, a.Listen(key, server, upstream), *([a.Mark(key)] if self.streams[key] > 0 else [])]

    def unhear(self, key: str, server: ServerName) -> None:
        """Hear a server no longer."""
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
        if len(self.ended) >= MAX_SESSIONS:
            del self.ended[next(iter(self.ended))]
        self.ended[key] = expires
        return self.leave(key)

    def leave(self, key: str) -> list[a.Action]:
        """Take a session out of the tables; gives what is to be done about it, the news of it first."""
        row, heard = self.rows.pop(key, None), self.heard.pop(key, {})
        self.streams.pop(key, None)
        self.setting_level.pop(key, None)
        for server in [server for of, server in self.dead if of == key] if self.dead else ():
            del self.dead[key, server]
        upstreams = row.upstreams if row is not None else {}
        return [
            a.Over(key),
            *(a.Hush(key, server) for server in heard),
            *(a.Close(server, upstream) for server, upstream in upstreams.items()),
        ]


def wish(row: Row, server: ServerName, uri: str, *, wanted: bool) -> None:
    """Remember that a client subscribes to a resource, within bounds, or that it does no longer."""
    if row.resources is None:
        row.resources = {}
    uris = row.resources.setdefault(server, set())
    if not wanted:
        uris.discard(uri)
    elif len(uris) < MAX_RESOURCES and len(uri) <= MAX_WISHED:
        uris.add(uri)


def can_be_asked(session: Session) -> bool:
    """Whether servers may send requests to a session's client."""
    try:
        declared = {member.key for member in parse_object(session.capabilities)}
    except JsonTextError:
        return False
    return not declared.isdisjoint(_ASKABLE)
