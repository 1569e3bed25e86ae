"""Types for names, so that the name of a server is never passed in place of another name."""

from __future__ import annotations

from typing import NewType

import attrs

from mcpgw_sidecar.model.access import Rule

ServerName = NewType("ServerName", str)
"""Name of an MCP server in the configuration, unique; `<namespace>/<HTTPRoute>` in Kubernetes."""

VirtualName = NewType("VirtualName", str)
"""Name of a virtual server; `<namespace>/<name>` in Kubernetes, and by convention in a file."""

JsonText = NewType("JsonText", str)
"""One JSON value as its author wrote it; relayed, never serialised again."""


@attrs.frozen
class Scope:
    """The scope of a client: the virtual server that it names, None for the whole catalog.

    `apps` says that the client shows pages (MCP Apps). `rules` are those that hold for its caller,
    None where there are none.
    """

    virtual: VirtualName | None = None
    apps: bool = False
    rules: frozenset[Rule] | None = None


ENDPOINT = "/mcp"
"""Path of the one MCP endpoint."""

BROKER = ServerName("mcpBroker")
"""Value of `x-mcp-servername` when the broker answers, and no server."""

ENVOY = ServerName("mcpEnvoy")
"""Value of `x-mcp-servername` when Envoy repeats a list that the broker has answered."""

NULL = JsonText("null")
"""The `id` of an answer to a request whose own id could not be read."""
