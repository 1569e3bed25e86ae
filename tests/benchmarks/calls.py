"""Measures the cost of a tools/call: `just bench calls [CONNECTIONS] [ROUNDS] [INSTANCES]`.

The defaults are 1,8,32,128, 15 and 1. Prints Markdown. Each target has one Envoy worker. All
targets live at the same time, their rounds come in random order, and medians count; of several
instances of a target, which differ by up to a tenth, the range is shown, too. `cpu` is that of
Envoy and sidecar (of FastMCP's process) for each call, from the process accounts: load and MCP
servers run on the same two cores and do not count.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from tests.benchmarks.rig import Load, Target, bare_envoy, call, fastmcp_proxy, load_server, mcp_router, plain, stateless
from tests.e2e.stack import Gateway, entry

WARM, ROUND = 0.5, 0.3  # seconds
NATIVE = "Envoy's mcp_router"
SLOW, SLOW_ROUNDS = "FastMCP proxy", 3  # its rounds take seconds
SHOWN = ("cpu", "p50", "p95", "p99", "rate")
ELICITING = ("-capabilities", '{"elicitation":{}}')


@attrs.frozen
class Case:
    """A target and what is sent to it."""

    name: str
    target: Target
    message: dict[str, object] | str
    options: tuple[str, ...] = ()


def gateway(stack: ExitStack, home: Path, ports: dict[str, int], *options: str, workers: int = 1, **more: Any) -> Target:
    """A gateway in front of the servers: `one` with a prefix, `two` without."""

    class Sized(Gateway):
        pass

    Sized.workers = workers
    home.mkdir()
    servers = [
        entry("ns/one", f"http://127.0.0.1:{ports['one']}/mcp", "one_"),
        entry("ns/two", f"http://127.0.0.1:{ports['two']}/mcp"),
    ]
    running = Sized(home, servers, *options, **more)
    stack.callback(running.stop)
    assert running.envoy is not None
    return Target(home.name, running.url, (running.envoy.popen.pid, running.sidecar.popen.pid), "one_t0")


def cases(stack: ExitStack, directory: Path, *, with_slow: bool) -> list[Case]:
    """The targets of a measurement, each with processes of its own; FastMCP's only `with_slow`."""
    ports = {name: stack.enter_context(load_server(directory, name)) for name in ("one", "two")}
    bare = stack.enter_context(bare_envoy(directory, "plain", plain(), ports, 1))
    bare2 = stack.enter_context(bare_envoy(directory, "plain2", plain(), ports, 2))
    native = stack.enter_context(bare_envoy(directory, "native", mcp_router(list(ports)), ports, 1))
    native2 = stack.enter_context(bare_envoy(directory, "native2", mcp_router(list(ports)), ports, 2))
    ours, ours2 = (
        gateway(stack, directory / "on", ports, "--prefer-era=auto"),
        gateway(stack, directory / "on2", ports, workers=2),
    )
    off = gateway(stack, directory / "off", ports, "--route-memo=off")
    forgetful = gateway(stack, directory / "forgetful", ports)
    eras = gateway(stack, directory / "eras", {
        "one": stack.enter_context(load_server(directory, "old", era="sessions")),
        "two": stack.enter_context(load_server(directory, "new", era="stateless")),
    })  # fmt: skip
    # What the router tells Envoy to keep cannot be kept: each call is a first one.
    (directory / "forgetful" / "envoy" / "stamps").unlink()
    escaped = (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\\u0061me":"one_t0","arguments":{"a":"some text","b":7}}}'
    )
    found = [
        Case("plain Envoy", bare, call("t0")),
        Case(NATIVE, native, call("one__t0")),
        Case("Envoy's mcp_router, event stream", native, call("one__sse")),
        Case("hit, prefix", ours, call("one_t0")),
        Case("hit, no prefix", ours, call("t0")),
        Case("hit, 2026-07-28", ours, stateless(call("one_t0")), ("-stateless", "one_t0")),
        Case("hit, event stream", ours, call("one_sse")),
        Case("hit, event stream with CRLF (Python's SDK)", ours, call("one_crlf")),
        Case("hit, client that can be asked", ours, call("one_t0"), ELICITING),
        Case("translated: a session, a server of 2026-07-28", eras, call("t0")),
        Case("translated: 2026-07-28, a server of sessions", eras, stateless(call("one_t0")), ("-stateless", "one_t0")),
        Case("miss: scanned, looked up, then the router, whose answer brings the memo", forgetful, call("one_t0")),
        Case("declined: scanned, then the router", ours, escaped),
        Case("`--route-memo off`", off, call("one_t0")),
        Case("plain Envoy, 2 workers", bare2, call("t0")),
        Case("Envoy's mcp_router, 2 workers", native2, call("one__t0")),
        Case("hit, 2 workers", ours2, call("one_t0")),
    ]
    if with_slow:
        proxy = stack.enter_context(fastmcp_proxy(directory, ports))
        found.append(Case(SLOW, proxy, call(proxy.tool)))
    return found


def main(connections: str = "1,8,32,128", rounds: str = "15", instances: str = "1") -> None:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        alike: list[list[Case]] = []
        for number in range(int(instances)):
            (home / str(number)).mkdir()
            alike.append(cases(stack, home / str(number), with_slow=number == 0))
        for count in map(int, connections.split(",")):
            measured(alike, count, int(rounds))


def measured(alike: list[list[Case]], connections: int, rounds: int) -> None:
    """Print the figures of cases, of which each may have several instances."""
    places = [(number, place) for number, some in enumerate(alike) for place in range(len(some))]
    loads = {}
    for number, place in places:
        case = alike[number][place]
        loads[number, place] = Load(case.target, connections, case.message, *case.options)
        loads[number, place].round(WARM)
    results: dict[tuple[int, int], list[dict[str, float]]] = {at: [] for at in places}
    for turn in range(rounds):
        for number, place in random.sample(places, len(places)):
            if alike[number][place].name != SLOW or turn < SLOW_ROUNDS:
                results[number, place].append(loads[number, place].round(ROUND))
    head = "| | CPU, us | its instances | of mcp_router | p50, ms | p95 | p99 | calls/s | failed |"
    print(f"\n**{connections} connections**\n\n{head}\n|{'---|' * 9}")
    native = 0.0
    for place, case in enumerate(alike[0]):
        each = [results[number, place] for number in range(len(alike)) if (number, place) in results]
        spent = sorted(statistics.median(figures["cpu"] for figures in one) for one in each)
        figures = [one for some in each for one in some]
        cpu, p50, p95, p99, rate = (statistics.median(one[key] for one in figures) for key in SHOWN)
        native = cpu if case.name == NATIVE else native
        ratio = f"{cpu / native:.2f}" if native else ""
        failed = sum(one["errors"] for one in figures)
        print(
            f"| {case.name} | {cpu:.0f} | {spent[0]:.0f} to {spent[-1]:.0f} | {ratio} "
            f"| {p50:.2f} | {p95:.2f} | {p99:.2f} | {rate:.0f} | {failed:.0f} |",
            flush=True,
        )
    for load in loads.values():
        load.close()
