"""The faults of a run: each is told to the ledger, with the server that it is of."""

from __future__ import annotations

import random
import secrets
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from tests.soak.run import World


MANY_KEYS = 16  # so that no session of a run outlives its key


class Chaos:
    """Faults one after the other, by the dice of the run's seed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = random.Random(world.seed)  # noqa: S311  # no secret

    async def wait(self) -> None:
        acts: dict[str, int] = {
            "restart_sidecar": 3,
            "kill_sidecar": 3,
            "restart_envoy": 1,
            "restart_server": 3,
            "hang_server": 2,
            "forget": 5,
            "change": 4,
            "configure": 2,
            "rotate": 1,
            "restart_real": 2,
            "push": 8,
        }
        if self._world.setting == "store":
            acts |= {"hang_store": 2, "restart_store": 1}
        end = time.time() + self._world.seconds
        await trio.sleep(3)
        while time.time() < end:
            act = self._dice.choices(list(acts), list(acts.values()))[0]
            try:
                await getattr(self, f"_wait_{act}")()
            except AssertionError as error:
                self._world.ledger.wrong(f"{act}: {str(error)[-600:]}")
            await trio.sleep(self._dice.uniform(0.5, 4))
        if self._world.has_more:
            await self._wait_configure()

    async def _wait_restart_sidecar(self) -> None:
        await self._wait_sidecar("the sidecar restarts (SIGTERM)", signal.SIGTERM)

    async def _wait_kill_sidecar(self) -> None:
        await self._wait_sidecar("the sidecar is killed", signal.SIGKILL)

    async def _wait_sidecar(self, fault: str, number: signal.Signals) -> None:
        running, made = self._dice.choice(self._world.gateways), self._world.ledger.begin(fault)
        before = running.sidecar
        before.signal(number)
        if self._dice.random() < 0.5:  # half of them beside the old one
            await trio.to_thread.run_sync(before.wait)
        await trio.to_thread.run_sync(running.start_sidecar)
        made.end = time.time()
        await trio.to_thread.run_sync(before.wait)
        await trio.sleep(3)  # until it has listed its servers, or a fault of one of them would be two

    async def _wait_restart_envoy(self) -> None:
        running, made = self._dice.choice(self._world.gateways), self._world.ledger.begin("Envoy restarts")
        assert running.envoy is not None
        running.envoy.stop()
        await trio.to_thread.run_sync(running.start_envoy)
        made.end = time.time()

    async def _wait_restart_server(self) -> None:
        server = self._dice.choice(self._world.servers)
        made = self._world.ledger.begin("a server restarts", server.name)
        await trio.to_thread.run_sync(server.stop)
        await trio.sleep(self._dice.uniform(0, 3))
        await trio.to_thread.run_sync(server.start)
        made.end = time.time() + 3  # until the supervisor has seen it

    async def _wait_restart_real(self) -> None:
        number = self._dice.randrange(len(self._world.real))
        made = self._world.ledger.begin("a server restarts", f"real{number}")
        await trio.to_thread.run_sync(self._world.real[number].restart)
        made.end = time.time() + 3

    async def _wait_hang_server(self) -> None:
        server = self._dice.choice(self._world.servers)
        made = self._world.ledger.begin("a server hangs", server.name)
        server.hang(self._dice.uniform(1, 8))
        await trio.sleep(self._dice.uniform(1, 5))
        delay = server.http.delay
        server.hang(0.0)
        made.end = time.time() + delay

    async def _wait_forget(self) -> None:
        self._world.ledger.begin("a server forgets its sessions").end = time.time()
        self._dice.choice(self._world.servers).forget()
        await trio.sleep(2)  # a call is healed once

    async def _wait_change(self) -> None:
        server = self._dice.choice(self._world.servers)
        self._world.ledger.begin("a server's tools change", server.name).end = time.time()
        server.change()
        await trio.lowlevel.checkpoint()

    async def _wait_configure(self) -> None:
        made = self._world.ledger.begin("the configuration changes", self._world.more.name)
        self._world.has_more = not self._world.has_more
        for running in self._world.gateways:
            running.write(self._world.entries)
        await trio.sleep(2)
        made.end = time.time()

    async def _wait_rotate(self) -> None:
        self._world.ledger.begin("the session keys are rotated").end = time.time()
        path = self._world.directory / "key"
        keys = [secrets.token_urlsafe(32), *path.read_text().split()]
        new = path.with_suffix(".new")
        # The new key is known everywhere before it signs.
        for order in ([keys[1], keys[0], *keys[2:MANY_KEYS]], keys[:MANY_KEYS]):
            new.write_text("\n".join(order) + "\n")
            new.replace(path)
            await trio.sleep(2.5)

    async def _wait_push(self) -> None:
        for server in self._world.servers:
            await trio.to_thread.run_sync(server.push)

    async def _wait_hang_store(self) -> None:
        store = self._world.store
        assert store is not None
        await self._wait_without_store(lambda: store.signal(signal.SIGSTOP), lambda: store.signal(signal.SIGCONT))

    async def _wait_restart_store(self) -> None:
        assert self._world.store is not None
        await self._wait_without_store(self._world.store.stop, self._world.start_store)

    async def _wait_without_store(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        made = self._world.ledger.begin("the store hangs or restarts")
        begin()
        await trio.sleep(self._dice.uniform(1, 6))
        await trio.to_thread.run_sync(end)
        made.end = time.time()
        await trio.sleep(3)  # until the store has been told what it missed
