"""One MCP endpoint next to Envoy: router, broker and configuration source in one Trio process."""

from __future__ import annotations

__version__ = "0.1.0"
PROGRAM = "mcpgw-sidecar"
