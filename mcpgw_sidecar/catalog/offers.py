"""What servers offer: their items as they were discovered, and what each says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from mcpgw_sidecar.catalog.items import Item, Unusable
from mcpgw_sidecar.model.servers import Server

MAX_INSTRUCTIONS = 4096  # characters of one server's instructions: every client of every server reads them


@attrs.frozen
class Discovered:
    """What a server last said that it offers; `items` by kind's name, `protocol_versions` as it negotiated."""

    items: Mapping[str, tuple[Item, ...]] = attrs.field(factory=dict)
    unusable: tuple[Unusable, ...] = ()
    instructions: str = ""
    capabilities: frozenset[str] = frozenset()
    protocol_versions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Offer:
    """A server in a snapshot, with what was discovered of it besides its items."""

    server: Server
    instructions: str = attrs.field(default="", repr=False)
    capabilities: frozenset[str] = frozenset()
    protocol_versions: tuple[str, ...] = ()


def offer_of(server: Server, discovered: Discovered) -> Offer:
    """The server as a snapshot carries it."""
    return Offer(
        server=server,
        instructions=discovered.instructions,
        capabilities=discovered.capabilities,
        protocol_versions=discovered.protocol_versions,
    )


def joined_instructions(offers: Iterable[Offer]) -> str:
    """What the servers tell a model about themselves, each under the prefix by which its tools are known."""
    parts: list[str] = []
    for offer in offers:
        if offer.instructions:
            server = offer.server
            owner = f"Tools that start with {server.tool_prefix}" if server.tool_prefix else f"Tools of {server.name}"
            parts.append(f"{owner}:\n{offer.instructions[:MAX_INSTRUCTIONS]}")
    return "\n\n".join(parts)


def joined_capabilities(offers: Iterable[Offer]) -> frozenset[str]:
    """The capabilities that one of the servers has."""
    return frozenset[str]().union(*(offer.capabilities for offer in offers))
