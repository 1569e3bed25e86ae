"""Decides the era of a request by its protocol version. No other module compares versions.

The ladder (duties in shared/reference/mcp-duties.md 1.0), first match wins:

1. the header `MCP-Protocol-Version` names a stateful version       -> stateful
2. it names any other version                                       -> 400, -32022 with the versions
                                                                       of the gateway: a client of
                                                                       both eras then initializes
3. no header: the versions before 2025-06-18 had none               -> stateful

The stateless era (2026-07-28) becomes a rung of its own between 1 and 2, and a sibling of
`routing.stateful`.
"""

from __future__ import annotations

import enum

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.protocol.jsonrpc import UNSUPPORTED_VERSION
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.protocol.versions import STATEFUL


class Era(enum.Enum):
    """How client and server keep state between two requests."""

    STATEFUL = "stateful"


def era_of(version: str | None) -> Era | Reject:
    """The era of a request by its version header (the ladder above)."""
    if version is None or version in STATEFUL:
        return Era.STATEFUL
    message = f"Unsupported protocol version: use one of {', '.join(STATEFUL)}"
    return refusal(UNSUPPORTED_VERSION, message, data={"supported": list(STATEFUL), "requested": version})
