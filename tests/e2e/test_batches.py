"""Batches, which 2025-03-26 alone has: every message is carried as if it had come alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from mcpgw_sidecar.inbound.classify import MAX_BATCH
from tests.e2e.stack import Client, Gateway, entry, gateway, wait_until
from tests.e2e.test_server_requests import Asking
from tests.servers.scripted import ScriptedServer


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ScriptedServer, ScriptedServer]]:
    schema = {"type": "object"}
    with (
        ScriptedServer({"name": "one", "inputSchema": schema}) as one,
        ScriptedServer({"name": "two", "inputSchema": schema}) as two,
    ):
        yield one, two


@pytest.fixture(scope="module")
def running(servers: tuple[ScriptedServer, ScriptedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    one, two = servers
    with gateway(
        tmp_path_factory.mktemp("batch"), [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]
    ) as new_gateway:
        yield new_gateway


@pytest.fixture
def client(running: Gateway) -> Iterator[Client]:
    with Client(running.url, version="2025-03-26") as new_client:
        yield new_client


def call(name: str, ident: Any, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


def events(text: str) -> dict[Any, Any]:
    """The answers of an event stream by their ids."""
    messages = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]
    return {message["id"]: message for message in messages if "method" not in message}


@pytest.mark.duty("batch.each", "batch.initialize", "session.ids-hidden")
def test_each_message_gets_its_answer(client: Client, servers: tuple[ScriptedServer, ScriptedServer]) -> None:
    one, two = servers
    batch = [
        call("a_one", 1, big=1),
        call("b_two", "1", x="é"),
        call("nope", 2),
        {"jsonrpc": "2.0", "id": 3, "method": "tools/list"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}},
        {"jsonrpc": "2.0", "id": 4, "method": "ping"},
        {"jsonrpc": "2.0", "id": 5, "method": "initialize", "params": {}},
        5,
    ]
    response = client.send(batch)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    messages = events(response.text)
    assert set(messages) == {1, "1", 2, 3, 4, 5, None}
    assert json.loads(messages[1]["result"]["content"][0]["text"])["server"] == one.port
    assert json.loads(messages["1"]["result"]["content"][0]["text"]) == {
        "server": two.port,
        "name": "two",
        "arguments": {"x": "é"},
    }
    assert messages[2]["error"]["code"] == -32601
    assert len(messages[3]["result"]["tools"]) == 2
    assert messages[4]["result"] == {}
    assert messages[5]["error"]["code"] == messages[None]["error"]["code"] == -32600
    arrived = one.calls("tools/call")[-1]
    assert arrived.headers["mcp-session-id"] in one.sessions
    assert client.session not in str(arrived.headers)


@pytest.mark.duty("batch.each")
def test_a_batch_ends_with_its_client(running: Gateway, servers: tuple[ScriptedServer, ScriptedServer]) -> None:
    """Its calls went on without it, and took the sockets of everybody."""
    one, _ = servers
    gone = threading.Event()

    def wait_for_ever(handler: Any, _message: Any) -> bool:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b": x\n\n")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            gone.set()
        return True

    one.answers["tools/call"] = wait_for_ever
    try:
        for accept in ("application/json", "application/json, text/event-stream"):
            gone.clear()
            with Client(running.url, version="2025-03-26") as client:
                client.http.timeout = 1.0
                with pytest.raises(httpx2.ReadTimeout):
                    client.send([call("a_one", 1)], accept=accept)
            assert gone.wait(10), "the server is told"
    finally:
        del one.answers["tools/call"]


@pytest.mark.duty("batch.each")
def test_what_a_batch_holds_is_limited(running: Gateway, servers: tuple[ScriptedServer, ScriptedServer]) -> None:
    """Fifty answers of 8 MiB took 1.4 GB, more than a pod has."""
    one, _ = servers
    text = "x" * (8 << 20)

    def large(handler: Any, message: Any) -> bool:
        result = {"content": [{"type": "text", "text": text}]}
        handler.send(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())
        return True

    one.answers["tools/call"] = large
    try:
        with Client(running.url, version="2025-03-26") as client:
            answers = client.send([call("a_one", number) for number in range(8)], accept="application/json").json()
            assert sorted(answer["id"] for answer in answers) == list(range(8))
            assert 1 <= sum("result" in answer for answer in answers) <= 4
            errors = [answer["error"]["message"] for answer in answers if "error" in answer]
            assert all("larger than a batch may hold" in error for error in errors)
            (again,) = client.send([call("a_one", 1)], accept="application/json").json()
            assert "result" in again, "the room is free again"
    finally:
        del one.answers["tools/call"]


@pytest.mark.duty("batch.array")
def test_a_client_without_events_gets_one_array(client: Client) -> None:
    batch = [call("a_one", 1), {"jsonrpc": "2.0", "id": 2, "method": "ping"}]
    response = client.send(batch, accept="application/json")
    assert response.headers["content-type"] == "application/json"
    assert {answer["id"] for answer in response.json()} == {1, 2}


@pytest.mark.duty("batch.array", "notify.from-client")
def test_notifications_alone_are_accepted(client: Client, servers: tuple[ScriptedServer, ScriptedServer]) -> None:
    client.send([call("a_one", 1)])
    notification = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    response = client.send([notification, notification])
    assert (response.status_code, response.content) == (202, b"")
    wait_until(lambda: len(servers[0].calls("notifications/roots/list_changed")) == 2)


def test_a_server_asks_in_a_batch_and_is_answered_in_another(
    running: Gateway, client: Client, servers: tuple[ScriptedServer, ScriptedServer]
) -> None:
    asking = Asking(servers[0], 7)
    try:
        with (
            Client(running.url) as other,
            client.http.stream("POST", client.url, json=[call("a_one", 1)], headers=client.headers) as stream,
        ):
            lines = (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))
            request = next(message for message in lines if message.get("method") == "elicitation/create")
            reply = {"jsonrpc": "2.0", "id": request["id"], "result": {"action": "accept"}}
            answered = other.http.post(other.url, json=[reply, reply | {"id": "nobody"}], headers=client.headers)
            assert answered.status_code == 200
            assert [each["id"] for each in answered.json()] == ["nobody"], "the one that nobody waits for is refused"
            assert next(lines)["id"] == 1
        assert asking.answers == [reply | {"id": 7}]
    finally:
        servers[0].answers.clear()


def test_what_servers_write_over_several_lines_is_one_event(
    client: Client, servers: tuple[ScriptedServer, ScriptedServer]
) -> None:
    def pretty(handler: Any, message: Any) -> bool:
        notification = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": 1}}
        answered = {"jsonrpc": "2.0", "id": message["id"], "result": {}}
        lines = [
            f"data: {line}" for each in (notification, answered) for line in [*json.dumps(each, indent=1).split("\n"), ""]
        ]
        body = "\n".join("" if line == "data: " else line for line in lines) + "\n"
        handler.send(200, body.encode(), kind="text/event-stream")
        return True

    servers[0].answers["tools/call"] = pretty
    try:
        text = client.send([call("a_one", 1)]).text
    finally:
        servers[0].answers.clear()
    assert events(text) == {1: {"jsonrpc": "2.0", "id": 1, "result": {}}}
    assert '"notifications/message"' in text


def test_a_dead_session_is_healed_and_a_dead_server_named(
    client: Client, servers: tuple[ScriptedServer, ScriptedServer]
) -> None:
    one, two = servers
    client.send([call("a_one", 1), call("b_two", 2)])
    one.sessions.clear()
    two.status = 500
    try:
        messages = events(client.send([call("a_one", 1), call("b_two", 2)]).text)
    finally:
        two.status = None
    assert "result" in messages[1]
    assert "ns/two" in messages[2]["error"]["message"]
    assert messages[2]["error"]["data"] == {"server": "ns/two", "reason": "BadAnswer", "status": 500}


@pytest.mark.duty("error.malformed-400")
@pytest.mark.parametrize(
    ("body", "code"),
    [("[]", -32600), ("[1,", -32700), ("[" + ",".join(["1"] * (MAX_BATCH + 1)) + "]", -32600), ('["\ud800"', -32700)],
)
def test_what_is_no_batch(client: Client, body: str, code: int) -> None:
    response = client.send(body.encode("utf-8", "surrogatepass"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


@pytest.mark.duty("batch.refused")
def test_an_operator_may_refuse_them(
    servers: tuple[ScriptedServer, ScriptedServer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Envoy's log, counters and policy see one request, whatever is in it."""
    directory = tmp_path_factory.mktemp("refuse")
    with (
        gateway(directory, [entry("ns/one", servers[0].url, "a_")], "--batches=refuse") as refusing,
        Client(refusing.url, version="2025-03-26") as other,
    ):
        called = len(servers[0].calls("tools/call"))
        response = other.send([call("a_one", 1)])
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)
        assert "--batches refuse" in response.json()["error"]["message"]
        assert other.send(call("a_one", 1)).status_code == 200
        assert len(servers[0].calls("tools/call")) == called + 1


@pytest.mark.duty("batch.later-400")
@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_later_versions_have_none(running: Gateway, version: str) -> None:
    with Client(running.url, version=version) as other:
        response = other.send([call("a_one", 1)])
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)
