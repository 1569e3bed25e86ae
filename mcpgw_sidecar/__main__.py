"""`python -m mcpgw_sidecar`, the same as the program `mcpgw-sidecar`."""

from __future__ import annotations

from mcpgw_sidecar.cli import main

if __name__ == "__main__":
    main()
