"""Writes docs/compatibility.md: clients and servers of others, and what was seen with them.

`just compatibility` runs each client and each server through a real Envoy and this gateway. What
stands in the page was seen in that run.
"""

from __future__ import annotations

import json
import re
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import httpx2

from mcpgw_sidecar import __version__
from tests.e2e.clients import AUTO, CACHE, CLIENTS, COMMANDS, NODE_PARTS, restless
from tests.e2e.servers import TOOLS, real_server
from tests.e2e.stack import HEADERS, ROOT, entry, gateway, succeeded, wait_until
from tests.e2e.test_translated import started as modern_server
from tests.servers.scripted import ScriptedServer, tool

PAGE = ROOT / "docs" / "compatibility.md"
YES, NO = "yes", "**no**"


def main() -> None:
    """Write the page."""
    text = f"""# Clients and servers of others

Written by `just compatibility`: each row was run through a real Envoy and mcpgw-sidecar {__version__}, on the protocol that both negotiated. The
test suite runs the same on every change (`tests/e2e/test_restart.py`, `test_real_servers.py`), the official conformance suite, and the Inspector in a browser.

## Clients

Each calls a tool every 50 ms, while the sidecar is restarted.

{_table(("client", "version", "protocol", "calls", "failed", "hears of changed lists after the restart", "one session"), _clients())}

## Clients and servers of both eras

Each calls a tool of a server of sessions (2025-11-25), then of one that speaks 2026-07-28 alone (Python SDK 2.x), with `--prefer-era stateless`. Those that know 2026-07-28 ask for it first.

{_table(("client", "version", "protocol", "calls of the one", "failed", "calls of the other", "failed"), _eras())}

## Servers

Each is restarted in the midst of a client's session, and knows no session of before.

{_table(("server", "version", "protocol", "tools", "calls", "to a session that it does not know", "the next call"), _servers())}
"""
    PAGE.write_text(text)
    print(f"written: {PAGE.relative_to(ROOT)}")


def _table(head: Iterable[str], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [tuple(head), *rows]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _clients() -> Iterator[tuple[object, ...]]:
    for name in COMMANDS:
        with tempfile.TemporaryDirectory() as directory, ScriptedServer(tool("one")) as one:
            home = Path(directory)
            with gateway(home, [entry("ns/one", one.url, "a_")]) as running:
                with restless(running.url, "a_one", home, name) as (client,):
                    wait_until(lambda running=running: running.metric("mcpgw_streams") == 1)
                    running.sidecar.signal(signal.SIGTERM)
                    running.sidecar.wait()
                    running.start_sidecar()
                    wait_until(lambda running=running: running.metric("mcpgw_streams") == 1)
                    one.tools.append(tool("new"))
                    one.notify("notifications/tools/list_changed")
                    wait_until(lambda client=client: client.said("changed"))
                heard, one_session = bool(client.said("changed")), 'method="initialize"' not in running.metrics()
            calls, failed, protocol = client.said("calls")[0], len(client.said("error")), client.said("ready")[0]
            yield name, _version(name), protocol, calls, failed, _seen(heard), _seen(one_session)


def _eras() -> Iterator[tuple[object, ...]]:
    for name in COMMANDS:
        with tempfile.TemporaryDirectory() as directory, ScriptedServer(tool("one")) as one:
            home = Path(directory)
            with modern_server(home) as (_, url):
                servers = [entry("ns/one", one.url, "a_"), entry("ns/modern", url, "m_")]
                with gateway(home, servers, "--prefer-era=stateless") as running:
                    protocol, seen = "", list[object]()
                    for called in ("a_one", "m_several"):
                        with restless(running.url, called, home, name, mode="auto" if name in AUTO else None) as (client,):
                            time.sleep(2.0)
                        protocol = client.said("ready")[0]
                        seen += [client.said("calls")[0], len(client.said("error"))]
                    yield name, _version(name), protocol, *seen


def _servers() -> Iterator[tuple[object, ...]]:
    for name in TOOLS:
        with tempfile.TemporaryDirectory() as directory, real_server(name, Path(directory)) as server:
            home = Path(directory)
            with gateway(home, [entry("ns/real", server.url, "r_")]) as running, running.client() as client:
                wait_until(lambda running=running: running.server("ns/real")["ready"])
                row = running.server("ns/real")
                calls = _seen(all(succeeded(client.call(f"r_{server.tool}", message="x")) for _ in range(3)))
                server.restart()
                forgotten = _answer_to_a_stranger(server.url)
                healed = "healed" if succeeded(client.call(f"r_{server.tool}", message="x")) else NO
                yield name, _version(name), row["protocolVersion"], row["tools"], calls, forgotten, healed


def _answer_to_a_stranger(url: str) -> str:
    """What a server says to a session that it does not know."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    request = httpx2.post(url, content=body, headers=HEADERS | {"mcp-session-id": "unknown"}, trust_env=False)
    return f"HTTP {request.status_code}"


def _seen(value: object) -> str:
    return YES if value else NO


def _version(name: str) -> str:
    """The version of an SDK, or of a server."""
    match name.partition(" ")[0], name.rpartition(" ")[2]:
        case "Python", "1.x":
            text = next((CACHE / "mcp1").glob("lib/*/site-packages/mcp-*.dist-info")).name
            return text.removeprefix("mcp-").removesuffix(".dist-info")
        case "Python", _:
            return metadata.version("mcp")
        case "TypeScript", line:
            return _package("sdk" if line == "1.x" else "client")
        case "Go", _:
            return _pinned(CLIENTS / "go" / "go.mod", r"go-sdk v(\S+)")
        case "Rust", _:
            return _pinned(CLIENTS / "rust" / "Cargo.toml", r'rmcp = \{ version = "=([^"]+)"')
        case _:
            return _package("server-everything")


def _package(name: str) -> str:
    document = json.loads((NODE_PARTS / "node_modules" / "@modelcontextprotocol" / name / "package.json").read_text())
    return str(document["version"])


def _pinned(path: Path, pattern: str) -> str:
    match = re.search(pattern, path.read_text())
    return match.group(1) if match else "?"


if __name__ == "__main__":
    main()
