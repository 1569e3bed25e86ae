"""What sessions and calls cost: `just bench`, or `python -m tests.benchmarks.sessions [SESSIONS] [ROUNDS]`. Prints Markdown.

Each round opens SESSIONS sessions, each with its notification stream; calls a tool once in each (a session with the server is
opened), calls it again (the ordinary call), and then all clients vanish at once. CPU comes from the process accounts, so what
the load itself costs does not count.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

import httpx2
import trio

from tests.e2e.stack import HEADERS, Gateway, entry, gateway
from tests.servers.scripted import ScriptedServer, tool

TICKS = 100.0  # of the process accounts, a second
AT_ONCE = 50
HEADING = "| round | initialize + stream, ms CPU | first call, ms CPU (Envoy) | next call, ms CPU (Envoy) | RSS open, MB | RSS after, MB | idle CPU, % |"


class Account:
    """CPU and memory of a process."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")

    @property
    def cpu(self) -> float:
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def rss(self) -> float:
        return int((self._proc / "status").read_text().split("VmRSS:")[1].split()[0]) / 1024


class Clients:
    """Many clients in one process."""

    def __init__(self, url: str, http: httpx2.AsyncClient) -> None:
        self.url, self.http = url, http
        self.sessions: list[str] = []
        self.listening = 0
        self._limit = trio.CapacityLimiter(AT_ONCE)

    async def wait_opened(self, nursery: trio.Nursery) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        async with self._limit:
            answer = await self.http.post(
                self.url, headers=HEADERS, json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
            )
        answer.raise_for_status()
        self.sessions.append(answer.headers["mcp-session-id"])
        nursery.start_soon(self._wait_listening, self.sessions[-1])

    async def wait_called(self, session: str) -> None:
        call = {"jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": {"name": "one", "arguments": {}}}
        async with self._limit:
            answer = await self.http.post(self.url, headers={**HEADERS, "mcp-session-id": session}, json=call)
        assert "result" in answer.text, answer.text

    async def _wait_listening(self, session: str) -> None:
        async with self.http.stream("GET", self.url, headers={**HEADERS, "mcp-session-id": session}) as answer:
            answer.raise_for_status()
            self.listening += 1
            async for _ in answer.aiter_bytes():
                pass


async def wait_round(number: int, running: Gateway, sessions: int) -> str:
    assert running.envoy is not None
    sidecar, envoy = Account(running.sidecar.popen.pid), Account(running.envoy.popen.pid)
    costs: list[float] = []
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=60, trust_env=False) as http, trio.open_nursery() as streams:
        clients = Clients(running.url, http)
        before = sidecar.cpu
        for _ in range(sessions):
            streams.start_soon(clients.wait_opened, streams)
        while clients.listening < sessions:  # noqa: ASYNC110  # a look at a counter
            await trio.sleep(0.05)
        costs.append(sidecar.cpu - before)
        opened = sidecar.rss
        for _ in range(2):
            before, before_envoy = sidecar.cpu, envoy.cpu
            async with trio.open_nursery() as calls:
                for session in clients.sessions:
                    calls.start_soon(clients.wait_called, session)
            costs += [sidecar.cpu - before, envoy.cpu - before_envoy]
        streams.cancel_scope.cancel()
    await trio.sleep(2)
    before = sidecar.cpu
    await trio.sleep(2)
    each = [cost / sessions * 1000 for cost in costs]
    return (
        f"| {number} | {each[0]:.2f} | {each[1]:.2f} ({each[2]:.2f}) | {each[3]:.2f} ({each[4]:.2f}) "
        f"| {opened:.0f} | {sidecar.rss:.0f} | {(sidecar.cpu - before) / 2 * 100:.1f} |"
    )


def main(sessions: int = 1000, rounds: int = 3) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        ScriptedServer(tool("one")) as server,
        gateway(Path(directory), [entry("ns/one", server.url)]) as running,
    ):
        start = Account(running.sidecar.popen.pid).rss
        print(
            f"{sessions} sessions; Python {platform.python_version()}, {platform.machine()}; RSS at start {start:.0f} MB\n"
        )
        print(HEADING + "\n|" + "---|" * 7)
        for number in range(1, rounds + 1):
            print(trio.run(wait_round, number, running, sessions), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
