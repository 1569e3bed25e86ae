"""Measures the cost of a tools/call: `just bench calls [CONNECTIONS] [ROUNDS]`. Prints Markdown.

The defaults are 1,8,32,128 and 15. Each target has one Envoy worker. All targets live at the same
time, their rounds come in random order, and medians count. `cpu` is that of Envoy and sidecar (of
FastMCP's process) for each call, from the process accounts: load and MCP servers run on the same
two cores and do not count.
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


def cases(stack: ExitStack, directory: Path) -> list[Case]:
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
    return [
        Case("plain Envoy", bare, call("t0")),
        Case("Envoy's mcp_router", native, call("one__t0")),
        Case("Envoy's mcp_router, event stream", native, call("one__sse")),
        Case("hit, prefix", ours, call("one_t0")),
        Case("hit, no prefix", ours, call("t0")),
        Case("hit, 2026-07-28", ours, stateless(call("one_t0")), ("-stateless", "one_t0")),
        Case("hit, event stream", ours, call("one_sse")),
        Case("hit, client that can be asked", ours, call("one_t0"), ELICITING),
        Case("translated: a session, a server of 2026-07-28", eras, call("t0")),
        Case("translated: 2026-07-28, a server of sessions", eras, stateless(call("one_t0")), ("-stateless", "one_t0")),
        Case("miss: scanned, looked up, then the router, whose answer brings the memo", forgetful, call("one_t0")),
        Case("declined: scanned, then the router", ours, escaped),
        Case("`--route-memo off`", off, call("one_t0")),
        Case("plain Envoy, 2 workers", bare2, call("t0")),
        Case("Envoy's mcp_router, 2 workers", native2, call("one__t0")),
        Case("hit, 2 workers", ours2, call("one_t0")),
        Case(SLOW, proxy := stack.enter_context(fastmcp_proxy(directory, ports)), call(proxy.tool)),
    ]


def main(connections: str = "1,8,32,128", rounds: str = "15") -> None:
    with ExitStack() as stack:
        targets = cases(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for count in map(int, connections.split(",")):
            loads = [Load(case.target, count, case.message, *case.options) for case in targets]
            for load in loads:
                load.round(WARM)
            results: list[list[dict[str, float]]] = [[] for _ in targets]
            for number in range(int(rounds)):
                for place in random.sample(range(len(targets)), len(targets)):
                    if targets[place].name != SLOW or number < SLOW_ROUNDS:
                        results[place].append(loads[place].round(ROUND))
            native = 0.0
            print(
                f"\n**{count} connections**\n\n| | CPU, us | of mcp_router | p50, ms | p95 | p99 | calls/s | failed |\n|{'---|' * 8}"
            )
            for place, case in enumerate(targets):
                cpu, p50, p95, p99, rate = (statistics.median(each[key] for each in results[place]) for key in SHOWN)
                native = cpu if case.name == "Envoy's mcp_router" else native
                ratio = f"{cpu / native:.2f}" if native else ""
                failed = sum(each["errors"] for each in results[place])
                print(
                    f"| {case.name} | {cpu:.0f} | {ratio} | {p50:.2f} | {p95:.2f} | {p99:.2f} | {rate:.0f} | {failed:.0f} |",
                    flush=True,
                )
            for load in loads:
                load.close()
