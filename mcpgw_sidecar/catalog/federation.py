"""Whose is it? The rule of interface.md: the server that stands earlier in the configuration owns a clashing name.

The result depends on the configuration and on what the servers offer, never on who answered first, so all replicas agree.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mcpgw_sidecar.catalog.aliases import write_alias
from mcpgw_sidecar.catalog.items import MAX_NAME, Item, Unusable
from mcpgw_sidecar.catalog.snapshot import Owned, Snapshot, build
from mcpgw_sidecar.model.kinds import KINDS, TOOL, Kind
from mcpgw_sidecar.model.names import ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.model.statuses import Conflict, Invalid

_OF_CALLS = frozenset({"logging"})  # what a server declares besides its lists that matters to whoever only calls its tools
MAX_INSTRUCTIONS = 4096  # characters of one server's instructions: every client of every server reads them


@attrs.frozen
class Discovered:
    """What a server last said that it offers; `items` by kind's name."""

    items: Mapping[str, tuple[Item, ...]] = attrs.field(factory=dict)
    unusable: tuple[Unusable, ...] = ()
    instructions: str = ""
    capabilities: frozenset[str] = frozenset()


@attrs.frozen
class Share:
    """One server's part in a federation: the keys that it serves (by kind's name), and those that it does not, with the reason."""

    owned: Mapping[str, tuple[str, ...]]
    conflicts: tuple[Conflict, ...]
    invalid: tuple[Invalid, ...]

    def count(self, kind: Kind) -> int:
        """How many of a kind clients see of this server."""
        return len(self.owned.get(kind.name, ()))

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of its tools as clients see them."""
        return self.owned.get(TOOL.name, ())


@attrs.frozen
class Federation:
    """The snapshot and each server's part in it."""

    snapshot: Snapshot
    shares: Mapping[ServerName, Share]


def federate(
    servers: tuple[Server, ...],
    discovered: Mapping[ServerName, Discovered],
    virtual_servers: tuple[VirtualServer, ...] = (),
) -> Federation:
    """Merge what the enabled servers offer, in the order of the configuration."""
    owners: dict[str, dict[str, Owned]] = {kind.name: {} for kind in KINDS}
    offers = {server.name: discovered.get(server.name, Discovered()) for server in servers}
    shares = {server.name: _claim(server, offers[server.name], owners) for server in servers}
    snapshot = build(
        {server.name: server for server in servers},
        owners,
        instructions=_instructions(servers, offers),
        capabilities=frozenset().union(*(offer.capabilities for offer in offers.values())),
        views=_views(servers, offers, owners[TOOL.name], virtual_servers),
    )
    return Federation(snapshot, shares)


def _views(
    servers: tuple[Server, ...],
    offers: Mapping[ServerName, Discovered],
    tools: Mapping[str, Owned],
    virtual_servers: tuple[VirtualServer, ...],
) -> dict[VirtualName, Snapshot]:
    """Of each virtual server its tools, as far as there are any; it has no prompts and no resources: nobody chose them for it."""
    views: dict[VirtualName, Snapshot] = {}
    by_name = {server.name: server for server in servers}
    for virtual in virtual_servers:
        chosen = {name: tools[name] for name in virtual.tools if name in tools}
        owners = {owned.server.name for owned in chosen.values()}
        views[virtual.name] = build(
            by_name,
            {TOOL.name: chosen},
            instructions=_instructions(tuple(server for server in servers if server.name in owners), offers),
            capabilities=frozenset().union(*(offers[name].capabilities for name in owners)) & _OF_CALLS,
        )
    return views


def _instructions(servers: tuple[Server, ...], offers: Mapping[ServerName, Discovered]) -> str:
    """What the servers tell a model about themselves, each under the prefix by which its tools are known."""
    parts: list[str] = []
    for server in servers:
        told = offers[server.name].instructions
        if told:
            whose = f"Tools that start with {server.tool_prefix}" if server.tool_prefix else f"Tools of {server.name}"
            parts.append(f"{whose}:\n{told[:MAX_INSTRUCTIONS]}")
    return "\n\n".join(parts)


def _claim(server: Server, offer: Discovered, owners: dict[str, dict[str, Owned]]) -> Share:
    owned: dict[str, list[str]] = {}
    conflicts: list[Conflict] = []
    invalid = [Invalid(kind=bad.kind, name=bad.name, reason=bad.reason) for bad in offer.unusable]
    for kind in KINDS:
        prefix, taken = server.tool_prefix if kind.prefixed else "", owners[kind.name]
        for item in offer.items.get(kind.name, ()):
            key, text = prefix + item.key, item.with_prefix(prefix)
            owner = taken.get(key)
            if owner is not None and owner.server.name != server.name and not kind.prefixed:
                key = write_alias(server.name, item.key)
                owner, text = taken.get(key), item.with_key(key)
            if kind.prefixed and len(key) > MAX_NAME:
                reason = f"{len(key)} characters with the prefix; {MAX_NAME} are allowed"
                invalid.append(Invalid(kind=kind.name, name=key, reason=reason))
            elif owner is None:
                taken[key] = Owned(key, server, item.key_text, text)
                owned.setdefault(kind.name, []).append(key)
            elif owner.server.name == server.name:
                invalid.append(Invalid(kind=kind.name, name=key, reason="the server lists this name twice"))
            else:
                conflicts.append(Conflict(kind=kind.name, name=key, owner=owner.server.name))
    return Share({name: tuple(keys) for name, keys in owned.items()}, tuple(conflicts), tuple(invalid))
