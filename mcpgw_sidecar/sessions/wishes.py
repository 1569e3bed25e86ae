"""The rules of sessions/hub.py about what clients want to hear of."""

from __future__ import annotations

from mcpgw_sidecar.sessions import actions as a, events as e
from mcpgw_sidecar.sessions.rows import MAX_LINKS, MAX_WISHED, State, one_less, wish


def level_set(state: State, event: e.LevelSet) -> list[a.Action]:
    """The client sets a log level."""
    row = state.row(event.session)
    if row is None:
        return []
    row.level, row.sealed = event.level, None
    state.setting_level[event.session.key] += 1
    return [a.ShareLevel(event.session, event.level), *state.mark(event.session.key)]


def level_shared(state: State, event: e.LevelShared) -> list[a.Action]:
    """The store and the servers have a level, or cannot be reached."""
    one_less(state.setting_level, event.key)
    return []


def link_found(state: State, event: e.LinkFound) -> list[a.Action]:
    """A URI that no list has was found at a server."""
    row = state.rows.get(event.key)
    if row is not None and len(event.uri) <= MAX_WISHED:
        links = row.links = row.links if row.links is not None else {}
        if len(links) >= MAX_LINKS:
            del links[next(iter(links))]
        links[event.uri] = event.server
    return []


def subscribed(state: State, event: e.Subscribed) -> list[a.Action]:
    """The client subscribes to a resource, or no longer."""
    row = state.row(event.session)
    if row is None:
        return []
    is_kept = wish(row, event.server, event.uri, wanted=event.wanted)
    share: list[a.Action] = []
    if is_kept:
        share = [a.ShareSubscription(event.session, event.server, event.uri, event.wanted), *state.mark(event.session.key)]
    return [*share, *(state.listen(row, event.server) if event.wanted else [])]


def wishes_read(state: State, event: e.WishesRead) -> list[a.Action]:
    """Wishes that the client had in another process."""
    row = state.rows.get(event.session.key)
    if row is None or (event.old and (row.level is not None or row.resources is not None)):
        return []
    if event.session.key not in state.setting_level:  # what the client set here is newer
        row.level, row.sealed = event.wishes.level or row.level, None
    for server, uris in event.wishes.resources.items():
        for uri in sorted(uris):
            wish(row, server, uri, wanted=True)
    return []


def server_told(state: State, event: e.ServerTold) -> list[a.Action]:
    """A server knows what its client wants to hear of."""
    row = state.rows.get(event.session.key)
    if row is None or row.upstreams.get(event.server) != event.upstream:
        return []
    return state.listen(row, event.server)
