"""Clients that go, stall or come in thousands: nobody else notices, and nothing is left of them."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.faults.test_calls import memory
from tests.e2e.stack import UNLIMITED, Client, Gateway, entry, gateway, text_of, wait_until
from tests.servers.scripted import ScriptedServer

CROWD = 2000
MEGABYTE = 1 << 20


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("clients"),
        [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")],
        limits=UNLIMITED,
    ) as new_gateway:
        yield new_gateway


class Raw:
    """A client's connection, byte by byte."""

    def __init__(self, running: Gateway, client: Client, *, window: int | None = None) -> None:
        self.socket = socket.socket()
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", running.ports["gateway"]))
        self.host, self.headers = f"127.0.0.1:{running.ports['gateway']}", client.headers

    def ask(self, method: str, message: Any = None) -> None:
        body = json.dumps(message).encode() if message is not None else b""
        lines = [f"{method} /mcp HTTP/1.1", f"host: {self.host}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def vanish(self) -> None:
        """Without a word: RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def call(name: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}}


@pytest.mark.duty("transport.no-cancel")
def test_a_client_gone_in_the_midst_of_a_call(running: Gateway, one: ScriptedServer) -> None:
    release = threading.Event()
    ended: list[int] = []

    def waiting(handler: Any, message: Any) -> bool:
        release.wait(20)
        ended.append(1)
        handler.result(message["id"], {"content": []})  # into a connection that is gone
        return True

    with running.client() as client:
        client.call("a_one")
        one.answers["tools/call"] = waiting
        raw = Raw(running, client)
        raw.ask("POST", call("a_one"))
        wait_until(lambda: len(one.calls("tools/call")) == 2)
        raw.vanish()
        assert text_of(client.call("b_two"))
        release.set()
        wait_until(lambda: ended)
        one.answers.clear()
        assert text_of(client.call("a_one")), "going away is no cancellation: the session goes on"
        assert one.calls("notifications/cancelled") == []
        assert len(one.calls("initialize")) <= 3


@pytest.mark.duty("metrics.gauges")
def test_two_thousand_clients_gone_at_once(running: Gateway, one: ScriptedServer) -> None:
    """Each has a session and an open stream. Afterwards nothing of them is open.

    A client that stays does not notice.
    """
    with running.client() as stays:
        before = _open_files(running)
        crowd: list[Raw] = []
        try:
            for _ in range(CROWD):
                params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
                hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
                session = stays.http.post(stays.url, json=hello, headers={"accept": stays.headers["accept"]}).headers
                raw = Raw(running, stays)
                raw.headers = {**stays.headers, "mcp-session-id": session["mcp-session-id"]}
                raw.ask("GET")
                crowd.append(raw)
            wait_until(lambda: running.metric("mcpgw_streams") == CROWD)
            assert text_of(stays.call("a_one"))
        finally:
            for raw in crowd:
                raw.vanish()
        assert text_of(stays.call("a_one"))
        wait_until(lambda: running.metric("mcpgw_streams") == 0)
        wait_until(lambda: _open_files(running) < before + 100)
        assert running.metric("mcpgw_sessions") >= CROWD, "their sessions live until they expire: they may come back"
        one.notify("notifications/tools/list_changed")
        assert text_of(stays.call("b_two"))
        assert not running.logged("^ERROR")


def _open_files(running: Gateway) -> int:
    return len(os.listdir(f"/proc/{running.sidecar.popen.pid}/fd"))


@pytest.mark.duty("notify.slow-reader")
def test_a_client_that_stops_reading_its_stream(running: Gateway, one: ScriptedServer) -> None:
    """The client subscribes, and then reads nothing while its server sends messages.

    It loses the oldest messages, and no other client loses any.
    """
    one.capabilities = {"tools": {}, "logging": {}}

    def level(handler: Any, message: Any) -> bool:
        handler.result(message["id"], {})
        return True

    one.answers["logging/setLevel"] = level
    with running.client() as slow, running.client() as client:
        slow.call("a_one")
        session = one.calls("tools/call")[-1].headers["mcp-session-id"]
        raw = Raw(running, slow, window=4096)
        raw.ask("GET")
        slow.post("logging/setLevel", {"level": "debug"})
        mine = wait_until(lambda: [each for each in one._streams if each.headers.get("mcp-session-id") == session])[-1]
        before = memory(running)
        data = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * 20_000}})
        for _ in range(2000):
            mine.wfile.write(f"data: {data}\n\n".encode())
        assert text_of(client.call("b_two"))
        assert "a_one" in client.tools()
        assert memory(running) - before < 60 * MEGABYTE, "what waits for it is bounded: a thousand messages"
        raw.vanish()
        wait_until(lambda: running.metric("mcpgw_streams") == 0)


def test_a_client_that_stops_reading_an_answer(running: Gateway, one: ScriptedServer) -> None:
    """Its hundred megabytes wait at the server: neither Envoy nor the sidecar holds them."""
    sent: list[int] = []

    def large(handler: Any, _message: Any) -> bool:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(100 * MEGABYTE))
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b"x" * MEGABYTE)
                sent.append(MEGABYTE)
        except OSError:
            sent.append(0)
        return True

    with running.client() as client:
        client.call("a_one")
        one.answers["tools/call"] = large
        raw = Raw(running, client, window=4096)
        raw.ask("POST", call("a_one"))
        wait_until(lambda: sent)
        for _ in range(20):
            assert text_of(client.call("b_two"))
        assert sum(sent) < 50 * MEGABYTE
        raw.vanish()
        wait_until(lambda: sent[-1] == 0)
    assert running.envoy is not None
    resident = Path(f"/proc/{running.envoy.popen.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(resident) * 1024 < 300 * MEGABYTE
