"""Subscriptions and log levels: messages of servers outside of calls.

They reach the client of their session, and no other.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import quiet
from tests.e2e.stack import Gateway, answer, entry, gateway, listening, succeeded, wait_until
from tests.e2e.test_primitives import offer
from tests.servers.scripted import ScriptedServer


def watched(server: ScriptedServer) -> None:
    def empty(handler: Any, message: Any) -> bool:
        handler.result(message["id"], {})
        return True

    offer(server, resources=[{"uri": "file:///w", "name": "w"}])
    server.capabilities["resources"] = {"subscribe": True}
    server.capabilities["logging"] = {}
    for method in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
        server.answers[method] = empty


@pytest.fixture
def running(one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    watched(one)
    with gateway(
        tmp_path_factory.mktemp("relayed"), [entry("ns/one", one.url, "a_", forwardHeaders=["authorization"])]
    ) as new_gateway:
        yield new_gateway


def stream_of(server: ScriptedServer, session: str) -> Any:
    """The stream that a session holds open at a server."""
    streams = [each for each in server._streams if each.headers.get("mcp-session-id") == session]
    return streams[-1] if streams else None


def say(stream: Any, method: str, **params: Any) -> None:
    data = json.dumps({"jsonrpc": "2.0", "method": method, "params": params})
    stream.wfile.write(f"data: {data}\n\n".encode())


@pytest.mark.duty("notify.updated", "session.capabilities")
def test_an_update_reaches_exactly_the_subscriber(running: Gateway, one: ScriptedServer) -> None:
    with running.client(authorization="Bearer mine") as client, running.client() as other:
        assert client.initialized.json()["result"]["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}
        other.call("a_one")
        with listening(client) as messages, listening(other) as not_heard:
            assert answer(client.post("resources/subscribe", {"uri": "file:///w"}))["result"] == {}
            session = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
            stream = wait_until(lambda: stream_of(one, session))
            assert stream.headers["authorization"] == "Bearer mine"
            say(stream, "notifications/resources/updated", uri="file:///w")
            say(stream, "notifications/tools/list_changed")
            wait_until(lambda: messages)
            quiet()
            assert messages == [
                {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "file:///w"}}
            ]
            assert not_heard == []


@pytest.mark.duty("notify.subscription-kept", "notify.level")
def test_a_subscription_survives_a_heal(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client, listening(client) as messages:
        client.post("resources/subscribe", {"uri": "file:///w"})
        client.post("logging/setLevel", {"level": "warning"})
        wait_until(lambda: one.calls("logging/setLevel"))
        one.sessions.clear()
        assert succeeded(client.call("a_one"))
        fresh = one.calls("tools/call")[-1].headers["mcp-session-id"]
        again = wait_until(
            lambda: [call for call in one.calls("resources/subscribe") if call.headers["mcp-session-id"] == fresh]
        )
        assert again[0].json["params"] == {"uri": "file:///w"}
        levels = [call for call in one.calls("logging/setLevel") if call.headers["mcp-session-id"] == fresh]
        assert levels[0].json["params"] == {"level": "warning"}
        say(wait_until(lambda: stream_of(one, fresh)), "notifications/message", level="error", data="x")
        wait_until(lambda: messages)
        assert messages[-1]["params"] == {"level": "error", "data": "x"}


@pytest.mark.duty("notify.level", "session.capabilities")
def test_a_level_reaches_servers_that_are_met_later(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        assert client.initialized.json()["result"]["capabilities"]["logging"] == {}
        assert answer(client.post("logging/setLevel", {"level": "debug"}))["result"] == {}
        assert one.calls("logging/setLevel") == []
        client.call("a_one")
        requests = wait_until(lambda: one.calls("logging/setLevel"))
        assert requests[0].json["params"] == {"level": "debug"}
        assert answer(client.post("logging/setLevel", {"level": "loud"}))["error"]["code"] == -32602


@pytest.mark.duty("session.upstream-delete")
def test_a_session_that_ends_hears_no_more(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.post("resources/subscribe", {"uri": "file:///w"})
        session = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        wait_until(lambda: stream_of(one, session))
        client.http.delete(client.url, headers=client.headers)
        wait_until(lambda: session not in one.sessions)
        assert answer(client.post("resources/unsubscribe", {"uri": "file:///w"}))["error"]["code"] == -32001


@pytest.mark.duty("notify.subscription-kept")
def test_an_unsubscription_is_not_repeated(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.post("resources/subscribe", {"uri": "file:///w"})
        client.post("resources/unsubscribe", {"uri": "file:///w"})
        one.sessions.clear()
        assert succeeded(client.call("a_one"))
        quiet(0.5)
        assert len(one.calls("resources/subscribe")) == 1


@pytest.mark.duty("ask.outside-call", "session.ids-hidden")
def test_a_request_on_that_stream_is_the_clients_to_answer(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client, listening(client) as messages:
        client.post("resources/subscribe", {"uri": "file:///w"})
        session = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        stream = wait_until(lambda: stream_of(one, session))
        data = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "roots/list"})
        stream.wfile.write(f"data: {data}\n\n".encode())
        server_request = wait_until(lambda: messages)[0]
        assert server_request["method"] == "roots/list"
        assert re.fullmatch("mcpgw:ns/one:[A-Za-z0-9_-]{40,}:7", server_request["id"])
        assert session not in str(messages)
        assert client.send({"jsonrpc": "2.0", "id": server_request["id"], "result": {"roots": []}}).status_code == 202
        replied = [request for request in one.requests if request.json.get("id") == 7 and "result" in request.json]
        assert len(replied) == 1
        assert replied[0].headers["mcp-session-id"] == session


@pytest.mark.duty("notify.subscription-kept")
def test_a_listening_client_hears_on_after_the_server_forgot_its_session(running: Gateway, one: ScriptedServer) -> None:
    """Nobody calls: the stream alone finds out, heals the session and repeats the subscription."""
    with running.client() as client, listening(client) as messages:
        client.post("resources/subscribe", {"uri": "file:///w"})
        old = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        stream = wait_until(lambda: stream_of(one, old))
        one.forgetful = True
        one.sessions.clear()
        stream.connection.shutdown(2)
        again = wait_until(
            lambda: [call for call in one.calls("resources/subscribe") if call.headers["mcp-session-id"] != old]
        )
        fresh = again[0].headers["mcp-session-id"]
        say(wait_until(lambda: stream_of(one, fresh)), "notifications/resources/updated", uri="file:///w")
        wait_until(lambda: messages)
        assert messages[-1]["params"] == {"uri": "file:///w"}


@pytest.mark.duty("notify.updated", "list.uri-alias")
def test_an_update_of_a_clashing_uri_is_told_by_its_alias(one: ScriptedServer, two: ScriptedServer, tmp_path: Path) -> None:
    for server in (one, two):
        watched(server)
    alias = "mcpgw://ns%2Ftwo/file:///w"
    servers = [entry("ns/one", one.url), entry("ns/two", two.url)]
    with gateway(tmp_path, servers) as running, running.client() as client, listening(client) as messages:
        assert answer(client.post("resources/subscribe", {"uri": alias}))["result"] == {}
        (request,) = two.calls("resources/subscribe")
        assert request.json["params"] == {"uri": "file:///w"}
        stream = wait_until(lambda: stream_of(two, request.headers["mcp-session-id"]))
        say(stream, "notifications/resources/updated", uri="file:///w")
        wait_until(lambda: messages)
        assert messages[0]["params"] == {"uri": alias}


@pytest.mark.duty("resume.missed")
def test_a_subscription_over_a_restart_of_the_sidecar(running: Gateway, one: ScriptedServer) -> None:
    """The client's last id names the session with the server; the new process goes on there."""
    with running.client() as client:
        with client.http.stream("GET", client.url, headers=client.headers, timeout=None) as response:
            ids = (line.removeprefix("id: ") for line in response.iter_lines() if line.startswith("id: "))
            assert next(ids)
            client.post("resources/subscribe", {"uri": "file:///w"})
            last = next(ids)
        session = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        old = wait_until(lambda: stream_of(one, session))
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.stop()
        running.start_sidecar()
        wait_until(lambda: client.post("ping").status_code == 200)
        client.headers |= {"last-event-id": last}
        with listening(client) as messages:
            updated = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "file:///w"}}
            wait_until(lambda: messages == [updated])  # what came meanwhile
            fresh = wait_until(lambda: stream_of(one, session) is not old and stream_of(one, session))
            say(fresh, "notifications/resources/updated", uri="file:///w")
            wait_until(lambda: messages == [updated, updated])
        assert len(one.calls("resources/subscribe")) == 1
