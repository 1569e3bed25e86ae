"""`mcpgw-sidecar demo`: three small MCP servers, the sidecar and a real Envoy on one machine."""

GUIDE_HOST = "mcp.127-0-0-1.sslip.io"
"""The guide's name for this machine."""
