"""The command line (interface.md, Command line)."""

from __future__ import annotations

from mcpgw_sidecar.cli.entry import main

__all__ = ["main"]
