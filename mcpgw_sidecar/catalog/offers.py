"""What servers offer: their items, instructions and capabilities, as they were discovered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from mcpgw_sidecar.catalog import items
from mcpgw_sidecar.catalog.items import Item, Unusable
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.versions import STATELESS

CAN_SUBSCRIBE = "resources.subscribe"
"""Name of the capability to subscribe to single resources."""

MAX_INSTRUCTIONS = 4096  # characters of one server's instructions: every client of every server reads them


@attrs.frozen
class Discovered:
    """The last answers of a server about itself.

    `items` is by kind's name; `protocol_versions` are those that the server negotiated.
    """

    items: Mapping[str, tuple[Item, ...]] = attrs.field(factory=dict)
    unusable: tuple[Unusable, ...] = ()
    instructions: str = ""
    capabilities: frozenset[str] = frozenset()
    protocol_versions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Offer:
    """A server in a snapshot, with its answers about itself, besides its items."""

    server: Server
    instructions: str = attrs.field(default="", repr=False)
    capabilities: frozenset[str] = frozenset()
    protocol_versions: tuple[str, ...] = ()

    @property
    def is_stateless(self) -> bool:
        """Whether the server speaks the stateless era alone."""
        return self.speaks_stateless and set(self.protocol_versions) <= set(STATELESS)

    @property
    def speaks_stateless(self) -> bool:
        """Whether the server speaks the stateless era."""
        return not set(STATELESS).isdisjoint(self.protocol_versions)


def for_stateful(modern: Discovered) -> Discovered:
    """What a server of the stateless era offers to clients of the other."""
    tools = tuple(items.for_stateful(item) for item in modern.items.get(TOOL.name, ()))
    return attrs.evolve(modern, items={**modern.items, TOOL.name: tools})


def offer_of(server: Server, discovered: Discovered) -> Offer:
    """The offer of a server, for a snapshot."""
    return Offer(
        server=server,
        instructions=discovered.instructions,
        capabilities=discovered.capabilities,
        protocol_versions=discovered.protocol_versions,
    )


def joined_instructions(offers: Iterable[Offer]) -> str:
    """The instructions of the servers for a model, each under the prefix of the server's tools."""
    parts: list[str] = []
    for offer in offers:
        if offer.instructions:
            server = offer.server
            owner = f"Tools that start with {server.tool_prefix}" if server.tool_prefix else f"Tools of {server.name}"
            parts.append(f"{owner}:\n{offer.instructions[:MAX_INSTRUCTIONS]}")
    return "\n\n".join(parts)


def joined_capabilities(offers: Iterable[Offer]) -> frozenset[str]:
    """The capabilities that at least one of the servers has."""
    return frozenset[str]().union(*(offer.capabilities for offer in offers))
