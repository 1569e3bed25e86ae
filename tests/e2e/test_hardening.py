"""What a reviewer once broke, and stays mended."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpgw_sidecar.envoyfiles.verdict import judge
from tests.e2e.stack import CLIENT, PLAIN, Client, Gateway, answer, entry, gateway, succeeded, text_of, wait_until
from tests.servers.scripted import ScriptedServer


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hardening")


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, directory: Path) -> Iterator[Gateway]:
    with gateway(
        directory, [entry("ns/one", one.url, "a_", forwardHeaders=["authorization"]), entry("ns/two", two.url, "b_")]
    ) as found:
        yield found


@pytest.mark.duty("header.to-server")
def test_a_cookie_of_one_client_reaches_no_other(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    one.cookie = "who=alice; Path=/"
    with running.client() as alice, running.client() as bob:
        for client in (alice, bob):
            client.call("a_one")
            client.call("b_two")
    assert not any("cookie" in request.headers for request in one.requests + two.requests)


@pytest.mark.duty("security.credentials")
@pytest.mark.parametrize("content", ["Bearer SECRET\nsecond", "SECRET \x00", "SECR\u00c9T"])
def test_a_credential_file_that_cannot_be_sent_is_not_shown(one: ScriptedServer, directory: Path, content: str) -> None:
    secret = directory / "token"
    secret.write_text(content)
    servers = [entry("ns/one", one.url, credentialFile="token")]
    with gateway(directory, servers, envoy=False) as running:
        wait_until(lambda: running.server("ns/one")["reason"] == "BadCredential")
        assert "SECR" not in running.sidecar.text + json.dumps(running.status())


def test_a_byte_order_mark_in_a_credential_file(one: ScriptedServer, directory: Path) -> None:
    (directory / "token").write_bytes(b"\xef\xbb\xbfBearer x\r\n")
    with gateway(directory, [entry("ns/one", one.url, credentialFile="token")], envoy=False) as running:
        wait_until(lambda: running.server("ns/one")["ready"])
        assert one.calls("tools/list")[-1].headers["authorization"] == "Bearer x"


@pytest.mark.duty("security.call-secrets")
def test_a_clients_odd_credential_is_not_shown(running: Gateway) -> None:
    with Client(running.url, http2=True) as client:
        response = client.send(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}},
            authorization="\t Bearer SECRET",
        )
        assert "SECRET" not in response.text + running.sidecar.text


def test_odd_peers_of_the_http_ports_end_only_their_connection(running: Gateway) -> None:
    upgrade = (
        b"GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    h2c = (
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\ncontent-length: 5\r\n\r\nab"
    )
    odd = [
        upgrade + b"sec-websocket-extensions: \xff\r\n\r\n",
        upgrade + b"\r\n\x81\x85\0\0\0\0hello\xff\xff",
        h2c,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(200)),
        b"\xff\xfe\r\n\r\n",
    ]
    for port in (running.ports["admin"], running.ports["broker"]):
        for data in odd:
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(data)
                peer.settimeout(0.2)
                try:
                    peer.recv(65536)
                    peer.sendall(b"more" * 100)
                except OSError:
                    pass
    assert running.status()
    assert running.sidecar.popen.poll() is None


@pytest.mark.parametrize("dump", [{}, {"configs": [{"@type": "x.ClustersConfigDump"}]}])
def test_a_dump_without_our_files_is_no_acceptance(dump: Any) -> None:
    assert judge(dump, {"cds.yaml": "1"}).accepted is False


def test_what_is_not_envoys_admin_endpoint_is_said_so(one: ScriptedServer, directory: Path) -> None:
    with gateway(
        directory, [entry("ns/one", one.url)], f"--envoy-admin-address=127.0.0.1:{one.port}", envoy=False
    ) as running:
        wait_until(lambda: "no Envoy admin endpoint" in (running.status()["envoy"]["error"] or ""))
        assert running.sidecar.popen.poll() is None


@pytest.mark.duty("error.malformed-400")
def test_a_body_full_of_members_is_refused_at_once(running: Gateway) -> None:
    body = '{"jsonrpc":"2.0","id":1,"method":"ping",' + '"":0,' * 700_000 + '"a":0}'
    with running.client() as client:
        assert client.send(body).status_code == 400
        assert client.post("ping").status_code == 200


@pytest.mark.duty("error.method-32601")
@pytest.mark.parametrize("method", ["\ud800", "x" * 100_000, "größe"])
def test_odd_methods_are_not_found(running: Gateway, method: str) -> None:
    with running.client() as client:
        response = client.send(json.dumps({"jsonrpc": "2.0", "id": 7, "method": method}))
        assert (response.status_code, response.json()["id"], response.json()["error"]["code"]) == (200, 7, -32601)


@pytest.mark.duty("session.id-ascii")
def test_a_client_whose_name_is_long_in_any_script(running: Gateway) -> None:
    with running.client() as client:
        info = {"name": "名" * 1500, "title": "前" * 300, "version": "版" * 300}
        capabilities = {"experimental": {"x": "能" * 500}, "elicitation": {}}
        params = {"protocolVersion": "2025-11-25", "clientInfo": info, "capabilities": capabilities}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}, ensure_ascii=False)
        session = client.send(body.encode()).headers["mcp-session-id"]
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}
        assert client.send(call, mcp_session_id=session).status_code == 200


def test_sessions_are_closed_in_the_clients_name(running: Gateway, one: ScriptedServer) -> None:
    with running.client(authorization="Bearer mine") as client:
        client.call("a_one")
        client.http.delete(client.url, headers=client.headers)
        wait_until(lambda: any(request.http == "DELETE" for request in one.requests))
    closed = next(request for request in one.requests if request.http == "DELETE")
    assert closed.headers["authorization"] == "Bearer mine"


@pytest.mark.duty("reload.live")
def test_a_server_that_moves_while_a_session_is_opened(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    begun, release = threading.Event(), threading.Event()

    def wait(_handler: Any, message: Any) -> bool:
        if message["params"]["clientInfo"] == CLIENT:
            begun.set()
            release.wait(10)
        return False

    one.answers["initialize"] = wait
    with running.client() as client:
        said: list[Any] = []
        thread = threading.Thread(target=lambda: said.append(client.call("a_both")))
        thread.start()
        assert begun.wait(10)
        running.write([entry("ns/one", two.url, "a_"), entry("ns/two", two.url, "b_")])
        wait_until(lambda: running.server("ns/one")["url"] == two.url and running.server("ns/one")["ready"])
        release.set()
        thread.join()
        assert json.loads(text_of(said[0]))["server"] == two.port
        assert json.loads(text_of(client.call("a_both")))["server"] == two.port


@pytest.mark.duty("error.not-yet-503", "session.restart")
def test_a_restarted_sidecar_does_not_deny_what_it_has_not_asked_yet(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.call("a_one")
        one.delay = 0.25
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.wait()
        answers: list[Any] = []

        def ask() -> None:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and not (answers and answers[-1].status_code == 200):
                answers.append(client.call("a_one"))

        thread = threading.Thread(target=ask)
        thread.start()
        running.start_sidecar()
        thread.join()
        assert {response.status_code for response in answers} <= {503, 200}
        assert "result" in answer(answers[-1])
        assert client.tools() == ["a_both", "a_one", "b_both", "b_two"]


@pytest.mark.duty("security.cors", "header.to-server")
def test_an_origin_that_may_call_is_not_the_servers_business(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}
        response = client.send(call, origin="http://localhost:6274")
        assert response.headers["access-control-allow-origin"] == "http://localhost:6274"
        assert "origin" not in one.calls("tools/call")[-1].headers


@pytest.mark.duty("error.not-yet-503")
def test_a_route_that_envoy_does_not_have_yet(running: Gateway, two: ScriptedServer) -> None:
    """The files cannot be written: the list has the new server, Envoy has not.

    The session is not said to be unknown.
    """
    with running.client() as client:
        files = running.directory / "envoy"
        files.rename(running.directory / "away")
        running.write([entry("ns/new", two.url, "n_")])
        wait_until(lambda: "n_two" in client.tools())
        response = client.call("n_two", 5)
        assert (response.status_code, response.json()["id"]) == (200, 5)
        assert "ns/new is not known to Envoy yet" in response.json()["error"]["message"]
        (running.directory / "away").rename(files)
        wait_until(lambda: succeeded(client.call("n_two")))


def test_a_server_that_always_changes_is_listed_again_and_again(running: Gateway, one: ScriptedServer) -> None:
    wait_until(lambda: one._streams and running.server("ns/one")["ready"])

    def again(_handler: Any, _message: Any) -> bool:
        threading.Timer(0.001, one.notify, ["notifications/tools/list_changed"]).start()
        return False

    one.answers["tools/list"] = again
    one.notify("notifications/tools/list_changed")
    wait_until(lambda: len(one.calls("tools/list")) > 5)
    one.answers.clear()


@pytest.mark.duty("ready.draining", "drain.calls")
def test_the_admin_port_tells_of_the_drain(running: Gateway, one: ScriptedServer) -> None:
    begun, release = threading.Event(), threading.Event()

    def wait(_handler: Any, _message: Any) -> bool:
        begun.set()
        release.wait(10)
        return False

    one.answers["initialize"] = wait
    with running.client() as client:
        thread = threading.Thread(target=lambda: client.call("a_one"))
        thread.start()
        assert begun.wait(10)
        running.sidecar.signal(signal.SIGTERM)
        ready = wait_until(lambda: (found := PLAIN.get(f"{running.admin}/readyz")).status_code == 503 and found)
        assert "draining" in ready.json()["waitingFor"]
        release.set()
        thread.join()
    assert running.sidecar.wait() == 0


@pytest.mark.duty("security.credentials")
def test_queries_of_urls_are_not_shown(one: ScriptedServer, directory: Path) -> None:
    with gateway(directory, [entry("ns/one", one.url + "?api_key=SECRET")], envoy=False) as running:
        wait_until(lambda: running.server("ns/one")["ready"])
        assert "SECRET" not in running.sidecar.text + json.dumps(running.status())
