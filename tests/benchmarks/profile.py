"""Profiles the sidecar's CPU: `just bench profile [NAME ...]`.

py-spy writes flame graphs into tests/benchmarks/profiles.

    call        calls that all go to the router (`--route-memo off`)
    lists       lists that all go to the broker (likewise)
    initialize  new sessions
    listen      their notification streams
    first       first calls: sessions with the server are opened
    start       a start with 50 servers
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.rig import Load, Sessions, Target, call, installed, load_server
from tests.e2e.stack import ROOT, UNLIMITED, Gateway, entry, gateway

RATE = 400  # samples a second
SERVERS, SESSIONS, SECONDS = 50, 2000, 4.0
KEPT = ROOT / "tests/benchmarks/profiles"
STEPS = {"initialize": ("initialize",), "listen": ("initialize", "listen"), "first": ("initialize", "listen", "call")}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def titled(name: str) -> None:
    """Py-spy's title is its command line, with paths of this machine: the name takes its place."""
    flames = KEPT / f"{name}.svg"
    flames.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\1just bench profile {name}", flames.read_text()))


def spy(*what: str, into: str) -> subprocess.Popen[bytes]:
    program = installed("py-spy", "py-spy==0.4.*") / "bin/py-spy"
    KEPT.mkdir(exist_ok=True)
    command = [str(program), "record", "--rate", str(RATE), "--output", str(KEPT / f"{into}.svg"), *what]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def watched(running: Gateway, name: str) -> Iterator[None]:
    process = spy("--duration", "600", "--pid", str(running.sidecar.popen.pid), into=name)
    time.sleep(1.0)  # until it has found its way in
    yield
    process.send_signal(signal.SIGINT)
    process.wait()


def one(stack: ExitStack, *options: str) -> Gateway:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    port = stack.enter_context(load_server(directory, "one"))
    return stack.enter_context(
        gateway(directory, [entry("ns/one", f"http://127.0.0.1:{port}/mcp")], *options, limits=UNLIMITED)
    )


def profiled(name: str) -> None:
    with ExitStack() as stack:
        if name in STEPS:
            running = one(stack)
            clients = Sessions(running.url, SESSIONS, call("t0"))
            for step in STEPS[name][:-1]:
                clients.step(step)
            with watched(running, name):
                clients.step(STEPS[name][-1])
            clients.close()
        elif name == "start":
            started(stack)
        else:
            running = one(stack, "--route-memo=off")
            load = Load(Target(name, running.url, (), ""), 8, call("t0") if name == "call" else LIST)
            with watched(running, name):
                load.round(SECONDS)
            load.close()


def started(stack: ExitStack) -> None:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    ports = [stack.enter_context(load_server(directory, f"s{number}", 10)) for number in range(SERVERS)]
    servers = [entry(f"ns/s{n}", f"http://127.0.0.1:{port}/mcp", f"s{n}_") for n, port in enumerate(ports)]
    running = stack.enter_context(gateway(directory, servers, envoy=False))
    running.sidecar.stop()
    addresses = [f"--{name}-address=127.0.0.1:{port}" for name, port in running.ports.items()]
    command = [sys.executable, "-m", "mcpgw_sidecar", "run", f"--config={running.config}", *addresses]
    spy("--duration", "2", "--", *command, into="start").wait()


def main(*names: str) -> None:
    for name in names or (*STEPS, "call", "lists", "start"):
        profiled(name)
        titled(name)
        print(KEPT / f"{name}.svg", flush=True)
