"""The account of a run: what is true at its end, and what is left of clients that have gone."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.soak.client import PROMPT, SoakClient

if TYPE_CHECKING:
    from tests.e2e.stack import Gateway
    from tests.soak.run import World

MORE_DESCRIPTORS = 40  # of a sidecar, after all clients have gone
MORE_MEMORY = 120  # MB of a sidecar over a run
PATIENCE = 4.5  # seconds; the gateway waits 5 for a session (--discovery-timeout), from before it has connected
LEFT_AFTER = 120.0  # seconds after which nothing of clients that ended is left at a server


async def wait_account(world: World, clients: list[SoakClient]) -> None:
    """Lists and subscriptions are true, and nothing was executed twice."""
    _count_executed(world)
    living = [client for client in clients if client.session]
    for client in living:
        await client.wait_list()
        _compare(world, client)
        if not client.is_stateless:
            await client.wait_subscribed()
    subscribed = [(client, uri) for client in living for uri in client.subscribed]
    asked, waiting = time.time(), subscribed
    while waiting and time.time() < asked + PROMPT:
        for server in world.servers:
            await trio.to_thread.run_sync(server.push)
        await trio.sleep(1)
        waiting = [(client, uri) for client, uri in subscribed if client.updated.get(uri, 0.0) < asked]
    for client, uri in waiting:
        world.ledger.wrong(f"{client.name} ({client.version}) does not hear of {uri}")
    world.say(f"account: {len(living)} clients, {len(subscribed)} subscriptions")
    for client in living:
        await client.wait_ended()


def _count_executed(world: World) -> None:
    for server in world.servers:
        for nonce, times in server.executed.items():
            if len(times) > 1:
                world.ledger.wrong(
                    f"{server.name} executed {nonce} twice: {times}; {world.ledger.around(float(times[0].split()[0]))}"
                )
    by_name = {server.name: server for server in world.servers}
    for name, nonce in world.ledger.answered:
        if nonce not in by_name[name].executed:
            world.ledger.wrong(f"{name} never executed {nonce}, which was answered")


def _compare(world: World, client: SoakClient) -> None:
    truth = {f"{server.name}_{tool['name']}" for server in world.servers for tool in server.http.tools}
    ours = {name for name in client.known if not name.startswith("real")}
    if ours != truth:
        world.ledger.wrong(f"{client.name} sees {sorted(ours ^ truth)} wrongly")
    for number in range(len(world.real)):
        if not any(name.startswith(f"real{number}_") for name in client.known):
            world.ledger.wrong(f"{client.name} sees nothing of real{number}")


async def wait_left(world: World, start: list[Counter[str]]) -> None:
    """Nothing is left of clients that have ended their sessions."""
    end = time.time() + LEFT_AFTER
    while (left := _left(world)) and time.time() < end:  # noqa: ASYNC110  # other processes' doing
        await trio.sleep(1)
    for line in left:
        world.ledger.wrong(line)
    vanished = sum(name.startswith("vanishing") for server in world.servers for name, _ in server.left())
    for number, running in enumerate(world.gateways):
        now, then = resources(running), start[number]
        world.say(f"gateway {number}: {dict(then)} at the start, {dict(now)} at the end")
        # Streams for clients that went without a word are closed after some minutes.
        if now["descriptors"] > then["descriptors"] + MORE_DESCRIPTORS + vanished:
            world.ledger.wrong(f"gateway {number}: descriptors grew to {now['descriptors']}")
        if now["MB"] > then["MB"] + MORE_MEMORY:
            world.ledger.wrong(f"gateway {number}: memory grew to {now['MB']} MB")


def _left(world: World) -> list[str]:
    """Sessions of clients that ended theirs; not those that came too late for whoever asked.

    A client whose DELETE failed, which a fault explains or not, has ended nothing.
    """
    return [
        f"a session of {name} is left at {server.name}: {world.ledger.around(there)}"
        for server in world.servers
        for name, (asked, there) in server.left()
        if name.startswith("soak")
        and name not in world.ledger.unended
        and there - asked < PATIENCE
        and not world.ledger.met("sidecar", asked, there)
    ]


def resources(running: Gateway) -> Counter[str]:
    """Descriptors and memory (MB) of a gateway's sidecar."""
    pid = running.sidecar.popen.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Counter({"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "MB": pages * os.sysconf("SC_PAGE_SIZE") >> 20})
