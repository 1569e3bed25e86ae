"""Whose tool is it? The rule of interface.md: the server that stands earlier in the configuration owns a clashing name.

The result depends on the configuration and on what the servers offer, never on who answered first, so all replicas agree.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mcpgw_sidecar.catalog.snapshot import OwnedTool, Snapshot, build
from mcpgw_sidecar.catalog.tools import MAX_NAME, Tool, Unusable
from mcpgw_sidecar.model.names import ServerName, ToolName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.statuses import Conflict, Invalid

MAX_INSTRUCTIONS = 4096  # characters of one server's instructions: every client of every server reads them


@attrs.frozen
class Discovered:
    """What a server last said that it offers."""

    tools: tuple[Tool, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    instructions: str = ""


@attrs.frozen
class Share:
    """One server's part in a federation: the names that it serves, and those that it does not, with the reason."""

    owned: tuple[ToolName, ...]
    conflicts: tuple[Conflict, ...]
    invalid: tuple[Invalid, ...]


@attrs.frozen
class Federation:
    """The snapshot and each server's part in it."""

    snapshot: Snapshot
    shares: Mapping[ServerName, Share]


def federate(servers: tuple[Server, ...], discovered: Mapping[ServerName, Discovered]) -> Federation:
    """Merge what the enabled servers offer, in the order of the configuration."""
    owners: dict[ToolName, OwnedTool] = {}
    shares = {server.name: _claim(server, discovered.get(server.name, Discovered()), owners) for server in servers}
    instructions = _instructions(servers, discovered)
    return Federation(build({server.name: server for server in servers}, owners, instructions), shares)


def _instructions(servers: tuple[Server, ...], discovered: Mapping[ServerName, Discovered]) -> str:
    """What the servers tell a model about themselves, each under the prefix by which its tools are known."""
    parts: list[str] = []
    for server in servers:
        offer = discovered.get(server.name)
        if offer is not None and offer.instructions:
            whose = f"Tools that start with {server.tool_prefix}" if server.tool_prefix else f"Tools of {server.name}"
            parts.append(f"{whose}:\n{offer.instructions[:MAX_INSTRUCTIONS]}")
    return "\n\n".join(parts)


def _claim(server: Server, offer: Discovered, owners: dict[ToolName, OwnedTool]) -> Share:
    owned: list[ToolName] = []
    conflicts: list[Conflict] = []
    invalid = [Invalid(kind="tool", name=bad.name, reason=bad.reason) for bad in offer.unusable]
    for tool in offer.tools:
        name = ToolName(server.tool_prefix + tool.name)
        owner = owners.get(name)
        if len(name) > MAX_NAME:
            reason = f"{len(name)} characters with the prefix; {MAX_NAME} are allowed"
            invalid.append(Invalid(kind="tool", name=name, reason=reason))
        elif owner is None:
            owners[name] = OwnedTool(name, server, tool.name_text, tool.with_prefix(server.tool_prefix))
            owned.append(name)
        elif owner.server.name == server.name:
            invalid.append(Invalid(kind="tool", name=name, reason="the server lists this name twice"))
        else:
            conflicts.append(Conflict(kind="tool", name=name, owner=owner.server.name))
    return Share(tuple(owned), tuple(conflicts), tuple(invalid))
