"""The configuration as text, in the guide's format: what the ConfigMap `mcp-gateway-config` holds. Credentials never enter it."""

from __future__ import annotations

import json

from mcpgw_sidecar.model.servers import Server, VirtualServer

KEY = "config.yaml"
LABELS = {"app.kubernetes.io/name": "mcpgw-sidecar", "mcpgw.dev/aggregated": "true"}
MAX_SIZE = 1_000_000  # bytes; the API takes 1 MiB for the whole object


def render(servers: tuple[Server, ...], virtual_servers: tuple[VirtualServer, ...]) -> str:
    """The text; servers in the order that decides conflicts, which whoever follows it has to keep, virtual ones by name."""
    lines = ["servers:"] if servers else ["servers: []"]
    for server in servers:
        lines += [
            f"  - name: {_text(server.name)}",
            f"    url: {_text(server.url)}",
            f"    hostname: {_text(server.hostname)}",
            *([f"    toolPrefix: {_text(server.tool_prefix)}"] if server.tool_prefix else []),
            f"    enabled: {str(server.enabled).lower()}",
        ]
    if virtual_servers:
        lines.append("virtualServers:")
    for virtual in virtual_servers:
        lines += [f"  - name: {_text(virtual.name)}", *(["    tools:"] if virtual.tools else ["    tools: []"])]
        lines += [f"      - {_text(tool)}" for tool in virtual.tools]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A YAML scalar: plain where it cannot be taken for anything else, JSON (which YAML reads) otherwise."""
    plain = value[:1].isalpha() and value.isascii() and all(char.isalnum() or char in "-_./:" for char in value)
    ambiguous = ":" in value.removeprefix("http:").removeprefix("https:") and "://" not in value
    words = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
    return value if plain and not ambiguous and value.lower() not in words else json.dumps(value, ensure_ascii=False)
