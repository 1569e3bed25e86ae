"""Sessions: sealed for clients, opened once per server, and valid after a kill -9.

Neither side ever sees the id of the other.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import CLIENT, Client, Gateway, entry, gateway, listening, succeeded, text_of, wait_until
from tests.servers.scripted import ScriptedServer


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("sessions"),
        [
            entry("ns/one", one.url, "a_", forwardHeaders=["Authorization", {"name": "x-tenant", "as": "x-org"}]),
            entry("ns/two", two.url, "b_"),
        ],
    ) as new_gateway:
        yield new_gateway


def opened(server: ScriptedServer) -> list[Any]:
    """The initializations that clients caused: the broker's own is the first."""
    return server.calls("initialize")[1:]


@pytest.mark.duty("session.ids-hidden", "security.call-secrets")
def test_neither_side_sees_the_others_session_id(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        response = client.call("a_one")
        assert "mcp-session-id" not in response.headers
        assert "mcp-session-id" not in client.post("tools/list").headers
        upstream_id = one.calls("tools/call")[-1].headers["mcp-session-id"]
        assert upstream_id in one.sessions
        everything = "".join(str(request.headers) + request.body.decode() for request in one.requests)
        assert client.session not in everything
        assert upstream_id not in running.sidecar.text
        assert client.session not in running.sidecar.text


@pytest.mark.duty("session.upstream-client", "header.authority-path")
def test_the_server_sees_the_client(running: Gateway, one: ScriptedServer) -> None:
    with running.client(authorization="Bearer mine", x_tenant="t1") as client:
        client.call("a_one")
        first = opened(one)[0]
        assert first.json["params"]["clientInfo"] == CLIENT
        assert first.headers["authorization"] == "Bearer mine"
        assert first.headers["x-org"] == "t1"
        assert first.headers["mcp-session-id" if "mcp-session-id" in first.headers else "accept"] != client.session
        called = one.calls("tools/call")[-1]
        assert called.headers["authorization"] == "Bearer mine"
        assert called.headers["host"] == f"127.0.0.1:{one.port}"
        assert called.headers["mcp-protocol-version"] == "2025-11-25"
        assert len(one.calls("notifications/initialized")) == 2


@pytest.mark.duty("session.upstream-client", "session.upstream-version")
def test_the_server_sees_what_the_client_can_and_is_told_its_own_version(running: Gateway, one: ScriptedServer) -> None:
    capabilities = {"elicitation": {"form": {}}, "experimental": {"x": [1, "é"]}}
    one.version = "2025-03-26"
    with Client(running.url, capabilities=capabilities) as client:
        assert text_of(client.call("a_one"))
        assert opened(one)[0].json["params"]["capabilities"] == capabilities
        for arrived in (one.calls("notifications/initialized")[-1], one.calls("tools/call")[-1]):
            assert arrived.headers["mcp-protocol-version"] == "2025-03-26"
            assert arrived.headers["mcp-session-id"] in one.sessions


@pytest.mark.duty("session.upstream-own")
def test_calls_that_race_share_one_session(running: Gateway, one: ScriptedServer) -> None:
    one.delay = 0.2
    with running.client() as client:
        results: list[int] = []

        def call() -> None:
            with Client(running.url) as other:
                other.headers |= {"mcp-session-id": client.session}
                results.append(succeeded(other.call("a_one")))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 8
    assert len(opened(one)) == 1


@pytest.mark.duty("session.upstream-own")
def test_each_client_and_each_server_has_a_session_of_its_own(
    running: Gateway, one: ScriptedServer, two: ScriptedServer
) -> None:
    with running.client() as first, running.client() as second:
        for client in (first, second):
            client.call("a_one")
            client.call("b_two")
            client.call("a_one")
        assert len(opened(one)) == len(opened(two)) == 2
        assert len({call.headers["mcp-session-id"] for call in one.calls("tools/call")}) == 2
        assert running.status()["sessions"] == {"gateway": 2, "upstream": 4, "droppedMessages": 0, "heldCalls": 0}


@pytest.mark.duty("session.delete-204", "session.upstream-delete")
def test_delete_ends_the_session_everywhere(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.call("a_one")
        upstream = one.calls("tools/call")[-1].headers["mcp-session-id"]
        assert client.http.delete(client.url, headers=client.headers).status_code == 204
        wait_until(lambda: upstream not in one.sessions, "the server's session is closed")
        assert client.call("a_one").status_code == 404
        assert client.http.delete(client.url, headers=client.headers).status_code == 404


def test_the_streams_of_ended_sessions_leave_no_connections(running: Gateway) -> None:
    """Envoy would keep each for a minute, and the sidecar 20 kB with it."""
    files = Path(f"/proc/{running.sidecar.popen.pid}/fd")
    with ExitStack() as stack:
        clients = [stack.enter_context(running.client()) for _ in range(8)]
        for client in clients:
            stack.enter_context(listening(client))
        listened = len(list(files.iterdir()))
        for client in clients:
            assert client.http.delete(client.url, headers=client.headers).status_code == 204
        # One or two may have been opened for the DELETEs.
        wait_until(lambda: len(list(files.iterdir())) <= listened - len(clients) + 2, "their connections are closed")


@pytest.mark.duty("session.upstream-delete", "session.expired-404")
def test_an_expired_session_is_closed_at_its_servers(one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        gateway(tmp_path_factory.mktemp("expiry"), [entry("ns/one", one.url)], "--session-lifetime=2s") as short,
        short.client() as client,
    ):
        client.call("one")
        upstream = one.calls("tools/call")[-1].headers["mcp-session-id"]
        wait_until(lambda: upstream not in one.sessions)
        assert short.status()["sessions"] == {"gateway": 0, "upstream": 0, "droppedMessages": 0, "heldCalls": 0}


def test_a_server_without_sessions(running: Gateway, one: ScriptedServer) -> None:
    one.keeps_sessions = False
    with running.client() as client:
        assert text_of(client.call("a_one"))
        assert "mcp-session-id" not in one.calls("tools/call")[-1].headers


@pytest.mark.duty("session.restart", "call.sidecar-down", "error.sidecar-503")
def test_sessions_live_on_after_kill_9(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.call("a_one")
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.wait()
        assert text_of(client.call("a_one", "known")), "Envoy remembers whose tool it is, and the session"
        for down in (
            client.call("a_both", "d"),
            client.post("tools/list", ident="d"),
            client.post("prompts/get", ident="d"),
        ):
            assert down.status_code == 503
            assert "sidecar" in down.json()["error"]["message"]
        assert client.post("ping", ident="d").json()["id"] == "d"
        assert client.http.get(client.url, headers=client.headers).status_code == 503
        running.start_sidecar()
        wait_until(lambda: succeeded(client.call("a_one")), "the same session works again")
        assert client.post("ping").status_code == 200
    assert opened(one)


@pytest.mark.duty("session.key-rotation", "security.credentials")
def test_keys_can_be_rotated_without_losing_a_session(running: Gateway) -> None:
    key = running.directory / "envoy" / "session.key"
    assert key.stat().st_mode & 0o777 == 0o600
    old = key.read_text()
    with running.client() as client:
        key.write_text("n" * 43 + "\n" + old)
        wait_until(lambda: running.logged("Session keys read again"))
        assert client.post("ping").status_code == 200
        with running.client() as after:
            key.write_text("n" * 43 + "\n")
            wait_until(lambda: client.post("ping").status_code == 404)
            assert after.post("ping").status_code == 200
        key.write_text("short\n")
        wait_until(lambda: running.logged("ERROR Session keys not read again"))
    assert old.strip() not in running.sidecar.text
