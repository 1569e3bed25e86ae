"""A server on the Python SDK 1.x: `server1.py PORT [plain]`.

It has sessions and event streams; `plain` has neither.
"""

import sys

import anyio
from mcp.server.fastmcp import Context, FastMCP
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp.types import Completion, CompletionArgument, ElicitRequestURLParams, SamplingMessage, TextContent
from pydantic import BaseModel

plain = sys.argv[2:] == ["plain"]
server = FastMCP(
    "python-1", host="127.0.0.1", port=int(sys.argv[1]), log_level="WARNING", stateless_http=plain, json_response=plain
)


class Name(BaseModel):
    """What a user is asked."""

    name: str


@server.tool()
def echo(message: str = "") -> str:
    """Say it again."""
    return f"Echo: {message}"


@server.tool()
def fails() -> str:
    """Fail."""
    raise RuntimeError("sorry")


@server.tool()
async def steps(ctx: Context) -> str:
    """Tell of two steps."""
    await ctx.report_progress(1, 2, "first")
    await ctx.info("half way")
    await ctx.debug("too much")
    await ctx.report_progress(2, 2)
    return "done"


@server.tool()
async def ask(ctx: Context) -> str:
    """Ask the user for a name."""
    answer = await ctx.elicit("Who are you?", schema=Name)
    return f"{answer.action}: {answer.data.name if answer.action == 'accept' else '-'}"


@server.tool()
async def page(ctx: Context) -> str:
    """Send the user to a page."""
    answer = await ctx.elicit_url("Log in there", url="https://login.example/x", elicitation_id="e1")
    return answer.action


seen = 0


@server.tool()
def gate() -> str:
    """Begin only when the user has been on a page; every third call has it."""
    global seen  # noqa: PLW0603  # the page would tell
    seen += 1
    if seen % 3:
        page = ElicitRequestURLParams(message="Pay there", url="https://pay.example/x", elicitationId=f"g{seen}")
        raise UrlElicitationRequiredError([page])
    return "paid"


@server.tool()
async def think(ctx: Context) -> str:
    """Ask the client's model, and where its roots are, at the same time."""
    said: dict[str, str] = {}

    async def sample() -> None:
        message = SamplingMessage(role="user", content=TextContent(type="text", text="Think!"))
        result = await ctx.session.create_message(messages=[message], max_tokens=5, related_request_id=ctx.request_id)
        said["model"] = result.content.text

    async def roots() -> None:
        said["roots"] = str(len((await ctx.session.list_roots()).roots))  # on the stream outside of the call

    async with anyio.create_task_group() as group:
        group.start_soon(sample)
        group.start_soon(roots)
    return f"{said['model']} {said['roots']}"


@server.tool()
async def slow() -> str:
    """Take long; says on the output when it is cut off."""
    try:
        print("begun", flush=True)
        await anyio.sleep(30)
    except anyio.get_cancelled_exc_class():
        print("cancelled", flush=True)
        raise
    return "late"


@server.resource("memo://one")
def one() -> str:
    """A memo."""
    return "remember"


@server.resource("memo://of/{name}")
def of(name: str) -> str:
    """A memo of somebody."""
    return f"memo of {name}"


@server.prompt()
def greet(name: str) -> str:
    """A prompt."""
    return f"Greet {name}"


@server.completion()
async def complete(_reference: object, argument: CompletionArgument, _context: object) -> Completion:
    """Complete an argument."""
    return Completion(values=[f"{argument.value}!"])


server.run(transport="streamable-http")
