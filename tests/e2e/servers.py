"""Servers on SDKs of others, each a process with a tool `echo` that can be started again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection

from tests.e2e.clients import CACHE, CLIENTS, NODE, NODE_PARTS
from tests.e2e.stack import Process, free_ports, wait_until

EVERYTHING = NODE_PARTS / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
_SHIM = (
    "const net = require('net'); const listen = net.Server.prototype.listen;\n"
    "net.Server.prototype.listen = function (port, ...rest) {\n"
    "  return listen.call(this, { port: Number(port), host: '127.0.0.1' }, rest.find((r) => typeof r === 'function'));\n"
    "};\n"
)


def command(name: str, port: int, directory: Path) -> list[str]:
    """The command line of a server."""
    match name:
        case "Python SDK 1.x":
            return [str(CACHE / "mcp1" / "bin" / "python"), str(CLIENTS / "server1.py"), str(port)]
        case "Python SDK 2.x":
            return [sys.executable, "-m", "tests.servers.conformance", str(port)]
        case "Go SDK":
            return [str(CACHE / "go-client"), "serve", str(port)]
        case _:
            shim = directory / "loopback.cjs"  # it binds all interfaces
            shim.write_text(_SHIM)
            return ["env", f"PORT={port}", str(NODE), "--require", str(shim), str(EVERYTHING), "streamableHttp"]


TOOLS = {
    "Python SDK 1.x": "echo",
    "Python SDK 2.x": "test_simple_text",
    "Go SDK": "echo",
    "server-everything (TypeScript)": "echo",
}


class RealServer:
    """A server of somebody else's."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.tool, self._directory = name, TOOLS[name], directory
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.start()

    def start(self) -> None:
        def listens() -> bool:
            try:
                create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                return False
            return True

        self._process = Process(command(self.name, self.port, self._directory), self._directory / "server.log")
        wait_until(listens, self.name)

    def restart(self) -> None:
        """Start it again: it knows no session of before."""
        self._process.stop()
        self.start()

    def stop(self) -> None:
        self._process.stop()

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._process.text


@contextmanager
def real_server(name: str, directory: Path) -> Iterator[RealServer]:
    server = RealServer(name, directory)
    try:
        yield server
    finally:
        server.stop()
