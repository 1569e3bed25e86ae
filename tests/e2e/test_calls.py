"""Calls through a real Envoy to servers that others wrote: what goes in comes out."""

from __future__ import annotations

import json
import threading

import pytest

from tests.e2e.conftest import KEY
from tests.e2e.stack import Client, Gateway, answer, entry, gateway, text_of


@pytest.mark.duty("list.prefixed", "list.order")
def test_tools_of_all_servers_under_their_prefixes(guide: Gateway) -> None:
    with guide.client() as client:
        tools = client.tools()
    assert tools == sorted(tools)
    assert {"test_greet", "test_slow", "test2_hello_world", "apikey_hello_world"} <= set(tools)


@pytest.mark.duty("call.owner")
def test_a_call_reaches_its_server(guide: Gateway) -> None:
    with guide.client(authorization=KEY) as client:
        assert text_of(client.call("test_greet", name="Ada")) == "Hi Ada"
        assert text_of(client.call("test2_hello_world", name="Ada")) == "Hello, Ada!"
        assert text_of(client.call("apikey_hello_world", name="Ada")) == "Hello, Ada, you have the key!"


@pytest.mark.duty("call.answer-as-written")
def test_a_tool_that_fails_says_so_itself(guide: Gateway) -> None:
    with guide.client() as client:
        result = answer(client.call("test_fail", message="no luck"))["result"]
    assert result["isError"] is True
    assert "no luck" in result["content"][0]["text"]


@pytest.mark.duty("call.id", "call.ping")
@pytest.mark.parametrize("ident", [0, 7, -3, "", "7", "é\n", 9007199254740993])
def test_ids_of_every_type_come_back_unchanged(guide: Gateway, ident: object) -> None:
    with guide.client() as client:
        assert answer(client.call("test_time", ident))["id"] == ident
        assert client.post("ping", ident=ident).json() == {"jsonrpc": "2.0", "id": ident, "result": {}}


@pytest.mark.duty("session.version")
@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_every_version_of_the_stateful_era(guide: Gateway, version: str) -> None:
    with guide.client(version=version) as client:
        assert client.initialized.json()["result"]["protocolVersion"] == version
        assert text_of(client.call("test_greet", name="v")) == "Hi v"


def test_http2_clients_and_chunked_bodies(guide: Gateway) -> None:
    with Client(guide.url, http2=True) as client:
        response = client.call("test_greet", name="h2")
        assert response.http_version == "HTTP/2"
        assert text_of(response) == "Hi h2"
    with guide.client() as client:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test_greet"}}).encode()
        chunks = (body[at : at + 7] for at in range(0, len(body), 7))
        response = client.http.post(client.url, content=chunks, headers=client.headers)
        assert text_of(response) == "Hi you"


def test_a_megabyte_goes_through(guide: Gateway) -> None:
    name = "é" * 500_000
    with guide.client() as client:
        assert text_of(client.call("test_greet", name=name)) == f"Hi {name}"


@pytest.mark.duty("transport.streams-live")
def test_an_answer_streams_while_it_is_made(guide: Gateway) -> None:
    """The first progress arrives while the call is still running: nothing buffers the answer."""
    with guide.client() as client:
        params = {"name": "test_slow", "arguments": {"seconds": 2}, "_meta": {"progressToken": "p"}}
        body = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params}
        with client.http.stream("POST", client.url, json=body, headers=client.headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            messages = [
                json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:") and line[5:].strip()
            ]
    assert [message["params"]["progress"] for message in messages[:-1]] == [1, 2]
    assert messages[-1]["id"] == 9


@pytest.mark.duty("transport.accepted-202")
def test_what_is_accepted_gets_no_body(guide: Gateway) -> None:
    with guide.client() as client:
        response = client.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        assert (response.status_code, response.content) == (202, b"")


@pytest.mark.duty("transport.get-primed")
@pytest.mark.parametrize(("version", "first"), [("2025-03-26", ":"), ("2025-06-18", ":"), ("2025-11-25", "id: ")])
def test_only_clients_that_know_it_get_an_event_without_data(guide: Gateway, version: str, first: str) -> None:
    with (
        guide.client(version=version) as client,
        client.http.stream("GET", client.url, headers=client.headers, timeout=5) as response,
    ):
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        assert next(response.iter_lines()).startswith(first)


def test_two_clients_at_once_do_not_mix(guide: Gateway) -> None:
    wrong: list[str] = []

    def work(who: str) -> None:
        with guide.client() as client:
            for number in range(20):
                text = text_of(client.call("test_greet", number, name=f"{who}{number}"))
                if text != f"Hi {who}{number}":
                    wrong.append(text)

    threads = [threading.Thread(target=work, args=(who,)) for who in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.duty("session.capabilities")
def test_a_server_on_the_typescript_sdk(everything: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        gateway(tmp_path_factory.mktemp("every"), [entry("ts/every", everything, "ev_")]) as running,
        running.client() as client,
    ):
        assert "ev_echo" in client.tools()
        assert text_of(client.call("ev_echo", message="hi")) == "Echo: hi"
        assert "Everything Server" in client.initialized.json()["result"]["instructions"]


def test_the_access_log_says_method_tool_server_and_status(guide: Gateway) -> None:
    with guide.client() as client:
        client.call("test_greet", name="logged-argument")
    assert guide.envoy is not None
    lines: list[dict[str, object]] = []
    for _ in range(200):
        lines = [json.loads(line) for line in guide.envoy.text.splitlines() if line.startswith("{")]
        if any(line["tool"] == "test_greet" for line in lines):
            break
        guide.ask_envoy("/ready")
    line = next(line for line in lines if line["tool"] == "test_greet")
    assert (line["method"], line["server"], line["status"]) == ("tools/call", "mcp-test/mcp-server1-route", 200)
    assert isinstance(line["duration_ms"], int)
    assert "logged-argument" not in guide.envoy.text + guide.sidecar.text
