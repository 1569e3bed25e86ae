"""MCP on the wire, without input or output: JSON text, envelopes, headers, versions, SSE. Pure."""
