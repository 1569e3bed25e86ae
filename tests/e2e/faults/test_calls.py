"""Faults of a server in the middle of a call.

In each case the error names the server and the limit, the neighbour is not affected, status and
metrics report the fault, and all is well again by itself when its cause is over.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.stack import Client, Gateway, Process, answer, entry, free_ports, gateway, succeeded, text_of, wait_until
from tests.servers.broken import garbage, half, html, mute, reset, reset_mid_stream
from tests.servers.scripted import ScriptedServer, tool

MEGABYTE = 1 << 20


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    servers = [entry("ns/one", one.url, "a_", callTimeout="1s"), entry("ns/two", two.url, "b_")]
    with gateway(tmp_path_factory.mktemp("calls"), servers, "--refresh-interval=300ms") as new_gateway:
        yield new_gateway


@pytest.fixture
def client(running: Gateway) -> Iterator[Client]:
    with running.client() as new_client:
        assert succeeded(new_client.call("a_one"))
        assert succeeded(new_client.call("b_two"))
        yield new_client


@pytest.mark.duty("call.not-twice", "error.neighbours", "metrics.requests")
@pytest.mark.parametrize(
    ("fault", "reason", "outcome"),
    [
        (garbage, "BadAnswer", "broken"),
        (reset, "BrokenOff", "broken"),
        (mute, "Timeout", "timeout"),
        (lambda handler, _message: bool(handler.send(500, b"oops", kind="text/plain")) or True, "BadAnswer", "unavailable"),
        (lambda handler, _message: bool(handler.send(401, b"oops")) or True, "Unauthorized", "unauthorized"),
        (lambda handler, _message: bool(handler.send(302, b"", [("location", "/x")])) or True, "Redirect", "unavailable"),
    ],
)
def test_a_call_that_fails_is_told_and_not_repeated(
    client: Client, running: Gateway, one: ScriptedServer, fault: Any, reason: str, outcome: str
) -> None:
    counter = rf'mcpgw_requests_total\{{method="tools/call",outcome="{outcome}",server="ns/one",tool="a_one"\}}'
    counted = running.metric(counter)
    before = len(one.calls("tools/call"))
    one.answers["tools/call"] = fault
    response = client.call("a_one", 'the "id"')
    assert (response.status_code, response.json()["id"]) == (200, 'the "id"')
    error = response.json()["error"]
    assert (error["code"], error["data"]["server"], error["data"]["reason"]) == (-32000, "ns/one", reason)
    assert "ns/one" in error["message"]
    assert "127.0.0.1" not in response.text
    assert "location" not in response.headers
    assert len(one.calls("tools/call")) == before + 1, "it may have run: it is never sent twice"
    assert text_of(client.call("b_two"))
    one.answers.clear()
    assert text_of(client.call("a_one"))
    wait_until(lambda: running.metric(counter) == counted + 1)


@pytest.mark.duty("call.not-twice", "error.neighbours")
@pytest.mark.parametrize("fault", [half, reset_mid_stream])
def test_an_answer_that_breaks_off_breaks_off_for_its_client_alone(client: Client, one: ScriptedServer, fault: Any) -> None:
    """A stream that has begun cannot become an error: the client sees that it is not whole.

    Nothing hangs. JSON of a known small size has not begun before all of it is there.
    """
    before = len(one.calls("tools/call"))
    one.answers["tools/call"] = fault
    if fault is half:
        assert answer(client.call("a_one", 5))["error"]["data"]["reason"] == "BadAnswer"
    else:
        with pytest.raises(httpx2.RemoteProtocolError):
            client.call("a_one")
    assert len(one.calls("tools/call")) == before + 1
    assert text_of(client.call("b_two"))
    one.answers.clear()
    assert text_of(client.call("a_one"))


def test_a_page_instead_of_an_answer(client: Client, one: ScriptedServer) -> None:
    one.answers["tools/call"] = html
    response = client.call("a_one", "p")
    assert (response.status_code, response.headers["content-type"], response.json()["id"]) == (200, "application/json", "p")
    assert response.json()["error"]["data"] == {"server": "ns/one", "reason": "BadAnswer", "status": 200}
    assert text_of(client.call("b_two"))


def test_a_compressed_answer_of_a_trusted_server_arrives(one: ScriptedServer, tmp_path: Path) -> None:
    def compressed(handler: Any, message: Any) -> bool:
        body = gzip.compress(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}).encode())
        handler.send(200, body, [("content-encoding", "gzip")])
        return True

    one.answers["tools/call"] = compressed
    with gateway(tmp_path, [entry("ns/one", one.url, "a_", trusted=True)]) as running, running.client() as client:
        assert answer(client.call("a_one", "z")) == {"jsonrpc": "2.0", "id": "z", "result": {"content": []}}


def memory(running: Gateway) -> int:
    """Bytes that the sidecar has resident."""
    status = Path(f"/proc/{running.sidecar.popen.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_a_hundred_megabytes_stream_past_the_sidecar(client: Client, running: Gateway, one: ScriptedServer) -> None:
    def large(handler: Any, message: Any) -> bool:
        head = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % message["id"]
        tail = b'"}]}}'
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(head) + 100 * MEGABYTE + len(tail)))
        handler.end_headers()
        handler.wfile.write(head)
        for _ in range(100):
            handler.wfile.write(b"x" * MEGABYTE)
        handler.wfile.write(tail)
        return True

    one.answers["tools/call"] = large
    before = memory(running)
    params = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}
    with client.http.stream("POST", client.url, json=params, headers=client.headers) as response:
        size = sum(len(chunk) for chunk in response.iter_raw())
    assert size > 100 * MEGABYTE
    assert memory(running) - before < 10 * MEGABYTE
    assert text_of(client.call("b_two"))


def test_a_line_of_five_megabytes_passes_as_it_came(client: Client, one: ScriptedServer) -> None:
    text = "é" * (5 * MEGABYTE // 2)

    def long_line(handler: Any, message: Any) -> bool:
        result = {"content": [{"type": "text", "text": text, "method": "not one"}]}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}, ensure_ascii=False)
        handler.send(200, f"data: {body}\n\n".encode(), kind="text/event-stream")
        return True

    one.answers["tools/call"] = long_line
    assert text_of(client.call("a_one")) == text


@pytest.mark.duty("error.unreachable", "metrics.gauges", "session.heal")
def test_a_server_restarted_in_the_midst_of_a_session(client: Client, running: Gateway, one: ScriptedServer) -> None:
    """While it is away its calls are refused by name; afterwards its sessions are healed."""
    port = one.port
    one.stop()
    response = client.call("a_one", 7)
    assert (response.status_code, response.json()["id"]) == (200, 7)
    assert response.json()["error"]["data"]["server"] == "ns/one"
    wait_until(lambda: not running.server("ns/one")["ready"])
    assert running.metric(r'mcpgw_server_ready\{server="ns/one"\}') == 0
    assert text_of(client.call("b_two"))
    with ScriptedServer(tool("one"), port=port) as again:
        wait_until(lambda: running.server("ns/one")["ready"])
        assert text_of(wait_until(lambda: succeeded(reply := client.call("a_one")) and reply))
        assert again.calls("tools/call")[-1].headers["mcp-session-id"] in again.sessions


@pytest.mark.duty("call.silence", "error.neighbours")
def test_a_server_that_is_slow_but_within_its_limit(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    """12 s without a word, and no limit: the answer arrives, and others do not wait."""
    running.write([entry("ns/one", one.url, "a_", callTimeout="0s"), entry("ns/two", two.url, "b_")])
    wait_until(lambda: running.status()["config"]["generation"] == 2 and running.status()["envoy"]["accepted"])

    def slow(handler: Any, message: Any) -> bool:
        time.sleep(12)
        handler.result(message["id"], {"content": [{"type": "text", "text": "late"}]})
        return True

    with running.client() as client, running.client() as waiting:
        assert succeeded(client.call("a_one"))
        waiting.call("a_one")
        one.answers["tools/call"] = slow
        late: list[str] = []
        thread = threading.Thread(target=lambda: late.append(text_of(waiting.call("a_one"))))
        thread.start()
        for _ in range(20):
            assert text_of(client.call("b_two"))
            assert "b_two" in client.tools()
        assert late == []
        thread.join()
        assert late == ["late"]


@pytest.mark.duty("error.silent")
def test_a_server_too_slow_to_open_a_session(running: Gateway, one: ScriptedServer) -> None:
    """initialize has ten seconds; the error says so, and with a healthy server a call works."""

    def slow(handler: Any, _message: Any) -> bool:
        time.sleep(11)
        handler.close_connection = True
        return True

    with running.client() as client:
        one.answers["initialize"] = slow
        response = client.call("a_one", "s")
        assert (response.status_code, response.json()["id"]) == (200, "s")
        assert "ns/one did not answer initialize within 10 s" in response.json()["error"]["message"]
        assert text_of(client.call("b_two"))
        one.answers.clear()
        assert text_of(client.call("a_one"))


@pytest.mark.duty("error.silent", "call.silence", "status.what-went-wrong")
def test_a_server_that_is_stopped_in_its_tracks(two: ScriptedServer, tmp_path: Path) -> None:
    """SIGSTOP: its connections stay open, and nothing ever comes."""
    (port,) = free_ports(1)
    server = Process([sys.executable, "-m", "tests.servers.conformance", str(port)], tmp_path / "server.log")
    servers = [entry("ns/stopped", f"http://127.0.0.1:{port}/mcp", callTimeout="1s"), entry("ns/two", two.url, "b_")]
    try:
        with gateway(tmp_path, servers, "--refresh-interval=300ms") as running, running.client() as client:
            wait_until(lambda: running.server("ns/stopped")["ready"])
            assert succeeded(client.call("test_simple_text"))
            server.signal(signal.SIGSTOP)
            response = client.call("test_simple_text", 5)
            assert (response.status_code, response.json()["id"]) == (200, 5)
            message = response.json()["error"]["message"]
            assert all(word in message for word in ("ns/stopped", "1 s", "test_simple_text"))
            assert text_of(client.call("b_two"))
            wait_until(lambda: running.server("ns/stopped")["reason"] == "Timeout")
            assert "test_simple_text" in client.tools(), "one failed check takes nothing away"
            server.signal(signal.SIGCONT)
            wait_until(lambda: running.server("ns/stopped")["ready"])
            assert succeeded(client.call("test_simple_text"))
    finally:
        server.signal(signal.SIGCONT)
        server.stop()


def endless(status: int, kind: str, piece: bytes) -> Any:
    """An answer whose body never ends."""

    def answer_endless(handler: Any, _message: Any) -> bool:
        handler.send_response(status)
        handler.send_header("content-type", kind)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not handler.server_object._closing.wait(0.2):
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                handler.wfile.flush()
        handler.close_connection = True
        return True

    return answer_endless


@pytest.mark.duty("error.neighbours", "call.not-twice")
@pytest.mark.parametrize(
    "fault",
    [
        endless(500, "text/plain", b"x"),
        endless(400, "text/event-stream", b": x\n\n"),
        endless(200, "text/html", b"x" * 200_000),
        endless(404, "application/json", b" " * 200_000),
        lambda handler, _message: bool(handler.send(500, b"", kind="text/event-stream")) or True,
        lambda handler, _message: bool(handler.send(500, b"", [("content-encoding", "gzip")])) or True,
        lambda handler, _message: bool(handler.send(503, b"x" * 3_000_000, kind="text/html")) or True,
        lambda handler, _message: bool(handler.send(599, b"{}")) or True,
        lambda handler, _message: bool(handler.send(204, b"")) or True,
    ],
    ids=["trickle", "events", "a long page", "spaces", "no events", "gzip", "large", "599", "204"],
)
def test_a_failure_is_told_at_once_whatever_its_body(client: Client, one: ScriptedServer, fault: Any) -> None:
    before = len(one.calls("tools/call"))
    one.answers["tools/call"] = fault
    response = client.call("a_one", "f")
    assert (response.status_code, response.json()["id"]) == (200, "f")
    assert response.json()["error"]["data"]["reason"] == "BadAnswer"
    assert len(one.calls("tools/call")) == before + 1
    one.answers.clear()
    assert text_of(client.call("a_one"))
