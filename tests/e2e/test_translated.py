"""Clients of the stateful era and servers of the stateless one, both of a real SDK."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.client import Client as SdkClient
from mcp.shared.exceptions import MCPError

from mcpgw_sidecar.front.room import OF_ONE
from tests.e2e.stack import PLAIN, Client, Gateway, Process, answer, entry, free_ports, gateway, listening, wait_until
from tests.e2e.test_eras import modern
from tests.servers.scripted import ScriptedServer, tool


@contextmanager
def started(directory: Path, *options: str) -> Iterator[tuple[Process, str]]:
    """The SDK's server, and its URL."""
    (port,) = free_ports(1)
    server = Process([sys.executable, "-m", "tests.servers.modern", str(port), *options], directory / "server.log")
    try:
        url = f"http://127.0.0.1:{port}/mcp"
        wait_until(lambda: _answers(url), "the server")
        yield server, url
    finally:
        server.stop()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str]]:
    with started(tmp_path_factory.mktemp("modern")) as server:
        yield server


def _answers(url: str) -> bool:
    try:
        return PLAIN.get(url).status_code > 0
    except httpx2.HTTPError:
        return False


@pytest.fixture(scope="module")
def running(process: tuple[Process, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("translated"), [entry("ns/modern", process[1], "m_")]) as new_gateway:
        yield new_gateway


class Person:
    """The user behind an SDK client of one era; `action` is what it says when asked."""

    def __init__(self, action: Any = "accept", mode: str = "legacy") -> None:
        self.action, self.mode = action, mode
        self.asked: list[str] = []
        self.heard: list[tuple[str, Any]] = []
        self.steps: list[tuple[float, str | None]] = []

    async def elicit(self, _context: Any, params: Any) -> types.ElicitResult:
        self.asked.append(params.message)
        content = {"name": "Ann"} if self.action == "accept" else None
        return types.ElicitResult(action=self.action, content=content)  # type: ignore[arg-type]

    async def sample(self, _context: Any, _params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text="x"), model="m")

    async def roots(self, _context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[])

    async def log(self, params: Any) -> None:
        self.heard.append((params.level, params.data))

    async def progress(self, progress: float, _total: float | None, message: str | None) -> None:
        self.steps.append((progress, message))

    def client(self, url: str, *, can_answer: bool = True) -> SdkClient:
        if not can_answer:
            return SdkClient(url, mode=self.mode, logging_callback=self.log)
        return SdkClient(
            url, mode=self.mode, logging_callback=self.log, elicitation_callback=self.elicit,
            sampling_callback=self.sample, list_roots_callback=self.roots,
        )  # fmt: skip

    def calls(self, url: str, *calls: tuple[str, dict[str, Any]], can_answer: bool = True) -> list[tuple[bool, str]]:
        async def use() -> list[tuple[bool, str]]:
            async with self.client(url, can_answer=can_answer) as client:
                return [await said(client, name, arguments) for name, arguments in calls]

        async def said(client: SdkClient, name: str, arguments: dict[str, Any]) -> tuple[bool, str]:
            try:
                result = await client.call_tool(name, arguments)
            except MCPError as error:
                return True, str(error)
            return result.is_error, result.content[0].text  # type: ignore[union-attr]

        return asyncio.run(use())


@pytest.mark.duty("era.translated")
def test_lists_and_calls(running: Gateway) -> None:
    assert running.server("ns/modern")["protocolVersion"] == "2026-07-28"

    async def use() -> None:
        async with Person().client(running.url, can_answer=False) as client:
            assert client.protocol_version == "2025-11-25"
            assert client.instructions == "Tools that start with m_:\nBe modern."
            names = [each.name for each in (await client.list_tools()).tools]
            assert {"m_add", "m_here", "m_several"} <= set(names)
            assert (await client.call_tool("m_add", {"a": 1, "b": 2})).structured_content == {"result": 3}
            assert (await client.call_tool("m_fails", {})).is_error
            region = await client.call_tool("m_here", {"region": "eu é"})
            assert region.content[0].text == "eu é"  # type: ignore[union-attr]  # the server compares it with the header
            read = await client.read_resource("memo://one")
            assert read.contents[0].text == "text of one"  # type: ignore[union-attr]
            with pytest.raises(Exception, match="Resource not found"):
                await client.read_resource("memo://none")
            prompt = await client.get_prompt("m_greet", {"name": "Ann"})
            assert prompt.messages[0].content.text == "Greet Ann"  # type: ignore[union-attr]
            reference = types.PromptReference(name="m_greet")
            completed = await client.complete(reference, {"name": "name", "value": "A"})
            assert completed.completion.values == ["A!"]

    asyncio.run(use())
    assert not running.sidecar.text.count("ERROR")
    assert 'mcpgw_translated_total{client="stateful",outcome="ok",server="ns/modern"}' in running.metrics()
    line = wait_until(
        lambda: next((each for each in running.envoy.text.splitlines() if '"tool":"m_add"' in each), None),
        "the line of a call",
    )
    assert json.loads(line).items() >= {"translated": "1", "protocol_version": "2025-11-25"}.items()


@pytest.mark.duty("era.translated")
@pytest.mark.filterwarnings("ignore:The logging capability")
def test_progress_and_log_come_before_the_answer(running: Gateway) -> None:
    person = Person()

    async def use(level: Any = None) -> None:
        async with person.client(running.url) as client:
            if level is not None:
                await client.set_logging_level(level)
            result = await client.call_tool("m_steps", {}, progress_callback=person.progress)
            assert result.content[0].text == "done"  # type: ignore[union-attr]

    asyncio.run(use())
    assert (person.heard, person.steps) == ([("info", "half way")], [(1, "first"), (2, None)])
    asyncio.run(use("debug"))
    assert person.heard[1:] == [("info", "half way"), ("debug", "too much")]
    asyncio.run(use("error"))
    assert len(person.heard) == 3


@pytest.mark.duty("era.translated")
def test_questions_reach_the_user(running: Gateway) -> None:
    accepts, declines = Person(), Person("decline")
    calls = [("m_who", {}), ("m_who", {"rounds": 3}), ("m_all_at_once", {}), ("m_busy", {})]
    said = [text for _, text in accepts.calls(running.url, *calls)]
    assert said == ["Hello, Ann!", "Hello, Ann!", '["CreateMessageResult", "ElicitResult", "ListRootsResult"]', "at last"]
    assert accepts.asked == ["Name 1?", "Name 1?", "Name 2?", "Name 3?", "Name?"]
    assert declines.calls(running.url, ("m_who", {})) == [(False, "nobody: decline")]


@pytest.mark.duty("era.translated")
def test_nobody_is_asked_what_nobody_can_answer(running: Gateway) -> None:
    """An old client takes such a result for an empty success."""
    ((_, unable),) = Person().calls(running.url, ("m_who", {}), can_answer=False)
    assert "this client cannot answer" in unable
    ((_, endless),) = Person().calls(running.url, ("m_who", {"rounds": 12}))
    assert "asks again and again" in endless
    with Client(running.url, capabilities={"elicitation": {}}) as client:
        refused = client.send(call("m_who"), accept="application/json")
        assert "cannot answer" in answer(refused)["error"]["message"]
        stray = client.send({"jsonrpc": "2.0", "id": "mcpgw-ask-00", "result": {}})
        assert (stray.status_code, stray.json()["error"]["code"]) == (400, -32600)


@pytest.mark.duty("era.translated")
def test_a_user_is_sent_to_a_page_once(running: Gateway) -> None:
    """The server is asked until it is content; then the client hears that the page is done with."""
    heard: list[Any] = []
    with Client(running.url, capabilities={"elicitation": {"url": {}}}) as client:
        with PLAIN.stream("POST", running.url, json=call("m_page"), headers=dict(client.headers), timeout=20) as response:
            for line in response.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message:
                    heard.append(message)
                if message.get("method") == "elicitation/create":
                    accepted = {"jsonrpc": "2.0", "id": message["id"], "result": {"action": "accept"}}
                    assert client.send(accepted).status_code == 202
        question, end, result = heard
        ident = question["params"].pop("elicitationId")
        assert question["params"] == {"mode": "url", "message": "Log in there", "url": "https://login.example/x"}
        assert (end["method"], end["params"]) == ("notifications/elicitation/complete", {"elicitationId": ident})
        assert result["result"]["content"][0]["text"] == "logged in"
    with Client(running.url, version="2025-06-18", capabilities={"elicitation": {"url": {}}}) as old:
        assert "cannot answer" in answer(old.send(call("m_page")))["error"]["message"]


def call(name: str, ident: Any = 5, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


@pytest.mark.duty("era.translated")
def test_an_error_of_the_client_is_an_answer(running: Gateway) -> None:
    """A refused elicitation is cancelled; for a sample there is no such word, so the call fails."""
    with Client(running.url, capabilities={"elicitation": {}, "sampling": {}, "roots": {}}) as client:
        for name, words in (("m_who", "nobody: cancel"), ("m_all_at_once", "did not answer")):
            with PLAIN.stream("POST", running.url, json=call(name), headers=dict(client.headers), timeout=20) as response:
                for line in response.iter_lines():
                    message = json.loads(line[5:]) if line.startswith("data:") else {}
                    if "method" in message:
                        error = {"code": -1, "message": "no"}
                        sent = client.send({"jsonrpc": "2.0", "id": message["id"], "error": error})
                        assert sent.status_code == 202
                        assert client.send({"jsonrpc": "2.0", "id": message["id"], "result": {}}).status_code == 400
                    elif message:
                        assert words in json.dumps(message)


@pytest.mark.duty("era.translated")
def test_a_cancelled_call_is_cut_off_at_its_server(running: Gateway, process: tuple[Process, str]) -> None:
    server, _ = process
    before, begun = server.text.count("cut off"), server.text.count("begun")
    with Client(running.url) as client:
        results: list[httpx2.Response] = []
        waiting = threading.Thread(target=lambda: results.append(client.call("m_slow", "slow")))
        waiting.start()

        def cancelled(ident: Any) -> bool:
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ident}}
            assert client.send(note).status_code == 202
            return not waiting.is_alive()

        assert not any(cancelled(ident) for ident in ("other", 7, None))
        wait_until(lambda: server.text.count("begun") > begun, "the call at its server")
        wait_until(lambda: cancelled("slow"), "the end of the call")
        assert "cancelled" in answer(results[0])["error"]["message"]
        wait_until(lambda: server.text.count("cut off") > before, "the end of the call at its server")


@pytest.mark.duty("era.translated")
@pytest.mark.parametrize("options", [(), ("both",)])
def test_changes_of_its_lists_are_heard(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The gateway asks for them by a request of its own; the SDK tells of none in sessions."""
    with (
        started(tmp_path, *options) as (_, url),
        gateway(tmp_path, [entry("ns/modern", url, "m_")]) as running,
        Client(running.url) as client,
        listening(client) as heard,
    ):
        assert "m_grown" not in client.tools()
        assert answer(client.call("m_grow"))["result"]["content"][0]["text"] == "told"
        wait_until(lambda: [each for each in heard if each.get("method") == "notifications/tools/list_changed"], "the news")
        assert "m_grown" in client.tools()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[Gateway, ScriptedServer, ScriptedServer]]:
    """A gateway with a server of each era."""
    with ScriptedServer(tool("greet")) as one, ScriptedServer(tool("there")) as two:
        modern(one)
        entries = [
            entry("ns/new", one.url, "a_", forwardHeaders=["authorization"], callTimeout="2s"),
            entry("ns/old", two.url),
        ]
        with gateway(tmp_path, entries) as running:
            yield running, one, two


@pytest.mark.duty("era.translated")
def test_one_list_and_one_session_for_both_eras(scripted: tuple[Gateway, ScriptedServer, ScriptedServer]) -> None:
    running, one, two = scripted
    with Client(
        running.url, authorization="Bearer token", **{"x-own": "1", "mcp-param-x": "1", "last-event-id": "3"}
    ) as client:
        assert client.tools() == ["a_greet", "there"]
        batch = [call("a_greet", 1), call("there", 2)]
        assert client.send(batch).status_code == 400, "no batches in this version"
        assert answer(client.call("a_greet", "id"))["id"] == "id"
        assert answer(client.call("there"))["result"]
    sent = one.calls("tools/call")[-1]
    assert json.loads(sent.body)["id"].startswith("mcpgw-"), "an id of ours: a call may be asked for twice"
    assert (sent.headers["mcp-method"], sent.headers["mcp-name"]) == ("tools/call", "greet")
    assert sent.headers["mcp-protocol-version"] == "2026-07-28"
    assert sent.headers["authorization"] == "Bearer token"
    assert not {"mcp-session-id", "x-own", "mcp-param-x", "last-event-id"} & sent.headers.keys()
    assert two.calls("tools/call")[-1].headers["mcp-protocol-version"] == "2025-11-25"
    with Client(running.url, version="2025-03-26") as old:
        texts = json.dumps(old.send([call("a_greet", 1), call("there", 2)]).text)
        assert texts.count("result") == 2


@pytest.mark.duty("era.translated", "metrics.requests")
def test_a_fault_of_its_server_is_that_servers(scripted: tuple[Gateway, ScriptedServer, ScriptedServer]) -> None:
    running, one, _ = scripted
    own = {"code": -32042, "message": "its own", "data": {"a": 1}}

    def error(handler: Any, message: Any) -> bool:
        handler.send(404, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": own}).encode())
        return True

    def foreign(handler: Any, message: Any) -> bool:
        lines = [
            {"jsonrpc": "2.0", "id": "x", "result": {"stolen": 1}},
            {"jsonrpc": "2.0", "id": message["id"], "result": {}},
        ]
        lines.insert(0, {"jsonrpc": "2.0", "id": 1, "method": "roots/list"})
        handler.send(200, "".join(f"data: {json.dumps(each)}\n\n" for each in lines).encode(), kind="text/event-stream")
        return True

    with Client(running.url) as client:
        one.answers["tools/call"] = error
        assert answer(client.call("a_greet"))["error"] == own
        one.answers["tools/call"] = foreign
        assert answer(client.call("a_greet"))["result"] == {}
        for status, reason in ((401, "Unauthorized"), (503, "BadAnswer"), (302, "Redirect"), (404, "BadAnswer")):
            one.status = status
            data = answer(client.call("a_greet"))["error"]["data"]
            assert (data["server"], data["reason"], data["status"]) == ("ns/new", reason, status)
        one.status = None
        one.answers["tools/call"] = lambda *_: threading.Event().wait(4) or True
        assert answer(client.call("a_greet"))["error"]["data"]["reason"] == "Timeout"
        one.stop()
        assert answer(client.call("a_greet"))["error"]["data"]["reason"] == "Unreachable"
        assert answer(client.call("there"))["result"]
    for outcome, count in (("ok", 2), ("unauthorized", 1), ("timeout", 1)):
        calls = rf'mcpgw_requests_total\{{method="tools/call",outcome="{outcome}",server="ns/new",tool="a_greet"\}}'
        assert running.metric(calls) == count, "each call is counted once, by the broker"


@pytest.mark.duty("era.translated")
def test_its_lists_are_read_again_when_it_says_so(scripted: tuple[Gateway, ScriptedServer, ScriptedServer]) -> None:
    running, one, _ = scripted

    def changed(handler: Any, message: Any) -> bool:
        one.tools.append(tool("second"))
        lines = [
            {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
            {"jsonrpc": "2.0", "id": message["id"], "result": {}},
        ]
        handler.send(200, "".join(f"data: {json.dumps(each)}\n\n" for each in lines).encode(), kind="text/event-stream")
        return True

    one.answers["tools/call"] = changed
    with Client(running.url) as client, listening(client) as heard:
        assert answer(client.call("a_greet"))["result"] == {}
        wait_until(lambda: [each for each in heard if each.get("method") == "notifications/tools/list_changed"], "the news")
        assert client.tools() == ["a_greet", "a_second", "there"]


@pytest.mark.duty("era.translated", "limits.calls")
def test_limits_count_its_calls_as_those_of_its_server(tmp_path: Path) -> None:
    with ScriptedServer(tool("greet")) as one, ScriptedServer(tool("there")) as two:
        modern(one)
        entries = [entry("ns/new", one.url, "a_"), entry("ns/old", two.url)]
        limits = {"calls": [{"perMinute": 1, "burst": 2, "each": ["server"]}]}
        with gateway(tmp_path, entries, limits=limits) as running, Client(running.url) as client:
            for name in ("a_greet", "there"):
                answers = [client.call(name) for _ in range(3)]
                assert [each.status_code for each in answers] == [200, 200, 200]
                assert [answer(each).get("error", {}).get("data", {}).get("reason") for each in answers] == [
                    None,
                    None,
                    "Limited",
                ]


@pytest.mark.duty("era.translated", "drain.limit")
def test_a_call_that_outlasts_a_drain_gets_an_answer(tmp_path: Path) -> None:
    with ScriptedServer(tool("greet")) as one:
        modern(one)
        asked = threading.Event()

        def hang(_handler: Any, _message: Any) -> bool:
            asked.set()
            threading.Event().wait(15)
            return True

        one.answers["tools/call"] = hang
        with (
            gateway(tmp_path, [entry("ns/new", one.url, "a_")], "--drain-time=4s") as running,
            Client(running.url) as client,
        ):
            results: list[httpx2.Response] = []
            waiting = threading.Thread(target=lambda: results.append(client.call("a_greet", "x")))
            waiting.start()
            assert asked.wait(20)
            running.sidecar.signal(signal.SIGTERM)
            waiting.join(20)
            error = answer(results[0])
            assert (error["id"], error["error"]["data"]) == ("x", {"server": "ns/new", "reason": "BrokenOff"})
            running.sidecar.wait()


@pytest.mark.duty("era.translated", "security.descriptors")
def test_calls_that_hang_are_bounded(scripted: tuple[Gateway, ScriptedServer, ScriptedServer]) -> None:
    """And cost nobody else anything."""
    running, one, _ = scripted
    release = threading.Event()
    one.answers["tools/call"] = lambda *_: release.wait(10) or True
    with Client(running.url) as client, Client(running.url) as other:
        threads = [threading.Thread(target=client.call, args=("a_greet", number)) for number in range(OF_ONE)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(one.calls("tools/call")) >= OF_ONE, "the calls")
        refused = answer(client.call("a_greet", "more"))["error"]
        assert "at the limit" in refused["message"]
        assert refused["data"] == {"server": "ns/new", "reason": "Unreachable"}
        assert answer(other.call("there"))["result"]
        release.set()
        for thread in threads:
            thread.join(20)
