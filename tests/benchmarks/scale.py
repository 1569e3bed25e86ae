"""Much of everything: `just bench scale [servers|sessions|pairs|loaded] [NUMBER ...]`.

Prints Markdown.

servers   so many servers of 20 tools in one gateway (by default 10, 100 and 1,000): until all are
          listed, memory, Envoy's files, the whole list, a change, and a hit beside one in the first
sessions  so many sessions (50,000) over two sidecars with a Redis, each with a call
pairs     sessions opened a second by one pair of Envoy and sidecar, and by two pairs on one port
loaded    how long calls take while sessions are opened, a list of 6,000 tools changes each second,
          and so many streams (8,192) are kept alive
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from tests.benchmarks.rig import Account, Load, Sessions, Target, call, load_server
from tests.e2e.stack import UNLIMITED, Gateway, Process, entry, free_ports
from tests.e2e.test_replicas import redis

TOOLS, PROGRAMS = 20, 4  # tools of a server (one answers with events), and programs that all servers are
ROUNDS = 15


class Sized(Gateway):
    """A gateway that may share its port with another one."""

    shared = 0

    def start_sidecar(self, readiness: int = 200) -> Process:
        if self.shared:
            self.ports["gateway"], self.url = self.shared, f"http://127.0.0.1:{self.shared}/mcp"
        return super().start_sidecar(readiness)


@contextmanager
def running(home: Path, servers: list[dict[str, object]], *options: str, shared: int = 0) -> Iterator[Gateway]:
    home.mkdir()
    kind = type("Shared", (Sized,), {"shared": shared})
    gateway = kind(home, servers, *options, limits=UNLIMITED)
    try:
        yield gateway
    finally:
        gateway.stop()


@attrs.frozen
class Pair:
    """The accounts of a gateway."""

    gateway: Gateway

    @property
    def envoy(self) -> Account:
        assert self.gateway.envoy is not None
        return Account(self.gateway.envoy.popen.pid)

    @property
    def sidecar(self) -> Account:
        return Account(self.gateway.sidecar.popen.pid)

    def target(self) -> Target:
        assert self.gateway.envoy is not None
        return Target("", self.gateway.url, (self.gateway.envoy.popen.pid, self.gateway.sidecar.popen.pid), "")


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is true, however long that takes."""
    while not condition():
        time.sleep(0.02)


def whole_list(gateway: Gateway) -> tuple[int, int, float]:
    """Tools, bytes and seconds of all pages for a client."""
    with gateway.client() as client:
        begun, tools, size = time.monotonic(), 0, 0
        params: dict[str, str] = {}
        while True:
            page = client.post("tools/list", params)
            result, size = page.json()["result"], size + len(page.content)
            tools += len(result["tools"])
            if "nextCursor" not in result:
                return tools, size, time.monotonic() - begun
            params = {"cursor": result["nextCursor"]}


def of_servers(counts: list[int]) -> None:
    """Print a line for each number of servers."""
    print(
        "| servers of 20 tools | all listed after, s | CPU until then, s (Envoy) | RSS of sidecar, MB (Envoy) | Envoy's files, MB "
        "| the whole list: tools, MB, s | a server more: seen after, s, CPU of sidecar, ms (Envoy) | a hit, us at 8 connections |\n|"
        + "---|"
        * 8
    )
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [stack.enter_context(load_server(directory, f"p{number}", TOOLS - 1)) for number in range(PROGRAMS)]
        for count in counts:
            print(of_count(directory / str(count), ports, count), flush=True)


def of_count(home: Path, ports: list[int], count: int) -> str:
    def server(number: int) -> dict[str, object]:
        return entry(f"ns/s{number}", f"http://127.0.0.1:{ports[number % len(ports)]}/mcp", f"s{number}_")

    begun = time.monotonic()
    with running(home, [server(number) for number in range(count)]) as gateway:
        pair = Pair(gateway)
        wait_for(lambda: sum(each["tools"] > 0 for each in gateway.status()["servers"]) == count)
        listed, cpu = time.monotonic() - begun, (pair.sidecar.cpu, pair.envoy.cpu)
        time.sleep(3.0)
        files = sum(path.stat().st_size for path in (home / "envoy").iterdir() if path.is_file()) / 1e6
        tools, size, seconds = whole_list(gateway)
        assert tools == count * TOOLS, (tools, count)
        before, begun = (pair.sidecar.cpu, pair.envoy.cpu), time.monotonic()
        gateway.write([server(number) for number in range(count + 1)])
        with gateway.client() as client:
            wait_for(lambda: "result" in client.call(f"s{count}_t0").json())
            seen = time.monotonic() - begun
        time.sleep(3.0)
        change = ((pair.sidecar.cpu - before[0]) * 1e3, (pair.envoy.cpu - before[1]) * 1e3)
        load = Load(pair.target(), 8, call(f"s{count - 1}_t0"))
        load.round(0.5)
        hit = statistics.median(load.round(0.3)["cpu"] for _ in range(ROUNDS))
        load.close()
        return (
            f"| {count} | {listed:.1f} | {cpu[0]:.1f} ({cpu[1]:.1f}) | {pair.sidecar.rss:.0f} ({pair.envoy.rss:.0f}) | {files:.1f} "
            f"| {tools}, {size / 1e6:.1f}, {seconds:.2f} | {seen:.2f}, {change[0]:.0f} ({change[1]:.0f}) | {hit:.0f} |"
        )


def of_sessions(count: int) -> None:
    """Print what sessions over two sidecars with a store take."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(load_server(directory, "one"))
        (store_port,) = free_ports(1)
        store = Account(stack.enter_context(redis(directory, store_port)).popen.pid)
        options = (
            f"--session-key-file={directory / 'a' / 'key'}",
            f"--session-store=redis://:s3cret@127.0.0.1:{store_port}",
        )
        servers = [entry("ns/one", f"http://127.0.0.1:{port}/mcp")]
        pairs = [Pair(stack.enter_context(running(directory / name, servers, *options))) for name in "ab"]
        time.sleep(2.0)

        def memory() -> list[float]:
            return [account.rss for pair in pairs for account in (pair.sidecar, pair.envoy)] + [store.rss]

        def cpu() -> list[float]:
            return [account.cpu for pair in pairs for account in (pair.sidecar, pair.envoy)] + [store.cpu]

        start, before, begun = memory(), cpu(), time.monotonic()
        clients = [Sessions(pair.gateway.url, count // 2, call("t0")) for pair in pairs]
        failures = 0
        for step in ("initialize", "call"):
            failures += sum(together(clients, step))
        seconds = time.monotonic() - begun
        time.sleep(3.0)
        kept = [(now - then) * 1024 / (count / 2) for now, then in zip(memory(), start, strict=True)]
        spent = [(now - then) * 1e3 / (count / 2) for now, then in zip(cpu(), before, strict=True)]
        again = sum(together(clients, "call"))
        print(
            "| sessions | opened and called, a second | failures | at each sidecar, kB (Envoy) | in Redis, kB "
            "| CPU of a sidecar, ms (Envoy, Redis) | failures when all call again |\n|" + "---|" * 7
        )
        print(
            f"| {count} | {count / seconds:.0f} | {failures} | {kept[0]:.1f} and {kept[2]:.1f} ({kept[1]:.1f}, {kept[3]:.1f}) | {kept[4] / 2:.1f} "
            f"| {spent[0]:.2f} and {spent[2]:.2f} ({spent[1]:.2f}, {spent[4] / 2:.2f}) | {again} |"
        )
        for each in clients:
            each.close()


def together(clients: list[Sessions], step: str) -> list[int]:
    """The errors of a step that all clients do at the same time."""
    errors = [0] * len(clients)

    def run(place: int) -> None:
        errors[place] = int(clients[place].step(step)["errors"])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def of_pairs(count: int) -> None:
    """Print how many sessions one pair opens in a second, and two pairs."""
    print("| | sessions a second, three rounds | failures | CPU of sidecars and Envoys, ms each |\n|---|---|---|---|")
    for number in (1, 2):
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = stack.enter_context(load_server(directory, "one"))
            servers = [entry("ns/one", f"http://127.0.0.1:{port}/mcp")]
            first = stack.enter_context(running(directory / "a", servers))
            pairs = [Pair(first)]
            if number > 1:
                key = f"--session-key-file={directory / 'a' / 'envoy' / 'session.key'}"
                pairs.append(
                    Pair(stack.enter_context(running(directory / "b", servers, key, shared=first.ports["gateway"])))
                )
            rates, failures, spent = [], 0, []
            for _ in range(3):
                clients = Sessions(first.url, count, call("t0"))
                before, begun = sum(pair.sidecar.cpu + pair.envoy.cpu for pair in pairs), time.monotonic()
                failures += sum(int(clients.step(step)["errors"]) for step in ("initialize", "listen", "call"))
                rates.append(count / (time.monotonic() - begun))
                spent.append((sum(pair.sidecar.cpu + pair.envoy.cpu for pair in pairs) - before) / count * 1e3)
                clients.close()
            shown = ", ".join(f"{rate:.0f}" for rate in rates)
            print(f"| {number} | {shown} | {failures} | {statistics.median(spent):.2f} |", flush=True)


def of_loaded(streams: int) -> None:
    """Print the times of calls that Envoy remembers, beside what else goes on."""
    print("| beside | p50, ms | p99 | calls a second | failures |\n|---|---|---|---|---|")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [stack.enter_context(load_server(directory, f"p{number}", 99)) for number in range(PROGRAMS)]
        servers = [entry(f"ns/s{n}", f"http://127.0.0.1:{ports[n % PROGRAMS]}/mcp", f"s{n}_") for n in range(60)]
        gateway = stack.enter_context(running(directory / "a", servers))
        load = Load(Pair(gateway).target(), 8, call("s0_t0"))
        load.round(1.0)

        def shown(name: str, stop: Callable[[], None] = lambda: None) -> None:
            rounds = [load.round(3.0) for _ in range(5)]
            stop()
            p50, p99, rate = (statistics.median(each[key] for each in rounds) for key in ("p50", "p99", "rate"))
            failures = sum(each["errors"] for each in rounds)
            print(f"| {name} | {p50:.2f} | {p99:.2f} | {rate:.0f} | {failures:.0f} |", flush=True)

        shown("nothing")
        shown("sessions that are opened, each with a call", endless(lambda: opened(gateway)))
        shown("a list of 6,000 tools that changes each second", endless(lambda: changed(gateway, servers)))
        shown("nothing, once more")
        clients = Sessions(gateway.url, streams, call("s0_t0"))
        for step in ("initialize", "listen"):
            clients.step(step)
        shown(f"{streams:,} silent streams")
        clients.close()
        load.close()


def endless(work: Callable[[], None]) -> Callable[[], None]:
    """Do something again and again in a thread; the result ends it."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    return stop


def opened(gateway: Gateway) -> None:
    clients = Sessions(gateway.url, 500, call("s0_t0"))
    for step in ("initialize", "listen", "call"):
        clients.step(step)
    clients.close()


def changed(gateway: Gateway, servers: list[dict[str, object]]) -> None:
    for some in (servers[:-1], servers):
        gateway.write(some)
        time.sleep(1.0)


def main(part: str = "", *numbers: str) -> None:
    if part in {"", "servers"}:
        of_servers([int(number) for number in numbers] or [10, 100, 1000])
    if part in {"", "sessions"}:
        of_sessions(int(numbers[0]) if numbers else 50_000)
    if part in {"", "loaded"}:
        of_loaded(int(numbers[0]) if numbers else 8192)
    if part in {"", "pairs"}:
        of_pairs(int(numbers[0]) if numbers else 2000)
