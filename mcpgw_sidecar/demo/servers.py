"""Small versions of the guide's three MCP servers.

They use the Python SDK, which nobody wrote for this gateway.

| prefix    | tools                                                            |
|-----------|------------------------------------------------------------------|
| `test_`   | greet, time, headers, slow (with progress), fail (a tool error)  |
| `test2_`  | hello_world, time, headers, slow                                 |
| `apikey_` | hello_world; 401 without the right Authorization                 |
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings

API_KEY = "Bearer test-api-key-secret-token"
"""The Authorization that the apikey server requires. It is in the guide, so no secret."""

_REDACTED = frozenset({"authorization", "mcp-session-id", "cookie"})
App = Callable[[Any, Any, Any], Awaitable[None]]


def _server1() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("server1", version="1.0.0", log_level="WARNING")

    @server.tool()
    async def greet(name: str = "you") -> str:
        """Say hi."""
        return f"Hi {name}"

    @server.tool()
    async def fail(message: str = "this tool always fails") -> str:
        """Fail, as tools do when something is wrong with what they were asked."""
        raise ToolError(message)

    _add_common(server)
    return server


def _server2() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("server2", version="1.0.0", log_level="WARNING")

    @server.tool()
    async def hello_world(name: str = "world") -> str:
        """Greet."""
        return f"Hello, {name}!"

    _add_common(server)
    return server


def _api_key_server() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("api-key-server", version="1.0.0", log_level="WARNING")

    @server.tool()
    async def hello_world(name: str = "world") -> str:
        """Greet somebody who has the key."""
        return f"Hello, {name}, you have the key!"

    return server


def _add_common(server: MCPServer[Any]) -> None:
    @server.tool()
    async def time() -> str:
        """Tell the time (UTC)."""
        return datetime.now(UTC).isoformat(timespec="seconds")

    @server.tool()
    async def headers(ctx: Context[Any, Any]) -> str:
        """Show the headers that arrived here, secrets left out."""
        request_headers = dict(ctx.headers or {})
        return json.dumps({name: "…" if name in _REDACTED else value for name, value in request_headers.items()}, indent=2)

    @server.tool()
    async def slow(ctx: Context[Any, Any], seconds: int = 5) -> str:
        """Work for some seconds and report progress each second."""
        for second in range(1, seconds + 1):
            await trio.sleep(1)
            await ctx.report_progress(second, seconds, f"{second} of {seconds} s")
        return f"done after {seconds} s"


def _with_key(app: App) -> App:
    async def guarded(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  # ASGI
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or headers.get(b"authorization") == API_KEY.encode():
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Bearer")]})
        await send({"type": "http.response.body", "body": b"Unauthorized"})

    return guarded


async def wait_serving(ports: tuple[int, ...], *, bind: str = "127.0.0.1", any_name: bool = False) -> None:
    """Serve the three servers, each on a port (0: any).

    Prints the ports as a JSON line when all servers accept.

    Without `any_name` the servers answer only to loopback names, the default of the SDK. In a
    cluster clients use the names of Services.
    """
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False) if any_name else None
    servers = (_server1(), _server2(), _api_key_server())
    apps: list[App] = [server.streamable_http_app(transport_security=security) for server in servers]
    apps[2] = _with_key(apps[2])
    async with trio.open_nursery() as nursery:
        urls: list[str] = []
        for app, port in zip(apps, ports, strict=True):
            config = Config()
            config.bind = [f"{bind}:{port}"]
            config.errorlog = None
            config.graceful_timeout = 0.2
            config.keep_alive_max_requests = 1_000_000
            urls += await nursery.start(hypercorn.trio.serve, app, config)
        sys.stdout.write(json.dumps([int(url.rpartition(":")[2]) for url in urls]) + "\n")
        sys.stdout.flush()
