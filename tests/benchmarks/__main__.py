"""`just bench NAME [ARGUMENT ...]` runs one benchmark.

Its figures, with their machine, belong into RESULTS.md.
"""

from __future__ import annotations

import importlib
import sys

NAMES = {
    "calls": "a tools/call, beside plain Envoy, Envoy's mcp_router and FastMCP's proxy",
    "parts": "what the parts of a hit cost, each left out once",
    "login": "a hit with a token of each caller, beside the same without login",
    "callers": "ten thousand callers with twenty scopes, and a change of their rules",
    "lists": "tools/list with few and with many tools",
    "sessions": "sessions with streams, and their clients vanishing",
    "listens": "clients without sessions that listen for changes",
    "scale": "a thousand servers, fifty thousand sessions, two gateways on one port",
    "storms": "changes of the configuration, a start with dead servers, the sidecar away",
    "profile": "where the sidecar's CPU goes, as flame graphs",
    "start": "what a start of each form of the program costs",
    "kube": "MCPServers in Kubernetes",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit("\n".join([__doc__ or "", *(f"  {name:10} {what}" for name, what in NAMES.items())]))
    name, arguments = sys.argv[1], sys.argv[2:]
    importlib.import_module(f"tests.benchmarks.{name}").main(*arguments)


if __name__ == "__main__":
    main()
