"""Small Trio tools without any knowledge of MCP: a value to watch, supervision, HTTP serving."""
