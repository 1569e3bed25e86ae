"""A server on the Python SDK 1.x, with sessions and event streams: `server1.py PORT`."""

import sys

from mcp.server.fastmcp import FastMCP

server = FastMCP("python-1", host="127.0.0.1", port=int(sys.argv[1]), log_level="WARNING")


@server.tool()
def echo(message: str = "") -> str:
    """Say it again."""
    return f"Echo: {message}"


server.run(transport="streamable-http")
