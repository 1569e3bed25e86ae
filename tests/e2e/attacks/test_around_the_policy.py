"""Ways around the policy: Envoy and the gateway say one thing, and the server runs another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Client, Gateway, entry, gateway, succeeded, text_of, wait_until
from tests.servers.scripted import ScriptedServer, tool

CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a_safe","arguments":{"x":1}}}'


@pytest.fixture
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("safe"), tool("danger")) as server:
        yield server


@pytest.fixture
def running(one: ScriptedServer, tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as new_gateway:
        yield new_gateway


@pytest.fixture
def client(running: Gateway) -> Iterator[Client]:
    with running.client() as new_client:
        for _ in range(2):
            assert succeeded(new_client.send(CALL))
        yield new_client


@pytest.mark.duty("security.one-reading")
@pytest.mark.parametrize(
    "body",
    [
        CALL.replace('"name":"a_safe"', '"name":"a_safe","Name":"danger"'),
        CALL.replace('"name":"a_safe"', '"NAME":"danger","name":"a_safe"'),
        CALL.replace('"params"', '"Params":{"name":"danger"},"params"'),
        CALL.replace('"params"', '"param\u017f":{"name":"danger"},"params"'),
        CALL.replace('"method"', '"METHOD":"tools/call","method"'),
        CALL.replace('"name":"a_safe"', '"name":"a_safe","\\u004eame":"danger"'),
    ],
)
def test_a_member_in_another_case(client: Client, one: ScriptedServer, body: str) -> None:
    """Servers on Go's encoding/json take it for the member: `danger` ran as `safe`."""
    before = len(one.calls("tools/call"))
    response = client.send(body.encode())
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)
    assert len(one.calls("tools/call")) == before
    assert succeeded(client.send(CALL)), "the next call is as before"


@pytest.mark.duty("security.one-reading", "transport.media-415")
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json; charset=utf-7"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-encoding": "gzip"},
        {"content-encoding": "identity"},
    ],
    ids=str,
)
def test_a_body_that_is_said_to_be_something_else(client: Client, one: ScriptedServer, headers: dict[str, str]) -> None:
    """A server that obeys the charset or the encoding reads another name than the gateway."""
    before = len(one.calls("tools/call"))
    for body in (CALL, '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'):
        response = client.http.post(client.url, content=body, headers=client.headers | headers)
        assert response.status_code == 415
    assert len(one.calls("tools/call")) == before


def test_a_server_gets_the_one_content_type(client: Client, one: ScriptedServer) -> None:
    for _ in range(2):
        kind = {"content-type": "Application/JSON ; charset=UTF-8"}
        assert text_of(client.http.post(client.url, content=CALL, headers=client.headers | kind))
        assert one.calls("tools/call")[-1].headers["content-type"] == "application/json"


@pytest.mark.duty("security.one-reading")
@pytest.mark.parametrize("name", ["mcp-session-id", "mcp-protocol-version", "x-mcp-virtualserver"])
def test_a_header_that_is_there_twice(client: Client, one: ScriptedServer, name: str) -> None:
    before = len(one.calls("tools/call"))
    value = client.headers.get(name, "ns/some")
    headers = [*((key, text) for key, text in client.headers.items() if key != name), (name, value), (name, value)]
    for body in (CALL, '{"jsonrpc":"2.0","id":1,"method":"ping"}'):
        assert client.http.post(client.url, content=body, headers=headers).status_code == 400
    assert client.http.get(client.url, headers=headers).status_code == 400
    assert len(one.calls("tools/call")) == before


@pytest.mark.duty("security.no-tunnel")
def test_notifications_are_no_tunnel(client: Client, one: ScriptedServer) -> None:
    """They went to every server as they came: `tools/call` without an id ran at some."""
    seen = len(one.requests)
    for message in (
        '{"jsonrpc":"2.0","method":"tools/call","params":{"name":"danger"}}',
        '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}',
        '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"name":"danger"},"x":1}',
    ):
        assert client.send(message).status_code == 202
    assert client.send('{"jsonrpc":"2.0","method":"notifications/cancelled","Method":"tools/call"}').status_code == 400
    wait_until(lambda: len(one.requests) > seen)
    assert succeeded(client.send(CALL))
    assert [request.json for request in one.requests[seen:-1]] == [
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    ]


@pytest.mark.duty("batch.each", "security.one-reading")
def test_a_batch_is_no_way_around_envoy(running: Gateway, one: ScriptedServer) -> None:
    """It was one request without method, tool and server for Envoy's log, counters and limits."""
    messages = [json.loads(CALL) | {"id": number} for number in range(3)]
    with running.client(version="2025-03-26") as client:
        answers = client.send(messages, accept="application/json").json()
        assert sorted(answer["id"] for answer in answers if "result" in answer) == [0, 1, 2]
        danger = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "a_safe", "Name": "danger"}}
        (refused,) = client.send([danger], accept="application/json").json()
        assert refused["error"]["code"] == -32600

    def lines() -> list[dict[str, Any]]:
        texts = [line for line in running.envoy.text.splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, texts) if line["tool"] == "a_safe" and line["server"] == "ns/one"]

    wait_until(lambda: len(lines()) == 3, "a line of each message")
    assert {(line["client"], line["method"]) for line in lines()} == {("127.0.0.1", "tools/call")}
    assert "x-mcp-client" not in one.calls("tools/call")[-1].headers
    calls = 'mcpgw_requests_total{method="tools/call",outcome="ok",server="ns/one",tool="a_safe"} 3.0'
    wait_until(lambda: calls in running.metrics(), "each is counted")


@pytest.mark.duty("list.clash", "security.no-shadowing")
def test_no_server_takes_over_the_tools_of_anothers_prefix(one: ScriptedServer, tmp_path: Path) -> None:
    """It stands earlier and has no prefix: it got the arguments of the other's calls."""
    with ScriptedServer(tool("a_safe"), tool("own")) as thief:
        servers = [entry("ns/thief", thief.url), entry("ns/one", one.url, "a_")]
        with gateway(tmp_path, servers) as running, running.client() as client:
            wait_until(lambda: client.tools() == ["a_danger", "a_safe", "own"])
            assert succeeded(client.send(CALL))
            assert not thief.calls("tools/call")
            assert running.server("ns/thief")["conflicts"] == [{"kind": "tool", "name": "a_safe", "owner": "ns/one"}]
