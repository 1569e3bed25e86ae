"""Headers of clients: whoever owned one server got everybody's tokens and cookies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Client, Gateway, answer, entry, gateway, listening, succeeded, wait_until
from tests.e2e.test_relayed import watched
from tests.servers.scripted import ScriptedServer

SECRETS = {
    "authorization": "Bearer mine",
    "cookie": "who=me",
    "x-api-key": "k",
    "x-forwarded-for": "10.0.0.1",
    "forwarded": "for=a",
}
HARMLESS = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "baggage": "a=b", "mcp-param-x": "1"}


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path: Path) -> Iterator[Gateway]:
    wanted = ["x-api-key", {"name": "authorization", "as": "x-user-token", "required": True}]
    with gateway(tmp_path, [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_", forwardHeaders=wanted)]) as found:
        yield found


def asking(running: Gateway, version: str = "2025-11-25") -> Client:
    """A client that sends everything, and to which servers may send requests."""
    secrets = {name.replace("-", "_"): value for name, value in SECRETS.items()}
    return Client(running.url, version=version, capabilities={"elicitation": {}}, **secrets)


def seen(server: ScriptedServer, names: Any = SECRETS) -> dict[str, set[str]]:
    """The values of some headers that a server has got, by any request."""
    return {name: {r.headers[name] for r in server.requests if name in r.headers} for name in names}


@pytest.mark.duty("header.to-server")
@pytest.mark.parametrize("version", ["2025-03-26", "2025-11-25"])
def test_a_server_gets_no_credential_that_is_not_for_it(
    running: Gateway, one: ScriptedServer, two: ScriptedServer, version: str
) -> None:
    """Not by a first call, a repeated one, a stream, a wish, a notification, a heal, or the end."""
    for server in (one, two):
        watched(server)
        server.requests.clear()
    with asking(running, version) as client:
        with listening(client):
            for _ in range(3):
                assert succeeded(client.call("a_one"))
                assert succeeded(client.call("b_two"))
            assert answer(client.post("resources/subscribe", {"uri": "file:///w"}))["result"] == {}
            client.post("logging/setLevel", {"level": "info"})
            client.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
            wait_until(lambda: two.calls("notifications/roots/list_changed") and two.calls("logging/setLevel"))
            one.sessions.clear()
            two.sessions.clear()
            assert succeeded(client.call("a_one"))
            assert succeeded(client.call("b_two"))
            wait_until(lambda: two.streams(two.calls("tools/call")[-1].headers["mcp-session-id"]))
        assert client.http.delete(client.url, headers=client.headers).status_code == 204
    wait_until(lambda: all(any(r.http == "DELETE" for r in server.requests) for server in (one, two)))
    assert not any(seen(one).values())
    assert seen(two) == {name: {"k"} if name == "x-api-key" else set() for name in SECRETS}
    assert seen(two, ["x-user-token"]) == {"x-user-token": {"Bearer mine"}}
    of_clients = [r for r in two.requests if r.http != "POST" or r.json.get("method") != "tools/list"]
    assert [r.json for r in of_clients if r.http == "POST" and "x-user-token" not in r.headers][1:] == [], (
        "all but the gateway's own (the first is its initialized)"
    )


@pytest.mark.duty("header.to-server")
def test_what_every_server_gets(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        for _ in range(2):
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}
            assert succeeded(client.send(body, **{k.replace("-", "_"): v for k, v in HARMLESS.items()}))
            called = one.calls("tools/call")[-1].headers
            assert {name: called[name] for name in HARMLESS} == HARMLESS
            assert {name for name in called if name.startswith(("x-forwarded", "x-envoy", "sec-"))} == set()
            assert "x-mcp-passed" not in called
            assert called["x-mcp-toolname"] == "a_one"


@pytest.mark.duty("header.to-server")
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1", "HTTP/2"])
@pytest.mark.parametrize("chunked", [False, True], ids=["known size", "chunked"])
def test_no_length_of_a_header_hides_it(running: Gateway, one: ScriptedServer, http2: bool, chunked: bool) -> None:
    """Envoy counts the bytes of a client's headers, and adds headers of its own."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}).encode()
    with Client(running.url, http2=http2) as client:
        assert succeeded(client.call("a_one"))
        for length in range(1, 50):
            content: Any = iter([body]) if chunked else body
            secret = {"cookie": "x" * length} if length % 2 else {"x": "y" * length}
            response = client.http.post(client.url, content=content, headers=client.headers | secret)
            assert succeeded(response)
            assert not {"cookie", "x", "x-mcp-size"} & set(one.calls("tools/call")[-1].headers), length


@pytest.mark.duty("header.to-server")
def test_a_client_without_a_header_that_its_server_requires(running: Gateway, two: ScriptedServer) -> None:
    with running.client(authorization="Bearer mine") as client:
        for _ in range(2):
            assert succeeded(client.call("b_two"))
        opened, called = len(two.calls("initialize")), len(two.calls("tools/call"))
        del client.headers["authorization"]
        for caller in (client, Client(running.url)):
            with caller:
                error = answer(caller.call("b_two", 5))["error"]
                assert error["code"] == -32000
                assert error["data"] == {"server": "ns/two", "reason": "Unauthorized"}
                assert error["message"].endswith("this client does not send: authorization")
        assert (len(two.calls("initialize")), len(two.calls("tools/call"))) == (opened, called)


@pytest.mark.duty("header.to-server")
def test_the_messages_of_a_batch(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": name}}
        for number, name in enumerate(["a_one", "b_two"])
    ]
    with asking(running, "2025-03-26") as client:
        assert client.send(json.dumps(calls)).text.count('"result"') == 2
    assert not any(seen(one).values())
    assert two.calls("tools/call")[-1].headers["x-user-token"] == "Bearer mine"


@pytest.mark.duty("session.newest-credentials")
def test_the_gateway_learns_the_newest_of_every_header_that_a_server_wants(running: Gateway, two: ScriptedServer) -> None:
    """Also from repeated calls: a stream was opened again with a key that was revoked."""
    with asking(running) as client, listening(client):
        for key in ("k1", "k2"):
            client.headers["x-api-key"] = key
            for _ in range(3):
                assert succeeded(client.call("b_two"))
                assert two.calls("tools/call")[-1].headers["x-api-key"] == key
        session = two.calls("tools/call")[-1].headers["mcp-session-id"]
        opened = len([r for r in two.requests if r.http == "GET"])
        two.drop_streams()
        wait_until(lambda: two.streams(session) and len([r for r in two.requests if r.http == "GET"]) > opened)
        again = [r for r in two.requests if r.http == "GET" and r.headers.get("mcp-session-id") == session][-1]
        assert (again.headers["x-api-key"], again.headers["x-user-token"]) == ("k2", "Bearer mine")
