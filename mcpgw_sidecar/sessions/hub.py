"""The life of clients' sessions as one machine: it takes events and returns actions.

=========  ==========================  ======================================================
state      entered by                  left by
=========  ==========================  ======================================================
unseen     (a token, sealed anywhere)  Seen: initialize here, or any request with the token
seen       Seen                        Ended, EndedElsewhere, Due (it has expired)
ended      Ended, EndedElsewhere       Due: then the token itself says that it has expired
=========  ==========================  ======================================================

For each server, a session that is seen is in one of these:

=========  ==========================  ======================================================
state      entered by                  left by
=========  ==========================  ======================================================
none       Seen; Forgotten; ServerGone Wanted -> Open; Adopted
opening    Wanted                      OpeningOver, with an Opened before it, or an Adopted, or not
open       Opened; Adopted             Forgotten; ServerGone, the end -> Close
heard      a wish, or a client that    Silenced; Forgotten -> Hush; another session -> Hush;
(and open) can be asked -> Listen      ServerGone -> Hush; the end -> Hush; Due, when its client has
                                       had no stream for a while -> Hush (StreamHere -> Listen)
=========  ==========================  ======================================================

Rules:

- One gate: `apply` alone changes anything. The driver (directory/driver.py) carries out the actions
  in their order, and answers with events. Time comes with the event that needs it.
- A session with a server is adopted only where none is open; one that was opened here always
  counts, because the store names it by then. A session that its server has forgotten is not adopted
  again.
- The gateway listens to one session of a client with a server at a time, and only to the open one.
- A message goes to the client's stream here, else to the replica that has it, else it is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import NOTHING, AllWishes, Session, UpstreamSession
from mcpgw_sidecar.protocol.owners import hearing_text
from mcpgw_sidecar.sessions import actions as a, events as e, wishes
from mcpgw_sidecar.sessions.rows import State, can_be_asked, hush_alone, one_less


@attrs.frozen
class SessionCounts:
    """The number of sessions in the hub at one moment; `upstream` counts by server."""

    gateway: int
    upstream: Mapping[ServerName, int]


class SessionHub:
    """The machine. `shared` says that replicas share sessions with this process."""

    def __init__(self, *, shared: bool = False) -> None:
        self._state = State(shared)

    def apply(self, event: e.Event) -> list[a.Action]:
        """Take one event, and return the actions that follow, in their order."""
        return _RULES[type(event)](self._state, event)

    def upstreams(self, key: str) -> Mapping[ServerName, UpstreamSession] | None:
        """The upstream sessions of a session; None for a session that is unseen here, or over."""
        row = self._state.rows.get(key)
        return None if row is None else row.upstreams

    def upstream(self, key: str, server: ServerName) -> UpstreamSession | None:
        """The open upstream session of a session with a server."""
        return (self.upstreams(key) or {}).get(server)

    def links(self, key: str) -> Mapping[str, ServerName]:
        """The servers of URIs that no list has, as far as this session has found them."""
        row = self._state.rows.get(key)
        return {} if row is None or row.links is None else row.links

    def wishes(self, key: str) -> AllWishes:
        """What a session's client wants to hear of."""
        row = self._state.rows.get(key)
        resources = row.resources if row is not None and row.resources is not None else {}
        wanted = {server: frozenset(uris) for server, uris in resources.items() if uris}
        return AllWishes(level=None if row is None else row.level, resources=wanted)

    def session(self, key: str) -> Session | None:
        """The session of a key that was seen here and is not over."""
        row = self._state.rows.get(key)
        return None if row is None else row.session

    def hearing(self, key: str, seal: Callable[[AllWishes], str] = lambda _: "") -> str:
        """The upstream sessions that are heard for a session, in the format of event ids.

        `seal` seals the wishes of its client, once after a change, because it takes a while.
        """
        row, upstreams = self._state.rows.get(key), self._state.heard.get(key) or {}
        if row is not None and row.sealed is None:
            row.sealed = seal(self.wishes(key))
        return hearing_text({server: up.ticket for server, up in upstreams.items()}, (row and row.sealed) or "")

    def statistics(self) -> SessionCounts:
        """Counts for `/status` and metrics."""
        rows = self._state.rows.values()
        return SessionCounts(len(rows), Counter(name for row in rows for name in row.upstreams))


def _seen(state: State, event: e.Seen) -> list[a.Action]:
    state.row(event.session)
    return []


def _wanted(state: State, event: e.Wanted) -> list[a.Action]:
    row, opening = state.row(event.session), (event.session.key, event.server)
    if row is None or event.server in row.upstreams or opening in state.opening:
        return []
    state.opening.add(opening)
    return [a.Open(event.session, event.server)]


def _opened(state: State, event: e.Opened) -> list[a.Action]:
    row = state.row(event.session)
    if row is None:
        return [a.Close(event.server, event.upstream)]
    row.upstreams[event.server] = upstream = attrs.evolve(event.upstream, brought=row.brought)
    state.dead.pop((event.session.key, event.server), None)
    return row.tell(event.server, upstream)


def _opening_over(state: State, event: e.OpeningOver) -> list[a.Action]:
    state.opening.discard((event.key, event.server))
    return []


def _adopted(state: State, event: e.Adopted) -> list[a.Action]:
    row, place = state.row(event.session), (event.session.key, event.server)
    if row is None or event.server in row.upstreams:
        return []
    dead = state.dead.get(place)
    if dead is not None and dead.id == event.upstream.id:
        return []  # whoever holds it has not learned yet that its server forgot it
    row.upstreams[event.server] = upstream = attrs.evolve(event.upstream, brought=row.brought)
    # Whoever opened it in place of a dead one may not have known what the client wished here.
    told = [] if state.dead.pop(place, None) is None else row.tell(event.server, upstream)
    return [*told, *(state.listen(row, event.server, resumed=True) if event.heard else [])]


def _call_goes_out(state: State, event: e.CallGoesOut) -> list[a.Action]:
    row = state.rows.get(event.session.key)
    return state.listen(row, event.server) if row is not None and can_be_asked(event.session) else []


def _brought(state: State, event: e.Brought) -> list[a.Action]:
    row = state.rows.get(event.key)
    if row is None or event.brought.items() <= row.brought.items():
        return []
    row.brought = {**row.brought, **event.brought}
    for server, upstream in list(row.upstreams.items()):
        row.upstreams[server] = attrs.evolve(upstream, brought=row.brought)
    return []


def _forgotten(state: State, event: e.Forgotten) -> list[a.Action]:
    row = state.rows.get(event.key)
    if row is None:
        return []
    known = row.upstreams.get(event.server)
    if known is None:  # Envoy knows it from before a restart
        state.dead[event.key, event.server] = event.upstream
    if known != event.upstream:
        return []
    state.dead[event.key, event.server] = row.upstreams.pop(event.server)
    return state.hush(event.key, event.server, event.upstream)


def _ended(state: State, event: e.Ended) -> list[a.Action]:
    row = state.rows.get(event.session.key)
    actions = state.end(event.session.key, event.session.expires)
    here = frozenset((action.server, action.upstream.id) for action in actions if isinstance(action, a.Close))
    return [*actions, a.ShareEnd(event.session, here, row.brought if row is not None else NOTHING)]


def _ended_elsewhere(state: State, event: e.EndedElsewhere) -> list[a.Action]:
    if state.ended.has(event.key, event.expires):
        return []  # the store repeats the end of a session after it was away
    return state.end(event.key, event.expires)


def _ended_before(state: State, event: e.EndedBefore) -> list[a.Action]:
    is_here, actions = event.key in state.rows, state.end(event.key, event.expires)
    return actions if is_here else []  # Envoy has forgotten it


def _due(state: State, event: e.Due) -> list[a.Action]:
    actions: list[a.Action] = []
    for key in [key for key, row in state.rows.items() if row.session.expires <= event.now]:
        actions += state.leave(key)
    actions += hush_alone(state, event.now)
    state.ended.expire(event.now)
    return actions


def _stream_here(state: State, event: e.StreamHere) -> list[a.Action]:
    state.streams[event.session.key] += 1
    return [a.FetchRow(event.session)]


def _stream_gone(state: State, event: e.StreamGone) -> list[a.Action]:
    one_less(state.streams, event.key)
    return []


def _shared(state: State, event: e.Shared) -> list[a.Action]:
    row, actions = state.rows.get(event.session.key), list[a.Action]()
    for server in row.upstreams if row is not None else ():
        if row is not None and row.wants(server):
            actions += state.listen(row, server, resumed=True)
    return actions


def _said(state: State, event: e.Said) -> list[a.Action]:
    if state.streams[event.key] > 0:
        return [a.Deliver(event.key, event.message)]
    return [a.Post(event.key, event.message) if state.shared else a.Hold(event.key, event.message)]


def _not_posted(state: State, event: e.NotPosted) -> list[a.Action]:
    has_stream = state.streams[event.key] > 0
    return [a.Deliver(event.key, event.message) if has_stream else a.Hold(event.key, event.message)]


def _silenced(state: State, event: e.Silenced) -> list[a.Action]:
    upstreams = state.heard.get(event.key, {})
    if upstreams.get(event.server) == event.upstream:
        state.unhear(event.key, event.server)
    return []


def _mail_waits(state: State, event: e.MailWaits) -> list[a.Action]:
    return [a.FetchMail(event.key)] if state.streams[event.key] > 0 else []


def _row_changed(state: State, event: e.RowChanged) -> list[a.Action]:
    row = state.rows.get(event.key)
    return [a.FetchRow(row.session)] if row is not None and state.streams[event.key] > 0 else []


def _replica_gone(state: State, _event: e.ReplicaGone) -> list[a.Action]:
    return [a.FetchRow(row.session) for key, row in state.rows.items() if state.streams[key] > 0]


def _left_open(_state: State, event: e.LeftOpen) -> list[a.Action]:
    return [a.Close(event.server, event.upstream)]


def _server_gone(state: State, event: e.ServerGone) -> list[a.Action]:
    name = event.server.name
    for row in state.rows.values():
        row.leave_server(event.server)
    for place in [place for place in state.dead if place[1] == name]:
        del state.dead[place]
    keys = [key for key, upstreams in state.heard.items() if name in upstreams]
    return [action for key in keys for action in state.hush(key, name)]


_RULES: Final[Mapping[type, Callable[[State, Any], list[a.Action]]]] = {
    e.Seen: _seen,
    e.Wanted: _wanted,
    e.Opened: _opened,
    e.OpeningOver: _opening_over,
    e.Adopted: _adopted,
    e.CallGoesOut: _call_goes_out,
    e.LinkFound: wishes.link_found,
    e.Brought: _brought,
    e.Forgotten: _forgotten,
    e.Ended: _ended,
    e.EndedElsewhere: _ended_elsewhere,
    e.EndedBefore: _ended_before,
    e.Due: _due,
    e.LevelSet: wishes.level_set,
    e.LevelShared: wishes.level_shared,
    e.Subscribed: wishes.subscribed,
    e.WishesRead: wishes.wishes_read,
    e.ServerTold: wishes.server_told,
    e.StreamHere: _stream_here,
    e.StreamGone: _stream_gone,
    e.Shared: _shared,
    e.Said: _said,
    e.NotPosted: _not_posted,
    e.Silenced: _silenced,
    e.MailWaits: _mail_waits,
    e.RowChanged: _row_changed,
    e.ReplicaGone: _replica_gone,
    e.LeftOpen: _left_open,
    e.ServerGone: _server_gone,
}
