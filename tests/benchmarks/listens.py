"""What clients of 2026-07-28 that listen cost: `just bench listens [CLIENTS]`. Prints Markdown.

Each opens one `subscriptions/listen`. Then the server's list changes, and each hears of it.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.rig import Account
from tests.benchmarks.sessions import idle
from tests.e2e.stack import UNLIMITED, entry, gateway
from tests.e2e.test_eras import META, modern
from tests.servers.scripted import ScriptedServer, tool

METHOD = "subscriptions/listen"


def listening(url: str) -> socket.socket:
    """A connection on which a client listens."""
    parts = urlsplit(url)
    params = {"notifications": {"toolsListChanged": True}, "_meta": META}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": METHOD, "params": params}).encode()
    connection = socket.create_connection((str(parts.hostname), int(parts.port or 80)))
    connection.settimeout(60)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: {METHOD}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def until(connection: socket.socket, words: bytes) -> None:
    """Read until these words have come."""
    data = b""
    while words not in data:
        piece = connection.recv(65536)
        if not piece:
            msg = f"the stream ended: {data[-200:]!r}"
            raise RuntimeError(msg)
        data += piece


def main(clients: str = "1000") -> None:
    count = int(clients)
    with tempfile.TemporaryDirectory() as directory, ScriptedServer(tool("greet")) as one:
        modern(one)
        servers: list[Any] = [entry("ns/one", one.url, "a_")]
        with gateway(Path(directory), servers, limits=UNLIMITED) as running:
            assert running.envoy is not None
            time.sleep(2)
            sidecar, envoy = Account(running.sidecar.popen.pid), Account(running.envoy.popen.pid)
            start, before = sidecar.rss, (sidecar.cpu, envoy.cpu)
            connections = [listening(running.url) for _ in range(count)]
            for connection in connections:
                until(connection, b"acknowledged")
            opened = (sidecar.cpu - before[0], envoy.cpu - before[1])
            resting, held = idle(sidecar), sidecar.rss
            before = (sidecar.cpu, envoy.cpu)
            one.tools.append(tool("second"))
            running.write([entry("ns/one", one.url, "a_", callTimeout="30s")])  # it is listed again
            began = time.monotonic()
            for connection in connections:
                until(connection, b"list_changed")
            heard, told = time.monotonic() - began, (sidecar.cpu - before[0], envoy.cpu - before[1])
            for connection in connections:
                connection.close()
            print(
                "| clients | to listen, ms CPU each (Envoy) | kB each in the sidecar | idle CPU, % | a change, ms CPU each (Envoy) | heard by all after, s |"
            )
            print("|" + "---|" * 6)
            costs = [f"{ours / count * 1e3:.2f} ({envoys / count * 1e3:.2f})" for ours, envoys in (opened, told)]
            print(
                f"| {count} | {costs[0]} | {(held - start) * 1024 / count:.1f} | {resting:.1f} | {costs[1]} | {heard:.1f} |"
            )
