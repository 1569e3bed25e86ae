"""Every client with every server: each generation of the SDKs, and raw clients of older versions.

design-eras.md, section 9. What belongs to one direction alone is in test_translated.py and
test_pooled.py, changes of lists and resources in test_eras.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import attrs
import pytest
from mcp.shared.exceptions import MCPError

from tests.e2e.clients import CACHE, CLIENTS, NODE_PARTS
from tests.e2e.conftest import node
from tests.e2e.stack import Client, Gateway, Process, answer, entry, free_ports, gateway, text_of, wait_until
from tests.e2e.test_eras import META, ask
from tests.e2e.test_translated import Person, _answers

OLD = [str(CACHE / "mcp1" / "bin" / "python"), str(CLIENTS / "server1.py")]
MODERN = [sys.executable, "-m", "tests.servers.modern"]
SERVERS = {
    "2025-11-25, sessions (Python SDK 1.x)": (OLD, ()),
    "2025-11-25, no sessions (Python SDK 1.x)": (OLD, ("plain",)),
    "2026-07-28 (Python SDK 2.x)": (MODERN, ()),
    "both eras (Python SDK 2.x)": (MODERN, ("both",)),
}
LARGE = 1_000_000  # characters of an argument; the answer has them twice
MOST = 300_000  # the same, for the SDK's client, which takes events up to a megabyte


@attrs.frozen
class Served:
    """A gateway in front of one server."""

    running: Gateway
    process: Process
    is_modern: bool
    can_ask: bool
    has_both: bool

    @property
    def translates_sessions(self) -> bool:
        """Whether calls of clients with sessions are translated."""
        return self.is_modern and not self.has_both

    def ended(self) -> int:
        """How many calls the server has seen cut off."""
        return self.process.text.count("cut off") + self.process.text.count("cancelled")

    @property
    def question(self) -> tuple[str, dict[str, str]]:
        """The tool that asks for a name, and what it says, by the user's action."""
        if self.is_modern:
            return "who", {"accept": "Hello, Ann!", "decline": "nobody: decline", "cancel": "nobody: cancel"}
        return "ask", {"accept": "accept: Ann", "decline": "decline: -", "cancel": "cancel: -"}

    @property
    def several(self) -> str:
        """The tool that asks for several things at once."""
        return "all_at_once" if self.is_modern else "think"


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    program, options = SERVERS[request.param]
    (port,) = free_ports(1)
    directory = tmp_path_factory.mktemp("matrix")
    process = Process([*program, str(port), *options], directory / "server.log", PYTHONUNBUFFERED="1")
    url = f"http://127.0.0.1:{port}/mcp"
    try:
        wait_until(lambda: _answers(url), request.param)
        with gateway(directory, [entry("ns/one", url, "x_")]) as running:
            yield Served(running, process, program is MODERN, options != ("plain",), options == ("both",))
    finally:
        process.stop()


@pytest.mark.duty("era.direct", "era.translated", "era.pooled")
@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
def test_an_sdk_client(served: Served, mode: str) -> None:
    asyncio.run(wait_used(served, mode))


async def wait_used(served: Served, mode: str) -> None:
    person = Person(mode=mode)
    async with person.client(served.running.url) as client:
        tools = {each.name for each in (await client.list_tools()).tools}
        assert {"x_echo", "x_fails", "x_steps", "x_slow"} <= tools
        assert (await client.call_tool("x_echo", {"message": "é"})).content[0].text == "Echo: é"  # type: ignore[union-attr]
        assert (await client.call_tool("x_fails", {})).is_error
        with pytest.raises(MCPError, match="Tool not found"):
            await client.call_tool("x_nothing", {})
        if served.can_ask:  # a server that answers in JSON has nowhere to tell
            result = await client.call_tool("x_steps", {}, progress_callback=person.progress)
            assert result.content[0].text == "done"  # type: ignore[union-attr]
            assert person.steps == [(1, "first"), (2, None)]
        large = await client.call_tool("x_echo", {"message": "x" * MOST})
        assert len(large.content[0].text) == MOST + len("Echo: ")  # type: ignore[union-attr]
        prompts = [each.name for each in (await client.list_prompts()).prompts]
        assert prompts == ["x_greet"]
        assert "Greet Ann" in str((await client.get_prompt("x_greet", {"name": "Ann"})).messages[0].content)
        assert [str(each.uri) for each in (await client.list_resources()).resources] == ["memo://one"]
        templates = [each.uri_template for each in (await client.list_resource_templates()).resource_templates]
        assert templates == ["memo://of/{name}"]
        assert "memo of Ann" in str((await client.read_resource("memo://of/Ann")).contents[0])
        with pytest.raises(MCPError):
            await client.read_resource("other://nobody")
        completed = await client.complete(
            {"type": "ref/prompt", "name": "x_greet"}, {"name": "name", "value": "An"}  # type: ignore[arg-type]
        )  # fmt: skip
        assert completed.completion.values == ["An!"]


@pytest.mark.duty("era.translated", "era.pooled")
@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
def test_a_server_asks_the_user(served: Served, mode: str) -> None:
    if not served.can_ask:
        pytest.skip("it keeps no sessions and sends no events: it cannot ask")
    if served.has_both and mode == "legacy":
        pytest.skip('its SDK: "Handler returned an invalid result" for a question of the other era, also without a gateway')
    tool, outcomes = served.question
    for action, said in outcomes.items():
        person = Person(action, mode)
        assert person.calls(served.running.url, (f"x_{tool}", {})) == [(False, said)]
        assert len(person.asked) == 1
    several = Person(mode=mode).calls(served.running.url, (f"x_{served.several}", {}))
    assert several[0][0] is False, several
    refused = Person(mode=mode).calls(served.running.url, (f"x_{tool}", {}), can_answer=False)
    assert refused[0][0] is True, "a client that has not said so is asked nothing"


@pytest.mark.duty("era.translated", "era.pooled")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_a_cancelled_call_ends_at_its_server(served: Served, mode: str) -> None:
    if not served.can_ask:
        pytest.skip("its SDK goes on with a call whose client is gone")
    ends, begun = served.ended(), served.process.text.count("begun")

    async def use() -> None:
        async with Person(mode=mode).client(served.running.url) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "x_slow", {})
                await asyncio.to_thread(wait_until, lambda: served.process.text.count("begun") > begun)
                group.cancel_scope.cancel()
            await asyncio.to_thread(wait_until, lambda: served.ended() > ends)
            # The SDK must not close while the answer of the cancelled call is on its way: it comes
            # before this one.
            assert not (await client.call_tool("x_echo", {})).is_error

    asyncio.run(use())


@pytest.mark.duty("era.direct", "era.translated", "era.pooled")
@pytest.mark.parametrize(("sdk", "mode"), [("1", "legacy"), ("2", "legacy"), ("2", "auto"), ("2", "pin")])
def test_a_typescript_sdk_client(served: Served, sdk: str, mode: str) -> None:
    if mode == "pin" and not served.is_modern:
        pytest.skip("it asks server/discover first: clients are led to the other era (--prefer-era)")
    can_ask = served.can_ask and not (served.has_both and mode == "legacy")  # see above
    tool, outcomes = served.question
    asking = f"x_{tool}" if can_ask else ""
    report = json.loads(node(NODE_PARTS / "matrix.mjs", served.running.url, sdk, mode, asking))
    assert {"x_echo", "x_fails", "x_steps", "x_slow"} <= set(report.pop("tools"))
    assert "Tool not found" in report.pop("unknown")
    assert report == {
        "echo": "Echo: é",
        "fails": True,
        "steps": "done",
        "progress": [1, 2] if served.can_ask else [],
        "asked": outcomes["accept"] if can_ask else "",
        "prompt": 1,
        "resource": "memo of Ann",
        "templates": ["memo://of/{name}"],
        "completed": ["An!"],
    }


@pytest.mark.duty("era.translated")
@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_a_raw_client_of_sessions(served: Served, version: str) -> None:
    with Client(served.running.url, version=version, mcp_protocol_version=version) as client:
        assert client.initialized.json()["result"]["protocolVersion"] == version
        assert {"x_echo", "x_steps"} <= set(client.tools())
        assert text_of(client.call("x_echo", message="1")) == "Echo: 1"
        assert text_of(client.call("x_echo", message="x" * LARGE)) == "Echo: " + "x" * LARGE
        assert answer(client.call("x_fails"))["result"]["isError"] is True
        assert "Tool not found" in answer(client.call("x_nothing"))["error"]["message"]
        params = {"name": "x_steps", "arguments": {}, "_meta": {"progressToken": 9007199254740993}}
        response = client.post("tools/call", params, ident="é")
        events = messages_of(response.text) if "event-stream" in response.headers["content-type"] else [response.json()]
        tokens = [each["params"]["progressToken"] for each in events if each.get("method") == "notifications/progress"]
        assert tokens == ([9007199254740993] * 2 if served.can_ask else [])
        assert events[-1]["id"] == "é"
        assert "resultType" not in events[-1]["result"]
        read = answer(client.post("resources/read", {"uri": "memo://of/Ann"}))["result"]
        assert read["contents"][0]["text"] == "memo of Ann"
        assert answer(client.post("prompts/get", {"name": "x_greet", "arguments": {"name": "Ann"}}))["result"]["messages"]
        unknown = answer(client.post("resources/read", {"uri": "other://nobody"}))["error"]["code"]
        assert unknown == (-32002 if served.translates_sessions else unknown), "-32602 is another error in this era"
        if version == "2025-03-26":
            call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "x_echo", "arguments": {"message": "b"}}}
            batch = client.send([{**call, "id": 1}, {**call, "id": 2}])
            answers = messages_of(batch.text) if "event-stream" in batch.headers["content-type"] else batch.json()
            assert sorted(each["id"] for each in answers) == [1, 2]
            assert all("Echo: b" in json.dumps(each["result"]) for each in answers)


@pytest.mark.duty("era.direct", "era.pooled")
def test_a_raw_client_without_sessions(served: Served) -> None:
    running, level = served.running, "io.modelcontextprotocol/logLevel"
    listed = ask(running, "tools/list").json()["result"]
    assert {"x_echo", "x_steps"} <= {each["name"] for each in listed["tools"]}
    result = answer(ask(running, "tools/call", name="x_echo", arguments={"message": "1"}))["result"]
    assert (result["content"][0]["text"], result["resultType"]) == ("Echo: 1", "complete")
    large = answer(ask(running, "tools/call", name="x_echo", arguments={"message": "x" * LARGE}))["result"]
    assert large["content"][0]["text"] == "Echo: " + "x" * LARGE
    for wanted, heard in ((None, []), ("info", ["half way"]), ("error", [])):
        meta = META | {"progressToken": "p"} | ({level: wanted} if wanted else {})
        said = ask(running, "tools/call", name="x_steps", arguments={}, meta=meta)
        events = messages_of(said.text) if "event-stream" in said.headers["content-type"] else [said.json()]
        logs = [each["params"]["data"] for each in events if each.get("method") == "notifications/message"]
        assert logs == (heard if served.can_ask else [])
        assert events[-1]["result"]["resultType"] == "complete"
    refused = ask(running, "resources/read", mcp_name="other://nobody", uri="other://nobody").json()["error"]
    assert refused["code"] == -32602


def messages_of(text: str) -> list[Any]:
    """The messages of an event stream."""
    lines = (line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:"))
    found = [json.loads(line) for line in lines if line]
    return [message for each in found for message in (each if isinstance(each, list) else [each])]
