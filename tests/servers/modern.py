"""A server of the Python SDK that speaks the stateless era (2026-07-28) and no other.

The SDK's own servers speak both eras; this one refuses requests of the other, as its specification
asks. Runs as a program: `python -m tests.servers.modern PORT [both]`, the last for both eras; it
says on its output which slow calls have begun, and which have been cut off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

VERSION = "2026-07-28"
_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

server: MCPServer[Any] = MCPServer("modern", version="1.0.0", log_level="WARNING", instructions="Be modern.")
Asked = Context[Any, Any]


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def echo(message: str = "") -> str:
    """Say it again."""
    return f"Echo: {message}"


@server.tool()
def fails() -> str:
    """Fail."""
    raise RuntimeError("sorry")


@server.tool()
def several() -> list[str]:
    """Answer with a list."""
    return ["one", "two"]


@server.tool()
def here(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Want the region in a header, too."""
    return region


@server.tool()
async def steps(ctx: Asked) -> str:
    """Tell of two steps."""
    await ctx.report_progress(progress=1, total=2, message="first")
    await ctx.info("half way")
    await ctx.debug("too much")
    await ctx.report_progress(progress=2, total=2)
    return "done"


def say(text: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@server.tool()
async def slow(ctx: Asked) -> str:
    """Take half a minute."""
    await ctx.report_progress(progress=0, total=1)
    try:
        say("begun")
        await anyio.sleep(30)
    except BaseException:
        say("cut off")
        raise
    return "late"


@server.tool()
async def who(ctx: Asked, rounds: int = 1) -> str | types.InputRequiredResult:
    """Ask the user for a name, so many times."""
    state = int(ctx.request_state or 0)
    got = (ctx.input_responses or {}).get("name")
    if state == rounds and isinstance(got, types.ElicitResult):
        return f"Hello, {got.content['name']}!" if got.action == "accept" and got.content else f"nobody: {got.action}"
    params = types.ElicitRequestFormParams(message=f"Name {state + 1}?", requested_schema=_SCHEMA)
    asked: types.InputRequests = {"name": types.ElicitRequest(params=params)}
    return types.InputRequiredResult(input_requests=asked, request_state=str(state + 1))


@server.tool()
async def page(ctx: Asked) -> str | types.InputRequiredResult:
    """Send the user to a page, and ask again until that is done: the third time."""
    state = int(ctx.request_state or 0)
    if state == 3:
        return "logged in"
    params = types.ElicitRequestURLParams(message="Log in there", url="https://login.example/x")
    asked: types.InputRequests = {"page": types.ElicitRequest(params=params)}
    return types.InputRequiredResult(input_requests=asked, request_state=str(state + 1))


@server.tool()
async def all_at_once(ctx: Asked) -> str | types.InputRequiredResult:
    """Ask for a name, a sample and the roots at the same time."""
    got = ctx.input_responses
    if got:
        return json.dumps(sorted(type(each).__name__ for each in got.values()))
    sample = types.CreateMessageRequestParams(
        messages=[types.SamplingMessage(role="user", content=types.TextContent(text="hi"))], max_tokens=10
    )
    return types.InputRequiredResult(
        input_requests={
            "name": types.ElicitRequest(params=types.ElicitRequestFormParams(message="Name?", requested_schema=_SCHEMA)),
            "sample": types.CreateMessageRequest(params=sample),
            "roots": types.ListRootsRequest(),
        }
    )


@server.tool()
async def busy(ctx: Asked) -> str | types.InputRequiredResult:
    """Want the call three times before it is answered."""
    state = int(ctx.request_state or 0)
    return "at last" if state == 2 else types.InputRequiredResult(request_state=str(state + 1))


@server.tool()
async def grow(ctx: Asked) -> str:
    """Offer one tool more, and tell of it."""
    server.add_tool(fails, name="grown")
    await ctx.notify_tools_changed()
    return "told"


@server.resource("memo://one")
def one() -> str:
    """A resource."""
    return "text of one"


@server.resource("memo://of/{name}")
def of(name: str) -> str:
    """A memo of somebody."""
    return f"memo of {name}"


@server.prompt()
def greet(name: str) -> str:
    """A prompt."""
    return f"Greet {name}"


@server.completion()
async def complete(_reference: object, argument: types.CompletionArgument, _context: object) -> types.Completion | None:
    """Complete an argument."""
    return types.Completion(values=[f"{argument.value}!"])


def only_modern(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The application without the stateful era."""

    async def filtered(scope: Any, receive: Any, send: Any) -> None:
        versions = [value for name, value in scope.get("headers", ()) if name == b"mcp-protocol-version"]
        if scope["type"] != "http" or versions == [VERSION.encode()]:
            await app(scope, receive, send)
            return
        body = b""
        while (event := await receive())["type"] == "http.request":
            body += event["body"]
            if not event.get("more_body"):
                break
        data = {"supported": [VERSION], "requested": versions[0].decode() if versions else ""}
        error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
        ident = json.loads(body or b"{}").get("id")
        text = json.dumps({"jsonrpc": "2.0", "id": ident, "error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return filtered


if __name__ == "__main__":
    served: Any = server.streamable_http_app()
    if sys.argv[2:] != ["both"]:
        served = only_modern(served)
    uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
