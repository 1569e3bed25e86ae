"""The servers' side of the broker: HTTP with MCP servers, their lists, and calls that the broker carries."""
