"""Bad days: `just bench storms [start|changes|away] ...`, by default all three. Prints Markdown.

start    60 servers, of which 5 refuse and 5 are mute: until every healthy one is listed
changes  1,000 configuration changes in 10 s, 100 clients listening
away     the sidecar is killed under load and comes back a minute later
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.benchmarks.rig import Account, Load, Target, call, load_server
from tests.e2e.stack import UNLIMITED, Client, Gateway, entry, free_ports, gateway, listening, wait_until

HEALTHY, REFUSING, MUTE = 50, 5, 5
CHANGES, CHANGING, LISTENERS = 1000, 10.0, 100
AWAY = 60.0
SECOND = 1.0


def start(rounds: int = 5) -> None:
    """Measure from exec until each healthy server's tool is listed, whatever the others do.

    The time that the interpreter needs until `main` is included.
    """
    seconds = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [stack.enter_context(load_server(directory, f"s{number}", 10)) for number in range(HEALTHY)]
        mute = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64)).getsockname()[1] for _ in range(MUTE)
        ]
        every = [*ports, *free_ports(REFUSING), *mute]
        servers = [entry(f"ns/s{n}", f"http://127.0.0.1:{port}/mcp", f"s{n}_") for n, port in enumerate(every)]
        for number in range(rounds):
            home = directory / str(number)
            home.mkdir()
            seconds.append(started(home, servers))
    ready, listed, cpu = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(
        f"| {HEALTHY} + {REFUSING} + {MUTE} | {ready:.2f} | {listed:.2f} | {max(each[1] for each in seconds):.2f} | {cpu:.2f} |"
    )


def started(home: Path, servers: list[dict[str, object]]) -> tuple[float, float, float]:
    begun = time.monotonic()

    class Starting(Gateway):
        def wait_ready(self) -> None:
            """Nothing: what is measured begins here."""

    running = Starting(home, servers, envoy=False)
    try:
        listening_after = listed_after = 0.0
        while not listed_after:
            time.sleep(0.005)
            try:
                status = running.status()
            except httpx2.HTTPError:
                continue
            listening_after = listening_after or time.monotonic() - begun
            if sum(server["tools"] > 0 for server in status["servers"]) == HEALTHY:
                listed_after = time.monotonic() - begun
        return listening_after, listed_after, Account(running.sidecar.popen.pid).cpu
    finally:
        running.stop()


def changes() -> None:
    """Work is limited, each client gets at most two notifications a second, and then none."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        one, two = (stack.enter_context(load_server(directory, name, 10)) for name in ("one", "two"))
        fixed = entry("ns/one", f"http://127.0.0.1:{one}/mcp", "one_")
        running = stack.enter_context(gateway(directory, [fixed], limits=UNLIMITED))
        clients = [stack.enter_context(running.client()) for _ in range(LISTENERS)]
        messages = [stack.enter_context(listening(client)) for client in clients]
        assert running.envoy is not None
        sidecar, envoy = Account(running.sidecar.popen.pid), Account(running.envoy.popen.pid)
        before, before_envoy, begun = sidecar.cpu, envoy.cpu, time.monotonic()
        for number in range(CHANGES):
            running.write([fixed, entry("ns/two", f"http://127.0.0.1:{two}/mcp", f"p{number}_")])
            time.sleep(max(0.0, begun + (number + 1) * CHANGING / CHANGES - time.monotonic()))
        took = time.monotonic() - begun
        spent, spent_envoy = sidecar.cpu - before, envoy.cpu - before_envoy
        wait_until(lambda: f"p{CHANGES - 1}_t0" in clients[0].tools(), "the last one")
        followed = time.monotonic() - begun - took
        time.sleep(SECOND)
        before = sidecar.cpu
        time.sleep(2 * SECOND)
        counts = [sum(message["method"] == "notifications/tools/list_changed" for message in each) for each in messages]
        print(
            f"| {CHANGES} in {took:.1f} s | {spent / took * 100:.0f} ({spent_envoy / took * 100:.0f}) | {followed:.2f} "
            f"| {min(counts)} to {max(counts)} | {(sidecar.cpu - before) / 2 * 100:.1f} | {sidecar.rss:.0f} |"
        )


def away() -> None:
    """Calls of known sessions, and openings of new ones: before, without and after the sidecar."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(load_server(directory, "one"))
        running = stack.enter_context(
            gateway(directory, [entry("ns/one", f"http://127.0.0.1:{port}/mcp")], limits=UNLIMITED)
        )
        load = Load(Target("", running.url, (), ""), 8, call("t0"))
        load.round(SECOND)
        for when in ("before", "away", "after"):
            if when == "away":
                running.sidecar.stop()
            elif when == "after":
                running.start_sidecar()
            stop, new = threading.Event(), Counter[int]()
            opening = threading.Thread(target=open_sessions, args=(running, stop, new))
            opening.start()
            figures = load.round(AWAY if when == "away" else AWAY / 4)
            stop.set()
            opening.join()
            answered = ", ".join(f"{status}: {count}" for status, count in sorted(new.items()))
            print(f"| {when} | {figures['calls']:.0f} | {figures['errors']:.0f} | {answered} |", flush=True)
        load.close()


def open_sessions(running: Gateway, stop: threading.Event, statuses: Counter[int]) -> None:
    """New sessions, each with its first call; by the status of what ended it."""
    while not stop.is_set():
        client = Client(running.url)
        first = client.call("t0") if hasattr(client, "session") else client.initialized
        statuses[first.status_code] += 1
        client.close()
        time.sleep(0.1)


TABLES = {
    "start": (
        start,
        "| servers: healthy + refusing + mute | answers /status, s | all healthy listed, s | worst, s | CPU, s |",
    ),
    "changes": (
        changes,
        "| changes | CPU, % (Envoy) | seen after the last, s | notifications a client | idle CPU, % | RSS, MB |",
    ),
    "away": (away, "| sidecar | calls of 8 known sessions | failed | new sessions with a call, by status |"),
}


def main(*names: str) -> None:
    for name in names or tuple(TABLES):
        measure, heading = TABLES[name]
        print(f"{heading}\n|{'---|' * (heading.count('|') - 1)}")
        measure()
        print()
