"""A server that forgot its sessions in a restart: no client sees it, and nothing runs twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack import Client, Gateway, answer, entry, gateway, succeeded, text_of
from tests.servers.scripted import ScriptedServer


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("heal"),
        [entry("ns/one", one.url, "a_", forwardHeaders=["authorization"]), entry("ns/two", two.url, "b_")],
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
        healed: list[int] = []

        def call() -> None:
            with Client(running.url) as other:
                other.headers["mcp-session-id"] = client.session
                healed.append(succeeded(other.call("a_one")))

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert healed == [True] * 6
        assert len(one.calls("initialize")) == before + 1


def forgetting(server: ScriptedServer, status: int) -> Any:
    """An answer of servers that say something else than 404 to a session that they do not know."""

    def answer_forgotten(handler: Any, _message: Any) -> bool:
        if server.knows(handler):
            return False
        handler.send(status, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"No valid session"}}')
        return True

    return answer_forgotten


@pytest.mark.duty("session.heal")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_forgotten_session_is_healed_whatever_its_server_says_to_it(
    running: Gateway, one: ScriptedServer, status: int
) -> None:
    for method in ("tools/call", "ping"):
        one.answers[method] = forgetting(one, status)
    with running.client() as client:
        assert succeeded(client.call("a_one"))
        one.sessions.clear()
        before = len(one.calls("tools/call"))
        assert text_of(client.call("a_one", n=2))
        assert len(one.calls("tools/call")) == before + 2
        assert text_of(client.call("a_one"))
        assert len(one.calls("tools/call")) == before + 3, "the healed session is used"


@pytest.mark.duty("call.not-twice", "error.neighbours")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
@pytest.mark.parametrize("sessions", [True, False], ids=["its session lives", "no sessions"])
def test_a_server_that_refuses_a_call_gets_it_once(
    running: Gateway, one: ScriptedServer, status: int, sessions: bool
) -> None:
    def refused(handler: Any, message: Any) -> bool:
        own = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32050, "message": "mine"}}
        handler.send(status, json.dumps(own).encode())
        return True

    one.keeps_sessions = sessions
    with running.client() as client:
        assert succeeded(client.call("a_one"))
        before, opened = len(one.calls("tools/call")), len(one.calls("initialize"))
        one.answers["tools/call"] = refused
        response = client.call("a_one", "r")
        own = {"jsonrpc": "2.0", "id": "r", "error": {"code": -32050, "message": "mine"}}
        assert (response.status_code, response.json()) == (200, own)
        assert len(one.calls("tools/call")) == before + 1
        one.answers.clear()
        assert text_of(client.call("a_one"))
        assert len(one.calls("initialize")) == opened, "its session is as good as before"


def test_a_server_that_cannot_be_healed_is_told_so_to_the_client(running: Gateway, one: ScriptedServer) -> None:
    def broken(handler: Any, _message: Any) -> bool:
        handler.send(500, b"")
        return True

    with running.client() as client:
        client.call("a_one")
        one.sessions.clear()
        one.answers["initialize"] = broken
        response = client.call("a_one", 8)
        assert (response.status_code, response.json()["id"]) == (200, 8)
        data = {"server": "ns/one", "reason": "BadAnswer", "status": 404}
        assert response.json()["error"]["data"] == data, "not the server's 404, which would end the client's own session"
        one.answers.clear()
        assert text_of(client.call("a_one"))
        assert text_of(client.call("b_two"))


@pytest.mark.duty("session.heal", "session.restart")
def test_a_session_is_healed_that_only_envoy_remembers(running: Gateway, one: ScriptedServer) -> None:
    """The sidecar has started anew, and the memo's hit meets a server that has forgotten."""
    with running.client() as client:
        for _ in range(2):
            assert text_of(client.call("a_one"))
        running.kill()
        running.start_sidecar()
        assert text_of(client.call("a_one"))
        one.sessions.clear()
        assert json.loads(text_of(client.call("a_one", n=5)))["arguments"] == {"n": 5}
        assert one.calls("initialize")[-1].json["params"]["clientInfo"]["name"] == "test-client"
        assert text_of(client.call("a_one"))
        running.kill()
        one.sessions.clear()
        response = client.call("a_one", 6)
        assert (response.status_code, response.json()["id"]) == (200, 6)
        assert response.json()["error"]["data"]["reason"] == "BadAnswer"
        running.start_sidecar()
        assert text_of(client.call("a_one"))


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
