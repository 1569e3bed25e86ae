"""What a tools/list costs: `just bench lists [ROUNDS]` (5). Prints Markdown.

2 servers with 20 tools each and 60 with 100, of which a page is 1,000; `static` is hypercorn with
the same bytes as a constant.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.benchmarks.rig import Load, Target, bare_envoy, load_server, mcp_router
from tests.e2e.stack import ROOT, Client, Gateway, Process, entry, free_ports, gateway, wait_until

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
CONNECTIONS, ROUND = 4, 1.0
GZIP = ("-accept-encoding", "gzip")
_STATIC = """
import sys, trio
from functools import partial
from mcpgw_sidecar.runtime.http import Drain, serve, wait_body
body = open(sys.argv[2], "rb").read()
async def app(scope, receive, send):
    await wait_body(receive, 1 << 20)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"mcp-session-id", b"x")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
async def main():
    (listener,) = await trio.open_tcp_listeners(int(sys.argv[1]), host="127.0.0.1")
    await serve(app, listener, trio.Event(), drain=Drain(lambda: 0.0))
trio.run(main)
"""


def measured(stack: ExitStack, servers: int, tools: int, rounds: int) -> None:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    ports = {f"s{n}": stack.enter_context(load_server(directory, f"s{n}", tools - 1)) for n in range(servers)}
    native = stack.enter_context(bare_envoy(directory, "native", mcp_router(list(ports)), ports, 1))
    entries = [entry(f"ns/{name}", f"http://127.0.0.1:{port}/mcp", f"{name}_") for name, port in ports.items()]
    with_memo = gateway_target(stack, directory / "on", entries)
    without_memo = gateway_target(stack, directory / "off", entries, "--route-memo=off")
    page = first_page(with_memo)
    static = static_target(stack, directory, page)
    rows = [
        ("Envoy's mcp_router (all tools)", Load(native, CONNECTIONS, LIST)),
        ("gateway: Envoy knows it", Load(with_memo, CONNECTIONS, LIST)),
        ("gateway, gzip", Load(with_memo, CONNECTIONS, LIST, *GZIP)),
        ("`--route-memo off`", Load(without_memo, CONNECTIONS, LIST)),
        ("hypercorn, static", Load(static, CONNECTIONS, LIST)),
    ]
    results = [[load.round(ROUND) for _, load in rows] for _ in range(rounds)]
    print(
        f"\n**{servers} x {tools} tools**, page {len(page)} bytes, {CONNECTIONS} connections\n\n| | CPU, us | p50, ms | answers/s | failed |\n|{'---|' * 5}"
    )
    for place, (name, load) in enumerate(rows):
        cpu, p50, rate = (statistics.median(each[place][key] for each in results) for key in ("cpu", "p50", "rate"))
        print(
            f"| {name} | {cpu:.0f} | {p50:.2f} | {rate:.0f} | {sum(each[place]['errors'] for each in results):.0f} |",
            flush=True,
        )
        load.close()


def gateway_target(stack: ExitStack, home: Path, entries: list[dict[str, object]], *options: str) -> Target:
    home.mkdir()
    running: Gateway = stack.enter_context(gateway(home, entries, *options))
    assert running.envoy is not None
    return Target(home.name, running.url, (running.envoy.popen.pid, running.sidecar.popen.pid), "")


def first_page(target: Target) -> bytes:
    with Client(target.url) as client:
        return client.send(LIST, accept_encoding="identity").content


def static_target(stack: ExitStack, directory: Path, page: bytes) -> Target:
    (port,) = free_ports(1)
    (directory / "page").write_bytes(page)
    (directory / "static.py").write_text(_STATIC)
    process = Process(
        [sys.executable, str(directory / "static.py"), str(port), str(directory / "page")],
        directory / "static.log",
        PYTHONPATH=str(ROOT),
    )
    stack.callback(process.stop)
    url = f"http://127.0.0.1:{port}/mcp"
    wait_until(lambda: httpx2.get(url, trust_env=False).status_code == 200, "static")
    return Target("static", url, (process.popen.pid,), "")


def main(rounds: str = "5") -> None:
    for servers, tools in ((2, 20), (60, 100)):
        with ExitStack() as stack:
            measured(stack, servers, tools, int(rounds))
