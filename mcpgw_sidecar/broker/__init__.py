"""The broker: the gateway's own answers to clients, and its own connections to MCP servers."""
