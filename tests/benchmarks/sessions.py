"""What sessions cost: `just bench sessions [SESSIONS] [ROUNDS] [ERA]`. Prints Markdown.

ERA is that of the MCP server: sessions, sessionless (it gives clients no sessions), or both.
Each round opens SESSIONS sessions, gives each its notification stream, calls a tool in each (a
session with the server is opened), calls it again (Envoy remembers), rests, and then all clients
vanish at once: connections are cut, nobody says good-bye. Their sessions live on for a day.
"""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path

from tests.benchmarks.rig import Account, Sessions, call, load_server
from tests.e2e.stack import UNLIMITED, Gateway, entry, gateway

REST = 2.0  # seconds in which what was begun ends, and then as many in which idleness is measured
OPENING = 3  # steps until a session is open, heard, and has called
HEADING = (
    "| round | initialize (Envoy) | stream (Envoy) | first call (Envoy) | next call (Envoy) | RSS open, MB | kB a session "
    "| idle CPU, % | after they vanished: RSS, MB | idle CPU, % | opened a second | failures |"
)


def idle(account: Account) -> float:
    """Percent of a core, after a rest."""
    time.sleep(REST)
    before = account.cpu
    time.sleep(REST)
    return (account.cpu - before) / REST * 100


def measured(number: int, running: Gateway, count: int, start: float) -> str:
    assert running.envoy is not None
    sidecar, envoy = Account(running.sidecar.popen.pid), Account(running.envoy.popen.pid)
    clients = Sessions(running.url, count, call("t0"))
    costs, failures, seconds = [], 0, 0.0
    for step in ("initialize", "listen", "call", "call"):
        before, before_envoy = sidecar.cpu, envoy.cpu
        begun = time.monotonic()
        failures += int(clients.step(step)["errors"])
        seconds += time.monotonic() - begun if len(costs) < OPENING else 0.0
        time.sleep(0.5)
        costs.append(((sidecar.cpu - before) / count * 1e3, (envoy.cpu - before_envoy) / count * 1e3))
    resting = idle(sidecar)
    opened = sidecar.rss
    clients.step("vanish")
    clients.close()
    gone = idle(sidecar)
    each = (opened - start) * 1024 / count
    steps = " | ".join(f"{ours:.2f} ({envoys:.2f})" for ours, envoys in costs)
    return f"| {number} | {steps} | {opened:.0f} | {each:.1f} | {resting:.1f} | {sidecar.rss:.0f} | {gone:.1f} | {count / seconds:.0f} | {failures} |"


def main(sessions: str = "2000", rounds: str = "3", era: str = "") -> None:
    count = int(sessions)
    with (
        tempfile.TemporaryDirectory() as directory,
        load_server(Path(directory), "one", era=era) as port,
        gateway(Path(directory), [entry("ns/one", f"http://127.0.0.1:{port}/mcp")], limits=UNLIMITED) as running,
    ):
        time.sleep(REST)
        start = Account(running.sidecar.popen.pid).rss
        print(
            f"{count} sessions; Python {platform.python_version()}, {platform.machine()}; RSS at start {start:.0f} MB; ms CPU each\n"
        )
        print(HEADING + "\n|" + "---|" * 12)
        for number in range(1, int(rounds) + 1):
            print(measured(number, running, count, start), flush=True)
