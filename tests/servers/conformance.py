"""The upstream for the conformance suite, on the Python SDK: its tools, prompts and resources.

The suite (npm, @modelcontextprotocol/conformance) looks for fixtures with these names, and its
scenarios say what each has to do. Runs as a program: `python -m tests.servers.conformance PORT`.
"""

from __future__ import annotations

import base64
import itertools
import sys
from typing import Annotated, Any

import anyio
import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
STEPS = 3
RETRY = 200  # milliseconds that a client is asked to wait before it resumes a stream

server: MCPServer[Any] = MCPServer("conformance-fixtures", version="1.0.0", log_level="WARNING")
Asked = Context[Any, Any]


class Events(EventStore):
    """Every event of every stream, so that a stream can be resumed."""

    def __init__(self) -> None:
        self._events: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        last = int(last_event_id) if last_event_id.isdigit() else 0
        if not 1 <= last <= len(self._events):
            return None
        stream = self._events[last - 1][0]
        for number, (of, message) in enumerate(self._events[last:], last + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def _resource(uri: str, kind: str, text: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(type="resource", resource=types.TextResourceContents(uri=uri, mime_type=kind, text=text))


def _image() -> types.ImageContent:
    return types.ImageContent(type="image", data=PNG, mime_type="image/png")


@server.tool()
async def test_simple_text() -> str:
    """One text."""
    return "This is a simple text response for testing."


@server.tool()
async def test_image_content() -> list[types.ImageContent]:
    """One image."""
    return [_image()]


@server.tool()
async def test_audio_content() -> list[types.AudioContent]:
    """One sound."""
    return [types.AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


@server.tool()
async def test_embedded_resource() -> list[types.EmbeddedResource]:
    """One resource inside a result."""
    return [_resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@server.tool()
async def test_multiple_content_types() -> list[types.TextContent | types.ImageContent | types.EmbeddedResource]:
    """Text, image and resource in one result."""
    text = types.TextContent(type="text", text="Multiple content types test:")
    return [text, _image(), _resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')]


@server.tool()
async def test_tool_with_logging(ctx: Asked) -> str:
    """Three log messages while it runs."""
    for step in range(STEPS):
        await ctx.info(f"step {step + 1} of {STEPS}")
        await anyio.sleep(0.05)
    return "logged"


@server.tool()
async def test_tool_with_progress(ctx: Asked) -> str:
    """Progress 0, 50 and 100 of 100."""
    for percent in (0, 50, 100):
        await ctx.report_progress(percent, 100, f"{percent} %")
        await anyio.sleep(0.05)
    return "done"


@server.tool()
async def test_error_handling() -> str:
    """Fail as a tool."""
    msg = "This tool intentionally returns an error for testing"
    raise ToolError(msg)


@server.tool()
async def test_sampling(prompt: str, ctx: Asked) -> str:
    """Ask the client's model."""
    question = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message(messages=[question], max_tokens=100)
    return f"LLM response: {getattr(answer.content, 'text', '')}"


class Reply(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


@server.tool()
async def test_elicitation(message: str, ctx: Asked) -> str:
    """Ask the user."""
    answer = await ctx.elicit(message=message, schema=Reply)
    return f"User response: {answer.model_dump_json()}"


class Defaults(BaseModel):
    """A default for each primitive type (SEP-1034)."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


@server.tool()
async def test_elicitation_sep1034_defaults(ctx: Asked) -> str:
    """Ask the user, with defaults."""
    answer = await ctx.elicit(message="Please confirm or change", schema=Defaults)
    return f"Elicitation completed: {answer.model_dump_json()}"


def _titled(*titles: str) -> list[dict[str, str]]:
    return [{"const": f"value{number}", "title": title} for number, title in enumerate(titles, 1)]


_PLAIN = ["option1", "option2", "option3"]
_TITLED = _titled("First Option", "Second Option", "Third Option")


class Enums(BaseModel):
    """Every kind of enumeration (SEP-1330)."""

    untitledSingle: str = Field(json_schema_extra={"enum": _PLAIN})  # noqa: N815  # the suite's names
    titledSingle: str = Field(json_schema_extra={"oneOf": _TITLED})  # noqa: N815
    legacyEnum: str = Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]})  # noqa: N815
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": _PLAIN}})  # noqa: N815
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _TITLED}})  # noqa: N815


@server.tool()
async def test_elicitation_sep1330_enums(ctx: Asked) -> str:
    """Ask the user to choose."""
    answer = await ctx.elicit(message="Please choose", schema=Enums)
    return f"Elicitation completed: {answer.model_dump_json()}"


@server.tool()
async def test_reconnection(ctx: Asked) -> str:
    """Close the stream of the call in its midst; the client resumes it (SEP-1699)."""
    await ctx.close_sse_stream()
    await anyio.sleep(RETRY / 1000)
    return "Reconnection test completed successfully"


@server.tool()
async def json_schema_2020_12_tool() -> str:
    """Keywords of JSON Schema 2020-12, to arrive as they are (SEP-1613)."""
    return "ok"


_address = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
}
server._tool_manager.get_tool("json_schema_2020_12_tool").parameters = {  # type: ignore[union-attr]
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": _address},
    "properties": {
        **{name: {"type": "string"} for name in ("name", "phone", "email")},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@server.resource("test://static-text", mime_type="text/plain")
async def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
async def static_binary() -> bytes:
    """Bytes."""
    return base64.b64decode(PNG)


@server.resource("test://watched-resource", mime_type="text/plain")
async def watched_resource() -> str:
    """Something to subscribe to."""
    return "Watched resource content"


@server.resource("test://template/{number}/data", mime_type="application/json")
async def templated(number: str) -> str:
    """Made by a template."""
    return f'{{"id":"{number}","templateTest":true,"data":"Data for ID: {number}"}}'


@server.prompt()
async def test_simple_prompt() -> list[UserMessage]:
    """Without arguments."""
    return [UserMessage("This is a simple prompt for testing.")]


@server.prompt()
async def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    """With two arguments."""
    return [UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]


@server.prompt()
async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803  # the suite's name
    """With a resource inside."""
    content = _resource(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(content), UserMessage("Please process the embedded resource above.")]


@server.prompt()
async def test_prompt_with_image() -> list[UserMessage]:
    """With an image inside."""
    return [UserMessage(_image()), UserMessage("Please analyze the image above.")]


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    """The names that start as the argument does."""
    del ref, context
    values = [name for name in ("paris", "park", "party") if name.startswith(argument.value)]
    return types.Completion(values=values, total=len(values), has_more=False)


async def _accepted(_ctx: Any, _params: Any) -> types.EmptyResult:
    return types.EmptyResult()


for method, params in {
    "logging/setLevel": types.SetLevelRequestParams,
    "resources/subscribe": types.SubscribeRequestParams,
    "resources/unsubscribe": types.UnsubscribeRequestParams,
}.items():
    server._lowlevel_server.add_request_handler(method, params, _accepted)


# What the scenarios of 2026-07-28 ask for besides; none of those of the stateful era calls these.

_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_OK = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
Asking = types.InputRequiredResult


def _ask(message: str, schema: dict[str, Any] = _NAME) -> types.ElicitRequest:
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str) -> types.CreateMessageRequest:
    said = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=text))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[said], max_tokens=50))


@server.tool()
async def test_missing_capability(ctx: Asked) -> str:
    """Want a client with sampling."""
    declared = ctx.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY, "needs sampling", {"requiredCapabilities": {"sampling": {}}}
        )
    return "declared"


@server.tool()
async def test_streaming_elicitation(ctx: Asked) -> str | Asking:
    """Tell of progress, then ask."""
    await ctx.report_progress(1, 2)
    return "answered" if ctx.input_responses else Asking(input_requests={"user_name": _ask("Who?")})


@server.tool()
async def test_logging_tool(ctx: Asked) -> str:
    """Log, whether anybody asked for it or not."""
    await ctx.info("a message")
    return "logged"


@server.tool()
async def test_region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Want its argument in a header, too."""
    return region


@server.tool()
async def test_input_required_result_elicitation(ctx: Asked) -> str | Asking:
    """Ask the user; again where the answer is missing."""
    asked = "user_name" in (ctx.input_responses or {})
    return "Hello!" if asked else Asking(input_requests={"user_name": _ask("What is your name?")})


@server.tool()
async def test_input_required_result_sampling(ctx: Asked) -> str | Asking:
    """Ask the client's model."""
    return "said" if ctx.input_responses else Asking(input_requests={"capital": _sample("What is the capital of France?")})


@server.tool()
async def test_input_required_result_list_roots(ctx: Asked) -> str | Asking:
    """Ask for the roots."""
    return "roots" if ctx.input_responses else Asking(input_requests={"roots": types.ListRootsRequest()})


@server.tool()
async def test_input_required_result_request_state(ctx: Asked) -> str | Asking:
    """Want its state back."""
    if ctx.input_responses and ctx.request_state == "nonce":
        return "state-ok"
    return Asking(input_requests={"confirm": _ask("Sure?", _OK)}, request_state="nonce")


@server.tool()
async def test_input_required_result_multiple_inputs(ctx: Asked) -> str | Asking:
    """Ask three things at once."""
    if len(ctx.input_responses or {}) == 3:
        return "all"
    three = {"user_name": _ask("Who?"), "greeting": _sample("Greet"), "roots": types.ListRootsRequest()}
    return Asking(input_requests=three, request_state="three")  # type: ignore[arg-type]


@server.tool()
async def test_input_required_result_multi_round(ctx: Asked) -> str | Asking:
    """Ask twice."""
    step = int(ctx.request_state or 0)
    return "both" if step == 2 else Asking(input_requests={f"step{step + 1}": _ask("?")}, request_state=str(step + 1))


@server.tool()
async def test_input_required_result_tampered_state(ctx: Asked) -> str | Asking:
    """Leave it to the SDK to refuse a state that is not its own."""
    return "ok" if ctx.request_state else Asking(input_requests={"confirm": _ask("Sure?", _OK)}, request_state="one")


@server.tool()
async def test_input_required_result_capabilities(ctx: Asked) -> Asking:
    """Ask what the client declares."""
    declared = ctx.client_capabilities
    asks: dict[str, Any] = {}
    if declared is not None and declared.sampling is not None:
        asks["sample"] = _sample("hello")
    if declared is not None and declared.elicitation is not None:
        asks["ask"] = _ask("Who?")
    return Asking(input_requests=asks, request_state="gated")


@server.prompt()
async def test_input_required_result_prompt(ctx: Asked) -> list[UserMessage] | Asking:
    """Ask before it is filled in."""
    return [UserMessage("filled in")] if ctx.input_responses else Asking(input_requests={"user_context": _ask("Which?")})


_turns = itertools.count()


@server.tool()
async def test_trigger_tool_change(ctx: Asked) -> str:
    """Replace a tool: a list that is the same again is no news through the gateway."""
    turn = next(_turns)
    server.add_tool(test_simple_text, name=f"turn_{turn}")
    if f"turn_{turn - 1}" in server._tool_manager._tools:
        server.remove_tool(f"turn_{turn - 1}")
    await ctx.notify_tools_changed()
    return "changed"


_prompt_turns = itertools.count()


@server.tool()
async def test_trigger_prompt_change(ctx: Asked) -> str:
    """Replace a prompt."""
    turn = next(_prompt_turns)
    server.add_prompt(Prompt.from_function(test_simple_prompt, name=f"turn_{turn}"))
    if f"turn_{turn - 1}" in server._prompt_manager._prompts:
        server.remove_prompt(f"turn_{turn - 1}")
    await ctx.notify_prompts_changed()
    return "changed"


if __name__ == "__main__":
    server.run(transport="streamable-http", port=int(sys.argv[1]), event_store=Events(), retry_interval=RETRY)
