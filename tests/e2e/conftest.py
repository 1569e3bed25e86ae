from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import NODE
from tests.e2e.servers import real_server
from tests.e2e.stack import PROGRAM, ROOT, WAIT, Gateway, Process, entry, environment, free_ports, gateway, wait_until
from tests.servers.scripted import ScriptedServer, tool

KEY = "Bearer test-api-key-secret-token"


@pytest.fixture(scope="session")
def sdk_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The guide's three servers on the Python SDK; gives their ports."""
    ports = free_ports(3)
    process = Process([*PROGRAM, "demo-servers", *map(str, ports)], tmp_path_factory.mktemp("servers") / "log")
    try:
        wait_until(lambda: process.text.startswith("["), "the SDK's servers")
        yield json.loads(process.text.splitlines()[0])
    finally:
        process.stop()


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """@modelcontextprotocol/server-everything; gives its URL."""
    with real_server("server-everything (TypeScript)", tmp_path_factory.mktemp("everything")) as server:
        yield server.url


@pytest.fixture(scope="module")
def guide(sdk_servers: list[int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The guide's set-up: three servers with its prefixes behind sidecar and Envoy."""
    names = ("mcp-test/mcp-server1-route", "mcp-test/mcp-server2-route", "mcp-test/mcp-api-key-server-route")
    prefixes = ("test_", "test2_", "apikey_")
    servers = [
        entry(name, f"http://127.0.0.1:{port}/mcp", prefix)
        for name, port, prefix in zip(names, sdk_servers, prefixes, strict=True)
    ]
    servers[2] |= {"credential": KEY, "forwardHeaders": ["authorization"]}
    with gateway(tmp_path_factory.mktemp("guide"), servers) as running:
        yield running


@pytest.fixture
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("one"), tool("both")) as server:
        yield server


@pytest.fixture
def two() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("two"), tool("both")) as server:
        yield server


def node(script: Path, *args: str) -> str:
    """What a Node program prints; fails with its errors."""
    done = subprocess.run(
        [str(NODE), str(script), *args], capture_output=True, text=True, timeout=WAIT * 3, env=environment(), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def inspector(url: str, directory: Path) -> Iterator[str]:
    """The MCP Inspector, as `just inspect-gateway` starts it; gives its page."""
    ports = dict(zip(("CLIENT_PORT", "MCP_SANDBOX_PORT", "MCP_APP_ORIGIN_PORT"), map(str, free_ports(3)), strict=True))
    home = {
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "MCP_STORAGE_DIR": str(directory),
        "MCP_AUTO_OPEN_ENABLED": "false",
    }
    log = directory / "inspector.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [str(ROOT / "build" / "inspect-gateway"), url],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment() | {"PATH": os.environ["PATH"]} | ports | home,
            start_new_session=True,
        )
    try:
        found = wait_until(lambda: re.search(r"http://\S+MCP_INSPECTOR_API_TOKEN=\w+", log.read_text()), "the Inspector")
        os.environ["TMPDIR"] = str(directory)
        yield found[0]
    finally:
        os.environ.pop("TMPDIR", None)
        os.killpg(running.pid, 15)
        running.wait()


def quiet(seconds: float = 0.7) -> None:
    """Wait so long that a second notification would have come (changes are collected for 0.3 s)."""
    time.sleep(seconds)
