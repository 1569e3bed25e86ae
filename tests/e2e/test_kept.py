"""What a session keeps over restarts of the sidecar and of its servers, without a store."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Client, Gateway, answer, entry, gateway, listening, succeeded, wait_until
from tests.e2e.test_relayed import say, stream_of, watched
from tests.servers.scripted import ScriptedServer

UPDATED = "notifications/resources/updated"
OLD = ["2025-03-26", "2025-06-18", "2025-11-25"]


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path: Path) -> Iterator[Gateway]:
    for server in (one, two):
        watched(server)
    with gateway(tmp_path, [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]) as new_gateway:
        yield new_gateway


def restart(running: Gateway, number: signal.Signals) -> None:
    running.sidecar.signal(number)
    running.sidecar.wait()
    running.start_sidecar()


def sessions(server: ScriptedServer, method: str) -> list[str]:
    return [call.headers["mcp-session-id"] for call in server.calls(method)]


def updated(messages: list[Any]) -> int:
    return sum(message.get("method") == UPDATED for message in messages)


@pytest.mark.duty("session.journal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("version", OLD)
def test_subscriptions_and_levels_outlive_a_restart_and_their_server(
    running: Gateway, one: ScriptedServer, two: ScriptedServer, version: str, number: signal.Signals
) -> None:
    """No client needs the id of an event for it, and no server its session."""
    with running.client(version=version) as client:
        assert answer(client.post("resources/subscribe", {"uri": "file:///w"}))["result"] == {}
        client.post("logging/setLevel", {"level": "warning"})
        (session,) = sessions(one, "resources/subscribe")
        old = wait_until(lambda: stream_of(one, session))  # a scripted server keeps it, dead as it is
        restart(running, number)
        with listening(client) as messages:
            wait_until(lambda: updated(messages) == 1, "what nobody heard is told as updated")
            say(wait_until(lambda: stream_of(one, session) is not old and stream_of(one, session)), UPDATED, uri="file:///w")
            wait_until(lambda: updated(messages) == 2)
            assert succeeded(client.call("a_one"))
            assert sessions(one, "tools/call") == [session], "the session with the server goes on"
            one.sessions.clear()
            assert succeeded(client.call("a_one"))
            wait_until(lambda: len(sessions(one, "resources/subscribe")) == 2, "the new session is told")
            say(wait_until(lambda: stream_of(one, sessions(one, "tools/call")[-1])), UPDATED, uri="file:///w")
            wait_until(lambda: updated(messages) == 3)
        assert succeeded(client.call("b_two"))
        wait_until(lambda: two.calls("logging/setLevel"), "servers that are opened later have the level")
        assert two.calls("logging/setLevel")[0].json["params"] == {"level": "warning"}
        assert "file:///w" not in (running.directory / "envoy" / "sessions.journal").read_text()


@pytest.mark.duty("session.journal", "transport.get-primed")
@pytest.mark.parametrize("version", OLD)
def test_a_replica_without_a_store_learns_all_from_the_id_of_an_event(running: Gateway, version: str) -> None:
    """Clients get an event for its id at once: one without data, or a ping, which they answer."""
    with running.client(version=version) as client:
        assert answer(client.post("resources/subscribe", {"uri": "file:///w"}))["result"] == {}
        seen = events(client)
        wait_until(lambda: any(name == "id" and ":" in value for name, value in seen), "an id with the wishes")
        last = [value for name, value in seen if name == "id"][-1]
        asked = [json.loads(value) for name, value in seen if name == "data" and value]
        for message in asked:
            assert message["method"] == "ping"
            assert client.send({"jsonrpc": "2.0", "id": message["id"], "result": {}}).status_code == 202
        assert bool(asked) == (version < "2025-11-25")
        running.kill()
        (running.directory / "envoy" / "sessions.journal").unlink()
        running.start_sidecar()
        resumed = events(client, last)
        wait_until(
            lambda: any(UPDATED in value for _, value in resumed), "it is heard again, and told what it may have missed"
        )


def events(client: Client, last: str = "") -> list[tuple[str, str]]:
    """The fields of the events of a new stream of a client, as they come."""
    seen: list[tuple[str, str]] = []
    opened = threading.Event()

    def listen() -> None:
        headers = {**client.headers, **({"last-event-id": last} if last else {})}
        with (
            suppress(Exception),  # the sidecar is killed under the stream, or the client is closed
            client.http.stream("GET", client.url, headers=headers, timeout=None) as response,
        ):
            for line in response.iter_lines():
                name, _, value = line.partition(":")
                seen.append((name, value.strip()))
                opened.set()

    threading.Thread(target=listen, daemon=True).start()
    assert opened.wait(20)
    return seen


@pytest.mark.duty("session.journal", "session.upstream-delete")
def test_delete_closes_what_was_ever_opened(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    """Also what the process before has opened, which this one has never used."""
    with running.client() as client:
        assert succeeded(client.call("a_one"))
        restart(running, signal.SIGKILL)
        assert succeeded(client.call("b_two"))
        restart(running, signal.SIGTERM)
        opened = {*sessions(one, "tools/call"), *sessions(two, "tools/call")}
        assert opened <= one.sessions | two.sessions
        assert client.http.delete(client.url, headers=client.headers).status_code == 204
        wait_until(lambda: not opened & (one.sessions | two.sessions), "nothing is left at the servers")
        restart(running, signal.SIGKILL)
        assert client.post("ping").status_code == 404, "what was ended stays ended"


def test_a_miss_after_a_restart_opens_no_other_session(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        assert succeeded(client.call("a_one"))
        opened = len(one.calls("initialize"))
        for _ in range(3):
            restart(running, signal.SIGTERM)
            running_again = len(one.calls("initialize"))
            assert succeeded(client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}))
            assert client.http.get(running.admin + "/readyz").status_code == 200
        assert len(set(sessions(one, "tools/call"))) == 1
        assert running_again - opened == 3, "the broker's own sessions alone"


@pytest.mark.duty("session.heal")
def test_a_heal_waits_for_the_next_sidecar(running: Gateway, one: ScriptedServer) -> None:
    """Envoy knows the call, its server has forgotten the session, and nobody is there to ask."""
    with running.client() as client:
        assert succeeded(client.call("a_one"))
        assert succeeded(client.call("a_one"))
        running.kill()
        one.sessions.clear()
        answers: list[Any] = []
        calling = threading.Thread(target=lambda: answers.append(client.call("a_one")))
        calling.start()
        wait_until(lambda: len(one.calls("tools/call")) == 3)
        running.start_sidecar()
        calling.join()
        assert succeeded(answers[0])
        assert len(one.calls("tools/call")) == 4, "the call ran in the new session alone"


@pytest.mark.duty("restart.soak")
def test_what_a_slow_server_has_is_found_after_a_start(running: Gateway, one: ScriptedServer) -> None:
    """Until it has answered, nothing of it is said to be unknown."""
    with running.client() as client:
        running.kill()
        one.delay = 0.7
        running.start_sidecar(503)
        assert succeeded(client.call("a_one"))


@pytest.mark.duty("drain.calls")
def test_kill_and_start_cost_no_request(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    """With the next sidecar started beside the one that drains, and a server that hangs."""
    stuck, release = threading.Event(), threading.Event()

    def hang(_handler: Any, _message: Any) -> bool:
        stuck.set()
        release.wait(30)
        return False

    failures: list[str] = []
    done = threading.Event()

    def load(number: int) -> None:
        with running.client() as client:
            while not done.is_set():
                responses = [client.call("a_one", number), client.post("tools/list")]
                with running.client() as fresh:
                    responses.append(fresh.call("a_one"))
                failures.extend(response.text for response in responses if not succeeded(response))

    hung: list[Any] = []
    with running.client() as waiting:
        two.answers["initialize"] = hang
        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=lambda: hung.append(answer(waiting.call("b_two")))))
        for thread in threads:
            thread.start()
        try:
            assert stuck.wait(10)
            before = running.sidecar
            before.signal(signal.SIGTERM)
            running.start_sidecar()  # at once, beside it
            assert before.wait() == 0
            wait_until(lambda: hung, "what only waits is ended")
            error = hung[0]["error"]
            assert (error["code"], error["data"]) == (-32000, {"server": "ns/two", "reason": "Unreachable"})
            assert error["message"].endswith("try again")
            wait_until(lambda: len(one.calls("tools/call")) > 100, "the load goes on")
        finally:
            release.set()
            done.set()
            for thread in threads:
                thread.join()
    assert failures == []


def test_what_was_begun_is_finished_while_the_next_sidecar_waits(running: Gateway, one: ScriptedServer) -> None:
    """A batch is carried by the process itself."""
    begun, release = threading.Event(), threading.Event()

    def slow(_handler: Any, _message: Any) -> bool:
        del one.answers["tools/call"]
        begun.set()
        release.wait(30)
        return False

    answers: list[Any] = []
    with Client(running.url, version="2025-03-26") as client, running.client() as other:
        assert succeeded(other.call("a_one"))
        batch = [{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one", "arguments": {}}}]
        one.answers["tools/call"] = slow
        thread = threading.Thread(target=lambda: answers.append(client.send(json.dumps(batch))))
        thread.start()
        assert begun.wait(10)
        before = running.sidecar
        before.signal(signal.SIGTERM)
        wait_until(lambda: running.readyz().text.find("draining") >= 0, "it says so")
        starting = threading.Thread(target=running.start_sidecar)
        starting.start()
        wait_until(lambda: running.logged("Waiting for the sidecar that drains"))
        for _ in range(3):
            with running.client() as fresh:
                assert succeeded(fresh.call("a_one")), "the one that drains still serves everybody"
        assert before.popen.poll() is None
        release.set()
        thread.join()
        starting.join()
        assert before.wait() == 0
        assert answer(answers[0])["result"]
        assert succeeded(other.call("a_one"))
