"""The stateless era (2026-07-28) with real parts: the SDK's clients and servers, and Envoy."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client as SdkClient

from tests.e2e.stack import PLAIN, PROGRAM, Gateway, Process, answer, entry, free_ports, gateway, listening, wait_until
from tests.servers.scripted import ScriptedServer, tool

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


@pytest.fixture(scope="module")
def sdk_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """Two of the guide's servers, on the Python SDK: it speaks both eras."""
    command = [*PROGRAM, "demo-servers", "--any-name", *map(str, free_ports(3))]
    process = Process(command, tmp_path_factory.mktemp("servers") / "log")
    try:
        wait_until(lambda: process.text.startswith("["), "the SDK's servers")
        first, second, _ = json.loads(process.text.splitlines()[0])
        yield [entry("ns/one", f"http://127.0.0.1:{first}/mcp", "a_"), entry("ns/two", f"http://127.0.0.1:{second}/mcp")]
    finally:
        process.stop()


def used(running: Gateway, mode: str) -> tuple[str, list[str], str]:
    """The version that an SDK client speaks, its tools, and what one of them says."""

    async def use() -> tuple[str, list[str], str]:
        async with SdkClient(running.url, mode=mode) as client:
            tools = [each.name for each in (await client.list_tools()).tools]
            said = [await client.call_tool("a_greet", {"name": name}) for name in ("Ann", "Bob")]
            with pytest.raises(Exception, match="Tool not found"):
                await client.call_tool("nope", {})
            return str(client.protocol_version), tools, " ".join(each.content[0].text for each in said)  # type: ignore[union-attr]

    return asyncio.run(use())


@pytest.mark.duty("era.offer", "era.direct")
@pytest.mark.parametrize(
    ("prefer", "mode", "version"),
    [
        ("auto", "auto", "2026-07-28"),
        ("auto", "2026-07-28", "2026-07-28"),
        ("auto", "legacy", "2025-11-25"),
        ("stateful", "auto", "2025-11-25"),
    ],
)
def test_an_sdk_client_is_led_to_its_era(
    sdk_servers: list[dict[str, Any]], tmp_path: Path, prefer: str, mode: str, version: str
) -> None:
    with gateway(tmp_path, sdk_servers, f"--prefer-era={prefer}") as running:
        assert running.server("ns/one")["protocolVersion"] == "2025-11-25, 2026-07-28"
        spoken, tools, said = used(running, mode)
        assert spoken == version
        assert "a_greet" in tools
        assert "hello_world" in tools
        assert said == "Hi Ann Hi Bob"
        assert not running.sidecar.text.count("ERROR")


def modern(server: ScriptedServer, capabilities: Any = None) -> None:
    """A server that speaks the stateless era and no other."""
    server.keeps_sessions = False
    offered = capabilities or {"tools": {}}

    def discover(handler: Any, message: Any) -> bool:
        handler.result(message["id"], {"supportedVersions": ["2026-07-28"], "capabilities": offered})
        return True

    def initialize(handler: Any, message: Any) -> bool:
        error = {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}}
        handler.send(400, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        return True

    server.answers |= {"server/discover": discover, "initialize": initialize}


def ask(  # what tests vary
    running: Gateway,
    method: str,
    *,
    mcp_name: str | None = None,
    meta: Any = META,
    x_key: str | None = None,
    timeout: float = 20,
    **params: Any,
) -> httpx2.Response:
    named = {"mcp-name": mcp_name or params["name"]} if mcp_name or "name" in params else {}
    named |= {"x-key": x_key} if x_key is not None else {}
    headers = {
        "accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": method, **named,
        "mcp-session-id": "stray", "mcp-param-region": "x", "x-own": "1", "last-event-id": "7",
    }  # fmt: skip
    message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": meta}}
    return PLAIN.post(running.url, json=message, headers=headers, timeout=timeout)


@pytest.mark.duty("era.direct", "era.envelope")
def test_a_server_that_speaks_nothing_else(tmp_path: Path) -> None:
    """It was not listed at all. What a server gets is what its era has, and no more."""
    with ScriptedServer(tool("greet")) as one:
        modern(one)
        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--prefer-era=auto") as running:
            shown = running.server("ns/one")
            assert (shown["ready"], shown["protocolVersion"], shown["tools"]) == (True, "2026-07-28", 1)
            listed = ask(running, "tools/list")
            assert [each["name"] for each in listed.json()["result"]["tools"]] == ["a_greet"]
            for _ in range(3):
                called = ask(running, "tools/call", name="a_greet", arguments={})
                assert answer(called)["result"]["content"]
                assert "mcp-session-id" not in called.headers
            sent = one.calls("tools/call")[-1]
            assert json.loads(sent.body)["params"]["name"] == "greet"
            got = {name: sent.headers.get(name) for name in ("mcp-name", "mcp-method", "mcp-param-region")}
            assert got == {"mcp-name": "greet", "mcp-method": "tools/call", "mcp-param-region": "x"}
            assert not {"mcp-session-id", "last-event-id", "x-own"} & sent.headers.keys()
            unknown = ask(running, "tools/call", name="nope", arguments={})
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (200, -32602)
            one.status = 404
            failed = ask(running, "tools/call", name="a_greet", arguments={})
            assert (failed.status_code, failed.json()["id"]) == (200, 7)
            assert failed.json()["error"]["data"] == {"server": "ns/one", "reason": "BadAnswer", "status": 404}
            assert len(one.calls("tools/call")) == 4, "sent once"
            one.status = None
            one.stop()
            away = ask(running, "tools/call", name="a_greet", arguments={})
            assert away.json()["error"]["data"]["reason"] == "Unreachable"
            gone = PLAIN.get(running.url, headers={"mcp-protocol-version": "2026-07-28", "accept": "text/event-stream"})
            assert gone.status_code == 405


@pytest.mark.duty("era.direct", "security.own-answer")
def test_an_answer_to_another_call_does_not_pass(tmp_path: Path) -> None:
    with ScriptedServer(tool("greet")) as one:
        modern(one)

        def foreign(handler: Any, message: Any) -> bool:
            lines = [
                {"jsonrpc": "2.0", "id": message["id"] + 1, "result": {"stolen": 1}},
                {"jsonrpc": "2.0", "id": message["id"], "result": {}},
            ]
            body = "".join(f"data: {json.dumps(each)}\n\n" for each in lines).encode()
            handler.send(200, body, kind="text/event-stream")
            return True

        one.answers["tools/call"] = foreign
        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--prefer-era=auto") as running:
            called = ask(running, "tools/call", name="a_greet", arguments={})
            assert "stolen" not in called.text
            assert answer(called)["id"] == 7


def heard(stream: Iterator[str], count: int) -> list[dict[str, Any]]:
    """The next messages of an event stream."""
    messages: list[dict[str, Any]] = []
    for line in stream:
        if line.startswith("data:"):
            messages.append(json.loads(line[5:]))
        if len(messages) == count:
            break
    return messages


@pytest.mark.duty("era.listen")
def test_an_sdk_client_hears_of_changed_lists(tmp_path: Path) -> None:
    with ScriptedServer(tool("greet")) as one:
        modern(one)

        async def use(running: Gateway) -> None:
            async with (
                SdkClient(running.url, mode="2026-07-28") as client,
                client.listen(tools_list_changed=True, resource_subscriptions=["memo://one"]) as subscription,
            ):
                assert subscription.honored.tools_list_changed
                assert not subscription.honored.resource_subscriptions
                one.tools.append(tool("second"))
                running.write([entry("ns/one", one.url, "a_", callTimeout="30s")])  # it is listed again
                assert type(await asyncio.wait_for(anext(aiter(subscription)), 20)).__name__ == "ToolsListChanged"
                assert [each.name for each in (await client.list_tools()).tools] == ["a_greet", "a_second"]

        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--prefer-era=auto") as running:
            asyncio.run(use(running))


@pytest.mark.duty("era.listen")
def test_who_listens_hears_what_was_asked_for_until_the_end(tmp_path: Path) -> None:
    with ScriptedServer(tool("greet")) as one:
        modern(one)
        headers = {"accept": "text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen"}

        def message(notifications: Any, ident: Any = 9) -> dict[str, Any]:
            params = {"notifications": notifications, "_meta": META}
            return {"jsonrpc": "2.0", "id": ident, "method": "subscriptions/listen", "params": params}

        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--prefer-era=auto") as running:
            plain = PLAIN.post(running.url, json=message({}), headers=headers | {"accept": "application/json"})
            assert (plain.status_code, plain.json()["id"]) == (406, 9)
            for wrong in (None, [], 5):
                refused = PLAIN.post(running.url, json=message(wrong), headers=headers)
                assert refused.json()["error"]["code"] == -32602
            wanted = {"promptsListChanged": True, "toolsListChanged": "yes", "resourceSubscriptions": ["x"], "other": True}
            with (
                PLAIN.stream("POST", running.url, json=message(wanted, "p"), headers=headers, timeout=20) as prompts,
                PLAIN.stream(
                    "POST", running.url, json=message({"toolsListChanged": True}), headers=headers, timeout=20
                ) as tools,
            ):
                of_prompts, of_tools = prompts.iter_lines(), tools.iter_lines()
                (first,) = heard(of_prompts, 1)
                assert first["method"] == "notifications/subscriptions/acknowledged"
                assert first["params"]["notifications"] == {"promptsListChanged": True}
                assert first["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "p"}
                (first,) = heard(of_tools, 1)
                assert first["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 9}
                wait_until(lambda: running.metric("mcpgw_streams") == 2, "both listen")
                one.tools.append(tool("second"))
                running.write([entry("ns/one", one.url, "a_", callTimeout="30s")])
                (changed,) = heard(of_tools, 1)
                assert changed["method"] == "notifications/tools/list_changed"
                assert changed["params"] == {"_meta": {"io.modelcontextprotocol/subscriptionId": 9}}
                running.sidecar.signal(signal.SIGTERM)
                (end,) = heard(of_prompts, 1)
                assert end["result"] == {"resultType": "complete", "_meta": {"io.modelcontextprotocol/subscriptionId": "p"}}
                assert heard(of_tools, 1)[0]["id"] == 9
            running.sidecar.wait()


@pytest.mark.duty("era.direct", "call.memo-same")
def test_envoy_remembers_without_sessions(tmp_path: Path) -> None:
    """What one client has asked, another gets from Envoy alone, also while the sidecar is away."""
    decided = "mcpgw_ext_proc_duration_seconds_count"
    with ScriptedServer(tool("greet")) as one, ScriptedServer(tool("there")) as two:
        modern(one)
        modern(two)
        servers = [entry("ns/one", one.url, "a_"), entry("ns/two", two.url)]
        with gateway(tmp_path, servers, "--prefer-era=auto") as running:
            listed, found = ask(running, "tools/list"), ask(running, "server/discover")
            assert answer(ask(running, "tools/call", name="a_greet", arguments={}))["result"]
            before = running.metric(decided)
            for number in range(5):
                called = ask(running, "tools/call", name="a_greet", arguments={"n": number})
                assert json.loads(answer(called)["result"]["content"][0]["text"])["arguments"] == {"n": number}
            assert one.calls("tools/call")[-1].headers["mcp-name"] == "greet"
            assert running.metric(decided) == before
            running.sidecar.signal(signal.SIGSTOP)
            try:
                again = ask(running, "tools/list")
                assert (again.json(), again.headers.get("mcp-session-id")) == (listed.json(), None)
                assert ask(running, "server/discover").json() == found.json()
                assert answer(ask(running, "tools/call", name="a_greet", arguments={}))["result"]
            finally:
                running.sidecar.signal(signal.SIGCONT)
            # what does not say in its headers what it says in its body is refused as ever
            wrong = ask(running, "tools/call", mcp_name="a_other", name="a_greet", arguments={})
            assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, -32020)
            one.tools[:] = [tool("second")]
            running.write([entry("ns/one", one.url, "a_", callTimeout="30s"), servers[1]])
            wait_until(lambda: "a_second" in ask(running, "tools/list").text, "the new list")
            gone = ask(running, "tools/call", name="a_greet", arguments={})
            assert gone.json()["error"]["code"] == -32602


@pytest.mark.duty("era.direct", "call.memo-same")
@pytest.mark.parametrize("name", ["authorization", "mcp-session-id"])
def test_what_stands_there_twice_is_no_hit(tmp_path: Path, name: str) -> None:
    with ScriptedServer(tool("greet")) as one, httpx2.Client(trust_env=False) as http:
        modern(one)
        servers = [entry("ns/one", one.url, "a_", forwardHeaders=["authorization"])]
        with gateway(tmp_path, servers) as running:
            said = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "a_greet", "accept": "*/*"}
            params = {"name": "a_greet", "_meta": META}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            for headers, status in (([], 200), ([], 200), (["x", "y"], 400), (["x, Bearer y"], 400), (["x"], 200)):
                values = [(name, f"Bearer {value}" if name == "authorization" else value) for value in headers]
                assert http.post(running.url, json=body, headers=[*said.items(), *values]).status_code == status


@pytest.mark.duty("era.direct", "error.unreachable")
def test_errors_have_the_codes_of_the_era(tmp_path: Path) -> None:
    """Those from -32000 to -32019 are not its; a server's own status and words are."""
    with ScriptedServer(tool("greet")) as one:
        modern(one)

        def refuse(handler: Any, message: Any) -> bool:
            error = {"code": -32020, "message": "Header mismatch: Mcp-Param-Region"}
            handler.send(400, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
            return True

        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--prefer-era=auto") as running:
            for _ in range(2):  # a miss, and a hit
                one.status = 500
                failed = ask(running, "tools/call", name="a_greet", arguments={})
                assert (failed.status_code, failed.json()["error"]["code"]) == (200, -32603)
                one.status = None
                assert answer(ask(running, "tools/call", name="a_greet", arguments={}))["result"]
            one.answers["tools/call"] = refuse
            refused = ask(running, "tools/call", name="a_greet", arguments={})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32020)
            one.stop()
            away = ask(running, "tools/call", name="a_greet", arguments={})
            assert (away.status_code, away.json()["error"]["code"]) == (200, -32603)
            assert away.json()["error"]["data"] == {"server": "ns/one", "reason": "Unreachable"}


class Resourceful(ScriptedServer):
    """A server of one era with the resource memo://x, which says who follows it."""

    def __init__(self, era: str) -> None:
        super().__init__(tool("greet"))
        self._followers: list[Any] = []
        self.capabilities = {"tools": {}, "resources": {"subscribe": True}}
        if era == "2026-07-28":
            modern(self, self.capabilities)
        self.answers |= {
            "resources/list": self._answer({"resources": [{"uri": "memo://x", "name": "x"}]}),
            "resources/templates/list": self._answer({"resourceTemplates": []}),
            "resources/subscribe": self._answer({}),
            "subscriptions/listen": self._listen,
        }

    def _answer(self, result: Any) -> Any:
        def answered(handler: Any, message: Any) -> bool:
            handler.result(message["id"], result)
            return True

        return answered

    def _listen(self, handler: Any, message: Any) -> bool:
        if "resourceSubscriptions" not in message["params"]["notifications"]:
            handler.send(405, b"")
            return True
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.wfile.write(b": here\n\n")
        self._followers.append(handler)
        with suppress(OSError):
            handler.connection.recv(1)  # until the client goes
        self._followers.remove(handler)
        return True

    def listeners(self) -> list[Any]:
        """The streams of those who follow the resource."""
        subscribed = {each.headers.get("mcp-session-id") for each in self.calls("resources/subscribe")} & self.sessions
        return self._followers or [stream for each in subscribed for stream in self.streams(str(each))]

    def change(self) -> None:
        """Tell them that it has changed."""
        data = json.dumps({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "memo://x"}})
        for handler in self.listeners():
            handler.wfile.write(f"data: {data}\n\n".encode())
            handler.wfile.flush()


@pytest.mark.duty("era.listen")
@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
def test_a_client_hears_of_single_resources(tmp_path: Path, era: str) -> None:
    """At servers of either era; one of them shows a URI that another one has, too."""
    with Resourceful(era) as one, Resourceful(era) as two:
        servers = [entry("ns/one", one.url), entry("ns/two", two.url)]

        async def use(running: Gateway) -> None:
            async with SdkClient(running.url, mode="2026-07-28") as client:
                shown = sorted(str(each.uri) for each in (await client.list_resources()).resources)
                assert len(shown) == 2, "one has an alias"
                async with client.listen(resource_subscriptions=[*shown, "memo://nobody"]) as subscription:
                    assert sorted(subscription.honored.resource_subscriptions or ()) == shown
                    events = aiter(subscription)
                    for server, uri in ((one, "memo://x"), (two, next(each for each in shown if each != "memo://x"))):
                        wait_until(lambda server=server: server.listeners(), "the server is followed")
                        server.change()
                        event = await asyncio.wait_for(anext(events), 20)
                        assert str(event.uri) == uri  # type: ignore[union-attr]
            wait_until(lambda: not one.listeners() and not two.listeners(), "nobody listens any more")

        async def use_one_less(running: Gateway) -> None:
            async with (
                SdkClient(running.url, mode="2026-07-28") as client,
                client.listen(resource_subscriptions=["memo://x"]),
            ):
                wait_until(one.listeners, "the server is followed")
                running.write([servers[1]])
                await asyncio.sleep(0)
                wait_until(lambda: not one.listeners(), "a server that was removed is followed no more")

        with gateway(tmp_path, servers, "--prefer-era=stateless") as running:
            offered = ask(running, "server/discover").json()["result"]["capabilities"]
            assert offered["resources"] == {"listChanged": True, "subscribe": True}
            asyncio.run(use(running))
            asyncio.run(use_one_less(running))


@pytest.mark.duty("era.translated")
def test_a_session_subscribes_to_a_server_that_has_none(tmp_path: Path) -> None:
    with (
        Resourceful("2026-07-28") as one,
        gateway(tmp_path, [entry("ns/one", one.url)]) as running,
        running.client() as client,
        listening(client) as messages,
    ):
        offered = client.initialized.json()["result"]["capabilities"]
        assert offered["resources"] == {"listChanged": True, "subscribe": True}
        for _ in range(2):
            assert answer(client.post("resources/subscribe", {"uri": "memo://x"}))["result"] == {}
        wait_until(one.listeners, "the server is followed")
        assert len(one.listeners()) == 1
        one.change()
        updated = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "memo://x"}}
        wait_until(lambda: updated in messages, "the client hears of it")
        assert answer(client.post("resources/unsubscribe", {"uri": "memo://x"}))["result"] == {}
        wait_until(lambda: not one.listeners(), "nobody follows it")
        assert answer(client.post("resources/subscribe", {"uri": "memo://x"}))["result"] == {}
        wait_until(one.listeners, "the server is followed again")
        assert client.http.delete(running.url, headers=client.headers).status_code == 204
        wait_until(lambda: not one.listeners(), "the session is over")
