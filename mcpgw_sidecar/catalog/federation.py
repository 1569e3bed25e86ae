"""Decides which server owns a name that several servers list.

It is the server that stands earlier in the configuration (interface.md). The result depends on the
configuration and on the items of the servers, never on which server answered first, so that all
replicas agree.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mcpgw_sidecar.catalog.aliases import write_alias
from mcpgw_sidecar.catalog.apps import is_for_apps, with_pages
from mcpgw_sidecar.catalog.items import MAX_NAME
from mcpgw_sidecar.catalog.offers import Discovered, for_stateful, joined_capabilities, joined_instructions, offer_of
from mcpgw_sidecar.catalog.snapshot import Owned, Snapshot, build
from mcpgw_sidecar.model.access import OPEN, Access
from mcpgw_sidecar.model.kinds import KINDS, TOOL, Kind
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.patterns import long_name
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.model.statuses import Conflict, Invalid, Warned


@attrs.frozen
class Share:
    """One server's part in a federation.

    `owned` has the keys that it owns, by kind's name; `conflicts` and `invalid` have the items that
    clients do not see, with the reason.
    """

    owned: Mapping[str, tuple[str, ...]]
    conflicts: tuple[Conflict, ...]
    invalid: tuple[Invalid, ...]

    def count(self, kind: Kind) -> int:
        """How many items of a kind clients see of this server."""
        return len(self.owned.get(kind.name, ()))

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the server's tools as clients see them."""
        return self.owned.get(TOOL.name, ())

    @property
    def warnings(self) -> tuple[Warned, ...]:
        """The tools whose names are too long for the APIs of some models."""
        return tuple(Warned(kind=TOOL.name, name=name, reason=long_name(name)) for name in self.tools if long_name(name))


@attrs.frozen
class Federation:
    """The snapshot and each server's part in it."""

    snapshot: Snapshot
    shares: Mapping[ServerName, Share]


@attrs.frozen
class _Prefixes:
    """The servers by their prefixes, and the lengths of these, the longest first."""

    servers: Mapping[str, ServerName]
    _lengths: tuple[int, ...] = attrs.field(init=False)

    @_lengths.default
    def _sorted_lengths(self) -> tuple[int, ...]:
        return tuple(sorted({len(prefix) for prefix in self.servers}, reverse=True))

    def owner(self, key: str, server: Server) -> ServerName | None:
        """The other server to whose prefix a name belongs, by the longest that fits.

        Else a server could take over the tools of another by names that begin as that one's do, and
        would get the arguments of its calls. None for `server` itself. (By lengths: a thousand
        servers have few, and each would be compared with each tool.)
        """
        longest = next((key[:length] for length in self._lengths if key[:length] in self.servers), None)
        return None if longest is None or longest == server.tool_prefix else self.servers[longest]


def federate_eras(
    servers: tuple[Server, ...],
    discovered: Mapping[ServerName, Discovered],
    modern: Mapping[ServerName, Discovered],
    virtual_servers: tuple[VirtualServer, ...] = (),
    access: Access = OPEN,
) -> Federation:
    """Merge what the servers offer to clients of each era.

    The stateful catalog has the stateless one beside it. `modern` are the servers that speak that
    era. Each server is in both catalogs: where it does not speak the era of one, the broker
    translates.
    """
    alone = {name for name in modern if name not in discovered or not discovered[name].protocol_versions}
    offers = {**discovered, **{name: for_stateful(modern[name]) for name in alone}}
    stateful = federate(servers, offers, virtual_servers, access)
    stateless = federate(servers, {**discovered, **modern}, virtual_servers) if modern else stateful
    snapshot = attrs.evolve(stateful.snapshot, stateless=stateless.snapshot)
    return Federation(snapshot, stateful.shares)


def with_access(federation: Federation, access: Access) -> Federation:
    """The same catalog under other rules. Views are made for rules, so those of before stay."""
    snapshot = attrs.evolve(federation.snapshot, access=access)
    snapshot.views.update(federation.snapshot.views)
    return attrs.evolve(federation, snapshot=snapshot)


def federate(
    servers: tuple[Server, ...],
    discovered: Mapping[ServerName, Discovered],
    virtual_servers: tuple[VirtualServer, ...] = (),
    access: Access = OPEN,
) -> Federation:
    """Merge the items of the enabled servers, in the order of the configuration."""
    owners: dict[str, dict[str, Owned]] = {kind.name: {} for kind in KINDS}
    offers = {server.name: offer_of(server, discovered.get(server.name, Discovered())) for server in servers}
    prefixes = _Prefixes({server.tool_prefix: server.name for server in reversed(servers) if server.tool_prefix})
    shares = {server.name: _claim(server, discovered.get(server.name, Discovered()), owners, prefixes) for server in servers}
    snapshot = build(
        offers,
        owners,
        instructions=joined_instructions(offers.values()),
        capabilities=joined_capabilities(offers.values()),
        virtual_servers={virtual.name: virtual for virtual in virtual_servers},
        access=access,
    )
    return Federation(snapshot, shares)


def _claim(server: Server, discovered: Discovered, owners: dict[str, dict[str, Owned]], prefixes: _Prefixes) -> Share:
    keys: dict[str, list[str]] = {}
    conflicts: list[Conflict] = []
    invalid = [Invalid(kind=item.kind, name=item.name, reason=item.reason) for item in discovered.unusable]
    renamed: dict[str, str] = {}
    for kind in sorted(KINDS, key=lambda kind: kind.prefixed):  # URIs first: tools name those of their pages
        prefix, owned_items = server.tool_prefix if kind.prefixed else "", owners[kind.name]
        for item in discovered.items.get(kind.name, ()):
            key, text = prefix + item.key, item.with_prefix(prefix)
            if kind is TOOL:
                text = with_pages(text, renamed)
            owner = owned_items.get(key)
            if owner is not None and owner.server.name != server.name and not kind.prefixed:
                key = write_alias(server.name, item.key)
                owner, text = owned_items.get(key), item.with_key(key)
                renamed[item.key] = key
            if kind.prefixed and len(key) > MAX_NAME:
                reason = f"{len(key)} characters with the prefix; {MAX_NAME} are allowed"
                invalid.append(Invalid(kind=kind.name, name=key, reason=reason))
            elif kind.prefixed and (of_prefix := prefixes.owner(key, server)) is not None:
                conflicts.append(Conflict(kind=kind.name, name=key, owner=of_prefix))
            elif owner is None:
                owned_items[key] = Owned(key, server, item.key_text, text, kind is TOOL and is_for_apps(text))
                keys.setdefault(kind.name, []).append(key)
            elif owner.server.name == server.name:
                invalid.append(Invalid(kind=kind.name, name=key, reason="the server lists this name twice"))
            else:
                conflicts.append(Conflict(kind=kind.name, name=key, owner=owner.server.name))
    return Share({name: tuple(of_kind) for name, of_kind in keys.items()}, tuple(conflicts), tuple(invalid))
