"""The view of a client on the catalog, by scope. A view is a snapshot with fewer items.

So lists, calls, streams and batches obey it without code of their own. A view is made at its first
use and kept with its snapshot, because there may be many scopes, and few of them in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from mcpgw_sidecar.catalog.offers import joined_capabilities, joined_instructions
from mcpgw_sidecar.catalog.rights import allows, given_by, reads, rules_of, sees_server
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot, build
from mcpgw_sidecar.model.access import Rule
from mcpgw_sidecar.model.kinds import KINDS, TOOL
from mcpgw_sidecar.model.names import Scope, VirtualName
from mcpgw_sidecar.model.servers import VirtualServer
from mcpgw_sidecar.protocol.extensions import KNOWN

MAX_VIEWS = 1000  # views of one snapshot; beyond it the oldest is dropped, and made again at its next use
_OF_CALLS = frozenset({"logging", *KNOWN})  # besides lists, what matters to a client that only calls tools


def view_of(snapshot: Snapshot, scope: Scope) -> Snapshot | None:
    """The view of a scope on a snapshot; None if its virtual server does not exist."""
    if scope.virtual is None and scope.rules is None and (scope.apps or not snapshot.has_app_tools):
        return snapshot
    view = snapshot.views.get(scope)
    if view is None:
        definition = snapshot.virtual_servers.get(scope.virtual) if scope.virtual is not None else None
        if definition is None and scope.virtual is not None:
            return None
        if len(snapshot.views) >= MAX_VIEWS:
            del snapshot.views[next(iter(snapshot.views))]
        if definition is not None:
            view = _view(snapshot, definition, apps=scope.apps)
        else:
            view = snapshot if scope.apps else _without_app_tools(snapshot)
        if scope.rules is not None:
            view = _allowed(view, scope.rules, scope.virtual)
        snapshot.views[scope] = view
    return view


def is_open(scope: Scope, catalog: Snapshot, claims: Mapping[str, Any] | None) -> bool:
    """Whether an endpoint is there for a caller."""
    if scope.virtual is None:
        return catalog.access.bare
    definition = catalog.virtual_servers.get(scope.virtual)
    return definition is None or definition.allow is None or allows(definition.allow, claims)


def current(scope: Scope, catalog: Snapshot, claims: Mapping[str, Any] | None) -> Scope | None:
    """A scope by the rules of now; None if its endpoint is closed to the caller."""
    return attrs.evolve(scope, rules=rules_of(catalog.access, claims)) if is_open(scope, catalog, claims) else None


def state_of(snapshot: Snapshot, scope: Scope) -> str:
    """The state of the lists in a scope's view.

    If its virtual server does not exist, it is the state of empty lists.
    """
    return (view_of(snapshot, scope) or EMPTY).state


def _without_app_tools(snapshot: Snapshot) -> Snapshot:
    """The view of a client without pages: the tools that pages alone call are not for its model."""
    owned = {kind.name: snapshot.of(kind).owned for kind in KINDS}
    owned[TOOL.name] = {name: tool for name, tool in owned[TOOL.name].items() if not tool.for_apps}
    return build(
        snapshot.offers,
        owned,
        instructions=snapshot.instructions,
        capabilities=snapshot.capabilities,
        virtual_servers=snapshot.virtual_servers,
    )


def _allowed(view: Snapshot, rules: frozenset[Rule], virtual: VirtualName | None) -> Snapshot:
    """What rules allow of a view; servers of which they allow nothing are not there."""
    is_given = given_by(rules, virtual)
    owned = {kind.name: {key: item for key, item in view.of(kind).owned.items() if is_given(kind, item)} for kind in KINDS}
    offers = {name: offer for name, offer in view.offers.items() if sees_server(rules, virtual, name)}
    owners = {item.server.name for items in owned.values() for item in items.values()}
    seen = [offer for name, offer in offers.items() if name in owners]
    allowed = build(
        offers,
        owned,
        instructions=joined_instructions(seen),
        capabilities=joined_capabilities(seen) & view.capabilities,
        virtual_servers=view.virtual_servers,
    )
    return attrs.evolve(allowed, readable=frozenset(name for name in offers if reads(rules, virtual, name)))


def _view(snapshot: Snapshot, definition: VirtualServer, *, apps: bool) -> Snapshot:
    """The view of a virtual server: those of its tools that the catalog has.

    A virtual server names no prompts and resources, so there are none.
    """
    catalog_tools = snapshot.of(TOOL).owned
    named = {name: catalog_tools[name] for name in definition.tools if name in catalog_tools}
    tools = {name: tool for name, tool in named.items() if apps or not tool.for_apps}
    owners = {item.server.name for item in tools.values()}
    offers = [offer for name, offer in snapshot.offers.items() if name in owners]
    return build(
        snapshot.offers,
        {TOOL.name: tools},
        instructions=joined_instructions(offers),
        capabilities=joined_capabilities(offers) & _OF_CALLS,
    )
