"""The configuration as YAML in the guide's format: the text of the ConfigMap `mcp-gateway-config`.

Credentials are left out.
"""

from __future__ import annotations

import json
import re

from mcpgw_sidecar.catalog.ruletext import rules_document
from mcpgw_sidecar.model.access import Policy
from mcpgw_sidecar.model.exchanges import TokenExchange
from mcpgw_sidecar.model.exchangetext import exchange_document
from mcpgw_sidecar.model.servers import ForwardedHeader, Server, VirtualServer

KEY = "config.yaml"
LABELS = {"app.kubernetes.io/name": "mcpgw-sidecar", "mcpgw.dev/aggregated": "true"}
STALE = "mcpgw.dev/stale"
"""The annotation that says, to those who follow a ConfigMap, why it is not the newest."""

_PLAIN = re.compile(r"(https?://)?[A-Za-z][A-Za-z0-9._/-]*(:[0-9]+/[A-Za-z0-9._/-]*)?")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
MAX_SIZE = 1_000_000  # bytes; the API takes 1 MiB for the whole object


def render(
    servers: tuple[Server, ...], virtual_servers: tuple[VirtualServer, ...], policies: tuple[Policy, ...] = ()
) -> str:
    """The text. Virtual servers are sorted by name.

    Servers keep their order, because it decides conflicts: a reader of the ConfigMap has to use the
    same order.
    """
    lines = ["servers:"] if servers else ["servers: []"]
    for server in servers:
        lines += [
            f"  - name: {_text(server.name)}",
            f"    url: {_text(server.url)}",
            f"    hostname: {_text(server.hostname)}",
            *([f"    toolPrefix: {_text(server.tool_prefix)}"] if server.tool_prefix else []),
            f"    enabled: {str(server.enabled).lower()}",
            *(["    forwardHeaders:"] if server.forwarded else []),
            *(f"      - {_header(header)}" for header in server.forwarded),
            *(_exchange(server.token_exchange) if server.token_exchange is not None else []),
        ]
    if virtual_servers:
        lines.append("virtualServers:")
    for virtual in virtual_servers:
        lines += [f"  - name: {_text(virtual.name)}", *(["    tools:"] if virtual.tools else ["    tools: []"])]
        lines += [f"      - {_text(tool)}" for tool in virtual.tools]
    if policies:
        lines.append("policies:")
    lines += [f"  {_text(each.namespace)}: {json.dumps(rules_document(each.rules))}" for each in policies]
    return "\n".join(lines) + "\n"


def _header(header: ForwardedHeader) -> str:
    """An entry of forwardHeaders."""
    if header.sent == header.name and not header.required:
        return _text(header.name)
    return f"{{name: {_text(header.name)}, as: {_text(header.sent)}, required: {str(header.required).lower()}}}"


def _exchange(exchange: TokenExchange) -> list[str]:
    """Without the secret, which whoever follows the ConfigMap does not get either."""
    document = exchange_document(exchange)
    lines = ["    tokenExchange:", *(f"      {key}: {_text(value)}" for key, value in document.items() if key != "grant")]
    if "grant" in document:
        lines += ["      grant:", *(f"        {key}: {_text(value)}" for key, value in document["grant"].items())]
    return lines


def _text(value: str) -> str:
    """A YAML scalar: plain where it can only be read as this text, in quotes otherwise."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in json.dumps(value, ensure_ascii=False))
