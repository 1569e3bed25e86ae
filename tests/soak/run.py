"""One run: servers, gateways, clients, chaos; and the account at the end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import attrs
import trio
import trio.lowlevel

from tests.e2e.servers import RealServer, real_server
from tests.e2e.stack import UNLIMITED, Gateway, Process, entry, free_ports, gateway, wait_until
from tests.e2e.test_replicas import redis_process
from tests.soak.account import resources, wait_account, wait_left
from tests.soak.chaos import Chaos
from tests.soak.client import STATELESS_SERVER, SoakClient
from tests.soak.ledger import Ledger
from tests.soak.server import SoakServer

SETTINGS = ("single", "store", "replicas")
REAL = {"Python SDK 1.x": "message", "Python SDK 2.x": "", "server-everything (TypeScript)": "message"}


@attrs.define(kw_only=True, eq=False)
class World:
    """The parts of a run. `say` tells the user what happens."""

    setting: str
    seed: int
    seconds: float
    directory: Path
    say: Callable[[str], None]
    clients: int = 40
    servers: list[SoakServer] = attrs.field(factory=list)
    real: list[RealServer] = attrs.field(factory=list)
    gateways: list[Gateway] = attrs.field(factory=list)
    store: Process | None = None
    store_port: int = 0
    ledger: Ledger = attrs.field(factory=Ledger)
    is_over: bool = False
    has_more: bool = False
    """Whether the configuration has one server more."""
    more: SoakServer = attrs.field(factory=lambda: SoakServer("more"))

    @property
    def entries(self) -> list[dict[str, object]]:
        scripted = [entry(f"ns/{server.name}", server.url, f"{server.name}_") for server in self.servers]
        real = [entry(f"ns/real{number}", server.url, f"real{number}_") for number, server in enumerate(self.real)]
        rows = [*scripted, *real]
        return [*rows, entry("ns/more", self.more.url, "more_")] if self.has_more else rows

    def start_store(self) -> None:
        """Start Redis, with what it had before."""
        self.store = redis_process(self.directory, self.store_port)

    @contextmanager
    def built(self) -> Iterator[None]:
        """Start everything."""
        with ExitStack() as stack:
            for number in range(5):
                self.servers.append(SoakServer(f"s{number}"))
                stack.callback(lambda server=self.servers[-1]: server.stop())
            self.servers.append(SoakServer(STATELESS_SERVER, stateless=True))
            stack.callback(self.servers[-1].stop)
            stack.callback(self.more.stop)
            for name in REAL:
                place = self.directory / f"real{len(self.real)}"
                place.mkdir()
                self.real.append(stack.enter_context(real_server(name, place)))
            options = [f"--session-key-file={self.directory / 'key'}", "--refresh-interval=2s", "--call-timeout=20s"]
            options.append("--discovery-timeout=5s")
            if self.setting == "store":
                (self.store_port,) = free_ports(1)
                self.start_store()
                stack.callback(lambda: self.store and self.store.stop())
                options.append(f"--session-store=redis://:s3cret@127.0.0.1:{self.store_port}")
            for number in range(1 if self.setting == "single" else 2):
                place = self.directory / f"gateway{number}"
                place.mkdir()
                self.gateways.append(stack.enter_context(gateway(place, self.entries, *options, limits=UNLIMITED)))
            for running in self.gateways:
                wait_until(lambda running=running: all(each["ready"] for each in running.status()["servers"]), "all servers")
            yield

    async def wait_run(self) -> None:
        """Load and chaos for the time of the run, then the account."""
        start = [resources(running) for running in self.gateways]
        prefixes = {f"{server.name}_": server.name for server in self.servers}
        real = [
            (f"real{number}_{server.tool}", REAL[server.name], f"real{number}") for number, server in enumerate(self.real)
        ]
        clients = [
            SoakClient(
                number=number,
                urls=[running.url for running in self.gateways],
                prefixes=prefixes,
                real_tools=real,
                ledger=self.ledger,
                dice=random.Random(self.seed * 1000 + number),  # noqa: S311  # as above
                is_over=lambda: self.is_over,
                sticks=self.setting == "replicas",
            )
            for number in range(self.clients)
        ]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.wait_living)
            nursery.start_soon(self._wait_telling)
            await Chaos(self).wait()
            self.say("quiet: everything is there again")
            await trio.sleep(12)
            self.is_over = True
            await trio.sleep(3)
            await wait_account(self, clients)
            self.ledger.final.set()
        await wait_left(self, start)

    async def _wait_telling(self) -> None:
        last = 0
        while not self.ledger.final.is_set():
            await trio.sleep(20)
            ledger, last_count = self.ledger, last
            last = ledger.count
            self.say(
                f"{ledger.count} requests ({(last - last_count) / 20:.0f} a second), {len(ledger.faults)} faults, "
                f"{sum(ledger.explained.values())} failures explained, {len(ledger.unexplained)} not, {len(ledger.wrongs)} wrong"
            )


def soaked(
    setting: str, seconds: float, seed: int, directory: Path, say: Callable[[str], None], clients: int = 40
) -> Ledger:
    """Run once, and return the account."""
    world = World(setting=setting, seed=seed, seconds=seconds, directory=directory, say=say, clients=clients)
    began = time.monotonic()
    with world.built():
        say(
            f"{setting}, seed {seed}: {clients} clients, {len(world.servers) + len(world.real)} servers, "
            f"{len(world.gateways)} gateway(s)"
        )
        trio.run(partial(world.wait_run))
    ledger = world.ledger
    say(f"{ledger.count} requests in {time.monotonic() - began:.0f} s")
    for (fault, what, seen), count in sorted(ledger.explained.items()):
        say(f"  {count:5} x {what}: {seen} ({fault})")
    return ledger
