"""What somebody sees of the catalog, by scope. A view is a snapshot with fewer items.

So lists, calls, streams and batches obey it without knowing of it. Views are made when somebody asks, and
kept with their snapshot: there may be many scopes, and few of them in use.
"""

from __future__ import annotations

from mcpgw_sidecar.catalog.offers import joined_capabilities, joined_instructions
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot, build
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import Scope
from mcpgw_sidecar.model.servers import VirtualServer

MAX_VIEWS = 1000  # views of one snapshot; beyond it the oldest is dropped, and made again when it is asked for
_OF_CALLS = frozenset({"logging"})  # a capability besides its lists that matters to whoever only calls a server's tools


def view_of(snapshot: Snapshot, scope: Scope) -> Snapshot | None:
    """What a scope sees of a snapshot; None for a virtual server that there is not."""
    if scope.virtual is None:
        return snapshot
    view = snapshot.views.get(scope)
    if view is None:
        definition = snapshot.virtual_servers.get(scope.virtual)
        if definition is None:
            return None
        if len(snapshot.views) >= MAX_VIEWS:
            del snapshot.views[next(iter(snapshot.views))]
        view = snapshot.views[scope] = _view(snapshot, definition)
    return view


def state_of(snapshot: Snapshot, scope: Scope) -> str:
    """The state of the lists that a scope sees; that of empty lists for a virtual server that there is not."""
    return (view_of(snapshot, scope) or EMPTY).state


def _view(snapshot: Snapshot, definition: VirtualServer) -> Snapshot:
    """The tools of a virtual server, as far as there are any. Nobody chose prompts and resources for it."""
    tools = snapshot.of(TOOL).owned
    chosen = {name: tools[name] for name in definition.tools if name in tools}
    owners = {item.server.name for item in chosen.values()}
    offers = [offer for name, offer in snapshot.offers.items() if name in owners]
    return build(
        snapshot.offers,
        {TOOL.name: chosen},
        instructions=joined_instructions(offers),
        capabilities=joined_capabilities(offers) & _OF_CALLS,
    )
