"""What a process remembers of sessions: which it has seen, which have ended, which upstream sessions are open for them.

=========  ==========================  =====================================================
state      entered by                  left by
=========  ==========================  =====================================================
unseen     (a token, sealed anywhere)  `see`: initialize here, or any request with the token
seen       `see`                       `end` (DELETE), `expire` (its time has come)
ended      `end`                       `expire`: then the token itself says that it has expired
=========  ==========================  =====================================================

Upstream sessions belong to a seen session; whoever ends or expires one is handed those that have to be closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session, UpstreamSession, Wishes

MAX_SESSIONS = 100_000  # a bound on memory, about 300 bytes each: beyond it the oldest is forgotten, never refused

MAX_RESOURCES = 200  # subscriptions of a session with one server that survive a heal
MAX_WISHED = 512  # characters of a URI that is remembered for that: with MAX_RESOURCES, 100 kB a session at the most


@attrs.frozen
class SessionCounts:
    """What the table holds at one moment; `upstream` counts by server."""

    gateway: int
    upstream: Mapping[ServerName, int]


@attrs.frozen
class Closing:
    """An upstream session that nobody can use any more."""

    server: ServerName
    upstream: UpstreamSession


@attrs.define
class _Row:
    session: Session
    upstreams: dict[ServerName, UpstreamSession] = attrs.field(factory=dict)
    level: str | None = None
    resources: dict[ServerName, set[str]] = attrs.field(factory=dict)


@attrs.define
class SessionTable:
    """The tables; `now` is in epoch seconds everywhere."""

    _seen: dict[str, _Row] = attrs.field(factory=dict)
    _ended: dict[str, int] = attrs.field(factory=dict)

    def see(self, session: Session) -> Mapping[ServerName, UpstreamSession] | None:
        """The open upstream sessions of a session, None if it has ended."""
        row = self._seen.get(session.key)
        if row is not None:
            return row.upstreams
        if session.key in self._ended:
            return None
        if len(self._seen) >= MAX_SESSIONS:
            del self._seen[next(iter(self._seen))]
        row = self._seen[session.key] = _Row(session)
        return row.upstreams

    def opened(self, session: Session, server: ServerName, upstream: UpstreamSession) -> bool:
        """Keep an upstream session; False when its gateway session ended meanwhile, so that it must be closed."""
        if self.see(session) is None:
            return False
        self._seen[session.key].upstreams[server] = upstream
        return True

    def end(self, key: str, expires: int) -> list[Closing]:
        """End a session for good; gives the upstream sessions to close."""
        if len(self._ended) >= MAX_SESSIONS:
            del self._ended[next(iter(self._ended))]
        self._ended[key] = expires
        row = self._seen.pop(key, None)
        return [] if row is None else [Closing(name, upstream) for name, upstream in row.upstreams.items()]

    def has_ended(self, key: str) -> bool:
        """Whether a session is known to be over."""
        return key in self._ended

    def find(self, key: str) -> Session | None:
        """The session of a key that was seen here and is not over."""
        row = self._seen.get(key)
        return row.session if row is not None else None

    def forget(self, session: Session, server: ServerName, upstream: UpstreamSession) -> None:
        """An upstream session is dead; unless it was replaced meanwhile, the next call opens another."""
        row = self._seen.get(session.key)
        if row is not None and row.upstreams.get(server) == upstream:
            del row.upstreams[server]

    def wish_level(self, session: Session, level: str) -> None:
        """The client set its log level."""
        row = self._seen.get(session.key)
        if row is not None:
            row.level = level

    def wish_resource(self, session: Session, server: ServerName, uri: str, *, wanted: bool) -> None:
        """The client subscribed to a resource of a server, or no longer."""
        row = self._seen.get(session.key)
        if row is None:
            return
        uris = row.resources.setdefault(server, set())
        if wanted and len(uris) < MAX_RESOURCES and len(uri) <= MAX_WISHED:
            uris.add(uri)
        elif not wanted:
            uris.discard(uri)

    def wishes(self, session: Session, server: ServerName) -> Wishes:
        """What a session with this server has to be told after it was opened."""
        row = self._seen.get(session.key)
        if row is None:
            return Wishes()
        return Wishes(level=row.level, resources=frozenset(row.resources.get(server, ())))

    def forget_server(self, server: ServerName) -> list[Closing]:
        """A server has gone or lives elsewhere now: its sessions are of no use."""
        rows = (row.upstreams.pop(server, None) for row in self._seen.values())
        return [Closing(server, upstream) for upstream in rows if upstream is not None]

    def expire(self, now: float) -> tuple[list[str], list[Closing]]:
        """The keys of the sessions whose time has come, and the upstream sessions to close."""
        due = [key for key, row in self._seen.items() if row.session.expires <= now]
        closing: list[Closing] = []
        for key in due:
            closing += [Closing(name, upstream) for name, upstream in self._seen.pop(key).upstreams.items()]
        self._ended = {key: expires for key, expires in self._ended.items() if expires > now}
        return due, closing

    def statistics(self) -> SessionCounts:
        """Counts for `/status` and metrics."""
        return SessionCounts(len(self._seen), Counter(name for row in self._seen.values() for name in row.upstreams))
