"""Processes that end, disks that are full, names that do not resolve.

Requests in flight go on, and each loss is reported and repaired.
"""

from __future__ import annotations

import resource
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.e2e.stack import Client, Gateway, entry, free_ports, gateway, listening, succeeded, text_of, wait_until
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture
def running(one: ScriptedServer, directory: Path) -> Iterator[Gateway]:
    with gateway(directory, [entry("ns/one", one.url, "a_")], "--refresh-interval=300ms") as new_gateway:
        yield new_gateway


def slow_call(one: ScriptedServer, seconds: float) -> None:
    def slow(handler: Any, message: Any) -> bool:
        time.sleep(seconds)
        handler.result(message["id"], {"content": [{"type": "text", "text": "done"}]})
        return True

    one.answers["tools/call"] = slow


@pytest.mark.duty("session.restart", "error.sidecar-503")
def test_the_sidecar_killed_in_the_midst_of_a_call(running: Gateway, one: ScriptedServer) -> None:
    """The call is Envoy's and ends well; the session is the client's and goes on."""
    with running.client() as client, running.client() as another:
        client.call("a_one")
        slow_call(one, 3)
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(text_of(client.call("a_one"))))
        thread.start()
        wait_until(lambda: len(one.calls("tools/call")) == 2)
        running.kill()
        down = another.call("a_one")
        assert (down.status_code, "sidecar is not running" in down.json()["error"]["message"]) == (503, True)
        running.start_sidecar()
        thread.join()
        assert texts == ["done"]
        one.answers.clear()
        assert text_of(wait_until(lambda: succeeded(response := another.call("a_one")) and response))
        assert text_of(client.call("a_one"))


@pytest.mark.duty("resume.missed")
def test_a_clients_stream_over_a_restart_of_the_sidecar(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    """The stream breaks and comes back with the id of its last event.

    The client gets a notification of exactly the changes that happened meanwhile.
    """
    with running.client() as client:
        with client.http.stream("GET", client.url, headers=client.headers, timeout=None) as stream:
            last = next(stream.iter_lines()).removeprefix("id: ")
            running.kill()
            running.write([entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")])
            running.start_sidecar()
        resumed = {"last-event-id": last}
        client.headers |= resumed
        wait_until(lambda: client.post("ping").status_code == 200)
        with listening(client) as messages:
            wait_until(lambda: messages)
            assert [message["method"] for message in messages] == ["notifications/tools/list_changed"]
        assert "b_two" in client.tools()


def test_envoy_restarted(running: Gateway) -> None:
    with running.client() as client:
        assert text_of(client.call("a_one"))
        assert running.envoy is not None
        running.envoy.stop()
        wait_until(lambda: running.status()["envoy"]["accepted"] is None)
        running.start_envoy()
        assert text_of(client.call("a_one")), "the session is the sidecar's"
        assert running.status()["envoy"]["accepted"]


@pytest.mark.duty("error.not-yet-503")
def test_a_disk_that_is_full_while_the_files_are_written(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    """No byte can be written any more, neither of Envoy's files nor of the log.

    No file is half written, and no process ends.
    """
    files = running.directory / "envoy"
    before = {path.name: path.read_bytes() for path in files.glob("*.yaml")}
    pid = running.sidecar.popen.pid
    with running.client() as client:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        running.write([entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")])
        wait_until(lambda: "cannot write" in (running.status()["envoy"]["error"] or ""))
        assert {path.name: path.read_bytes() for path in files.glob("*.yaml")} == before
        wait_until(lambda: not (files / "stamps").exists(), "what cannot be kept up to date is not left to be relied on")
        assert text_of(client.call("a_one"))
        wait_until(lambda: "b_two" in client.tools())
        refused = client.call("b_two")
        assert (refused.status_code, "ns/two" in refused.text) == (200, True), "Envoy does not have it yet, and says so"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(lambda: succeeded(client.call("b_two")))
        assert running.status()["envoy"]["error"] is None
        wait_until((files / "stamps").exists, "and Envoy remembers again")
    assert running.sidecar.popen.poll() is None


@pytest.mark.duty("ready.files", "session.restart")
def test_a_start_with_a_full_disk_goes_on_with_the_files_of_before(running: Gateway) -> None:
    with running.client() as client:
        assert text_of(client.call("a_one"))
        running.kill()
        running.launcher = ["bash", "-c", 'ulimit -S -f 0; exec "$0" "$@"']
        running.start_sidecar(readiness=503)
        wait_until(lambda: "cannot write" in (running.status()["envoy"]["error"] or ""), "it is said")
        assert text_of(client.call("a_one", n=2))
        assert client.tools() == ["a_both", "a_one"]
        assert running.sidecar.popen.poll() is None


def test_a_name_that_is_gone(one: ScriptedServer, directory: Path) -> None:
    gone = entry("ns/gone", "http://no-such-host.invalid:1/mcp")
    with gateway(directory, [entry("ns/one", one.url, "a_"), gone], "--refresh-interval=300ms") as running:
        wait_until(lambda: running.server("ns/gone")["reason"] == "Unreachable")
        assert "cannot be reached" in running.server("ns/gone")["message"]
        with running.client() as client:
            assert text_of(client.call("a_one"))
            running.write([entry("ns/one", one.url, "a_"), entry("ns/gone", one.url, "g_")])
            assert text_of(wait_until(lambda: succeeded(response := client.call("g_one")) and response))


@pytest.mark.duty("security.upstream-tls")
def test_a_certificate_that_has_expired(one: ScriptedServer, directory: Path) -> None:
    authority = trustme.CA()
    bundle = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    (port,) = free_ports(1)

    def serve(**validity: datetime) -> ScriptedServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", **validity).configure_cert(context)
        return ScriptedServer(tool("secret"), port=port, tls=context)

    now = datetime.now(UTC)
    servers = [entry("ns/one", one.url, "a_"), entry("ns/tls", f"https://127.0.0.1:{port}/mcp", caFile=str(bundle))]
    with serve() as server, gateway(directory, servers, "--refresh-interval=300ms") as running, running.client() as client:
        assert text_of(client.call("secret"))
        server.stop()
        with serve(not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)):
            wait_until(lambda: "expired" in running.server("ns/tls").get("message", ""))
            refused = client.call("secret", 9)
            assert (refused.status_code, refused.json()["id"]) == (200, 9)
            assert "ns/tls" in refused.json()["error"]["message"]
            assert text_of(client.call("a_one"))
        with serve():
            wait_until(lambda: running.server("ns/tls")["ready"])
            assert text_of(wait_until(lambda: succeeded(response := client.call("secret")) and response))


@pytest.mark.duty("error.neighbours")
def test_sixty_servers_of_which_five_are_dead_and_five_slow(directory: Path) -> None:
    well = [ScriptedServer(tool("t")) for _ in range(50)]
    slow = [ScriptedServer(tool("t")) for _ in range(5)]
    for server in slow:
        server.delay = 15
    servers = [
        entry(f"ns/dead{number}", f"http://127.0.0.1:{port}/mcp", f"d{number}_") for number, port in enumerate(free_ports(5))
    ]
    servers += [entry(f"ns/slow{number}", server.url, f"s{number}_") for number, server in enumerate(slow)]
    servers += [entry(f"ns/well{number}", server.url, f"w{number}_") for number, server in enumerate(well)]
    try:
        with gateway(directory, servers) as running, running.client() as client:
            assert len(client.tools()) == 50
            for number in range(50):
                assert text_of(client.call(f"w{number}_t"))
            rows = running.status()["servers"]
            assert sum(row["ready"] for row in rows) == 50
            assert {row["reason"] for row in rows if row["name"].startswith("ns/dead")} == {"Unreachable"}
    finally:
        for server in well + slow:
            server.stop()


def test_a_client_whose_session_was_ended_while_the_sidecar_was_down(running: Gateway) -> None:
    """Without a store a DELETE is forgotten with the process.

    The session stays as it was: sealed, and valid until it expires.
    """
    with running.client() as client, Client(running.url) as other:
        running.kill()
        assert client.http.delete(client.url, headers=client.headers).status_code == 503
        running.start_sidecar()
        wait_until(lambda: other.post("ping").status_code == 200)
        assert client.http.delete(client.url, headers=client.headers).status_code == 204
        assert client.post("ping").status_code == 404
