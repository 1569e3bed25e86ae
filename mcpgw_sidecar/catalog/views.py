"""The view of a client on the catalog, by scope. A view is a snapshot with fewer items.

So lists, calls, streams and batches obey it without code of their own. A view is made at its first
use and kept with its snapshot, because there may be many scopes, and few of them in use.
"""

from __future__ import annotations

from mcpgw_sidecar.catalog.offers import joined_capabilities, joined_instructions
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot, build
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import Scope
from mcpgw_sidecar.model.servers import VirtualServer

MAX_VIEWS = 1000  # views of one snapshot; beyond it the oldest is dropped, and made again at its next use
_OF_CALLS = frozenset({"logging"})  # the capability, besides lists, that matters to a client that only calls tools


def view_of(snapshot: Snapshot, scope: Scope) -> Snapshot | None:
    """The view of a scope on a snapshot; None if its virtual server does not exist."""
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
    """The state of the lists in a scope's view.

    If its virtual server does not exist, it is the state of empty lists.
    """
    return (view_of(snapshot, scope) or EMPTY).state


def _view(snapshot: Snapshot, definition: VirtualServer) -> Snapshot:
    """The view of a virtual server: those of its tools that the catalog has.

    A virtual server names no prompts and resources, so there are none.
    """
    catalog_tools = snapshot.of(TOOL).owned
    tools = {name: catalog_tools[name] for name in definition.tools if name in catalog_tools}
    owners = {item.server.name for item in tools.values()}
    offers = [offer for name, offer in snapshot.offers.items() if name in owners]
    return build(
        snapshot.offers,
        {TOOL.name: tools},
        instructions=joined_instructions(offers),
        capabilities=joined_capabilities(offers) & _OF_CALLS,
    )
