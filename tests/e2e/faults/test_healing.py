"""A server that forgot its sessions in a restart: no client sees it, and nothing runs twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack import Client, Gateway, answer, entry, gateway, text_of
from tests.servers.scripted import ScriptedServer


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("heal"), [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]
    ) as new_gateway:
        yield new_gateway


@pytest.mark.duty("session.heal", "session.upstream-client")
def test_a_forgotten_session_is_healed_in_place(running: Gateway, one: ScriptedServer) -> None:
    with running.client(authorization="Bearer mine") as client:
        assert text_of(client.call("a_one", 1, n=1))
        dead = one.calls("tools/call")[-1].headers["mcp-session-id"]
        one.sessions.clear()
        response = client.call("a_one", "x", n=2)
        assert (response.status_code, answer(response)["id"]) == (200, "x")
        assert "x-mcp-memo" not in response.headers
        refused, ran = one.calls("tools/call")[-2:]
        assert refused.headers["mcp-session-id"] == dead
        assert ran.headers["mcp-session-id"] != dead
        assert ran.headers["mcp-session-id"] in one.sessions
        assert refused.body == ran.body
        assert json.loads(text_of(response))["arguments"] == {"n": 2}
        opened = one.calls("initialize")[-1]
        assert opened.headers["authorization"] == "Bearer mine"
        assert opened.json["params"]["clientInfo"]["name"] == "test-client"
        before = len(one.calls("initialize"))
        assert text_of(client.call("a_one"))
        assert len(one.calls("initialize")) == before, "the healed session is kept"


@pytest.mark.duty("header.memo-hidden", "session.ids-hidden")
def test_no_server_sees_what_the_healing_needs(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.call("a_one")
        one.sessions.clear()
        client.call("a_one")
        client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}, x_mcp_session="forged")
        for call in one.calls("tools/call"):
            assert "x-mcp-session" not in call.headers
            assert "x-envoy-attempt-count" not in call.headers
            assert "x-mcp-memo" not in call.headers
            assert client.session not in str(call.headers)


@pytest.mark.duty("session.heal")
def test_calls_that_race_into_a_dead_session_open_one(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.call("a_one")
        one.sessions.clear()
        before = len(one.calls("initialize"))
        codes: list[int] = []

        def call() -> None:
            with Client(running.url) as other:
                other.headers["mcp-session-id"] = client.session
                codes.append(other.call("a_one").status_code)

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [200] * 6
        assert len(one.calls("initialize")) == before + 1


def test_a_404_of_a_session_that_lives_is_the_servers_own(running: Gateway, one: ScriptedServer) -> None:
    def not_found(handler: Any, _message: Any) -> bool:
        handler.send(404, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"mine"}}')
        return True

    with running.client() as client:
        client.call("a_one")
        session = one.calls("tools/call")[-1].headers["mcp-session-id"]
        before = len(one.calls("initialize"))
        one.answers["tools/call"] = not_found
        response = client.call("a_one")
        assert (response.status_code, response.json()["error"]["message"]) == (404, "mine")
        one.answers.clear()
        assert text_of(client.call("a_one"))
        assert one.calls("tools/call")[-1].headers["mcp-session-id"] == session
        assert len(one.calls("initialize")) == before


def test_a_server_that_cannot_be_healed_is_told_so_to_the_client(running: Gateway, one: ScriptedServer) -> None:
    def broken(handler: Any, _message: Any) -> bool:
        handler.send(500, b"")
        return True

    with running.client() as client:
        client.call("a_one")
        one.sessions.clear()
        one.answers["initialize"] = broken
        assert client.call("a_one").status_code == 404
        one.answers.clear()
        assert text_of(client.call("a_one"))
        assert text_of(client.call("b_two"))


@pytest.mark.duty("session.heal")
def test_a_large_call_is_healed_as_well(running: Gateway, one: ScriptedServer) -> None:
    data = "x" * 3_000_000
    with running.client() as client:
        client.call("a_one")
        one.sessions.clear()
        response = client.call("a_one", data=data)
        assert json.loads(text_of(response))["arguments"] == {"data": data}


@pytest.mark.duty("security.fail-closed")
def test_healing_is_not_for_clients(running: Gateway) -> None:
    with running.client() as client:
        url = running.url.replace("/mcp", "/heal")
        assert client.http.post(url, headers={"x-mcp-servername": "ns/one", "x-mcp-session": "x"}).status_code == 404
