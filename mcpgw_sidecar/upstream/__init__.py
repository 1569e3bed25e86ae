"""The upstream side of the broker: HTTP with MCP servers, their lists, and calls of batches."""
