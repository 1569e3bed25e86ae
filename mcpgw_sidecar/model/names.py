"""Names as types of their own, so that a server's name is never passed where a tool's is meant."""

from __future__ import annotations

from typing import NewType

import attrs

ServerName = NewType("ServerName", str)
"""Unique name of an MCP server in the configuration; `<namespace>/<HTTPRoute name>` in Kubernetes."""

VirtualName = NewType("VirtualName", str)
"""Name of a virtual server; `<namespace>/<name>` in Kubernetes, and by convention in a file."""

JsonText = NewType("JsonText", str)
"""One JSON value as it was written by its author; relayed, never re-serialised."""


@attrs.frozen
class Scope:
    """Who sees what: the virtual server that a client named, None for everything."""

    virtual: VirtualName | None = None


ENDPOINT = "/mcp"
"""Path of the one MCP endpoint."""

BROKER = ServerName("mcpBroker")
"""Value of `x-mcp-servername` when no server but the broker answers."""

ENVOY = ServerName("mcpEnvoy")
"""The same when Envoy repeats a list that the broker has answered."""

NULL = JsonText("null")
"""The `id` of an answer to a request whose own id could not be read."""
