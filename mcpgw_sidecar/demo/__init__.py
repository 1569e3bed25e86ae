"""`mcpgw-sidecar demo`: three small MCP servers, the sidecar and a real Envoy on one machine."""
