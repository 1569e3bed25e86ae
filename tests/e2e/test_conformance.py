"""The suite @modelcontextprotocol/conformance in server mode, through Envoy and gateway.

Every check of both eras runs, but for those of extensions that the gateway does not have (tasks).
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import NODE, NODE_PARTS
from tests.e2e.stack import ROOT, Process, entry, environment, free_ports, gateway, wait_until

SUITE = NODE_PARTS / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
SCENARIOS = {
    "2025-11-25": 33,
    "2025-06-18": 27,
    "2025-03-26": 1,
}  # that the suite has, those that it does not score among them


STATELESS = 40  # of 2026-07-28: 37 that are scored and 3 that are pending


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The upstream with the suite's tools, prompts and resources; gives its URL."""
    port = free_ports(1)[0]
    log = tmp_path_factory.mktemp("fixtures") / "log"
    process = Process([sys.executable, "-m", "tests.servers.conformance", str(port)], log)
    try:
        wait_until(lambda: _listens(port), "the suite's fixtures")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second server of the stateless era: auto offers it only where every server speaks it."""
    port = free_ports(1)[0]
    process = Process([sys.executable, "-m", "tests.servers.modern", str(port)], tmp_path_factory.mktemp("modern") / "log")
    try:
        wait_until(lambda: _listens(port), "the second server")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.stop()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("version", SCENARIOS)
@pytest.mark.parametrize("beside", [None, "e_"])
def test_no_check_fails(fixtures: str, everything: str, tmp_path: Path, beside: str | None, version: str) -> None:
    servers = [entry("ns/fixtures", fixtures)]
    if beside is not None:
        servers.append(entry("ns/everything", everything, beside))
    with gateway(tmp_path, servers) as running:
        wait_until(lambda: all(server["ready"] for server in running.status()["servers"]))
        checks = conformance(running.url, tmp_path / "out", version)
    failed = [check for check in checks if check["status"] in {"FAILURE", "WARNING"}]
    assert failed == []
    assert len({check["scenario"] for check in checks}) == SCENARIOS[version]


@pytest.mark.parametrize("beside", [None, "m_"])
def test_no_check_of_the_stateless_era_fails(fixtures: str, modern: str, tmp_path: Path, beside: str | None) -> None:
    servers = [entry("ns/fixtures", fixtures)]
    if beside is not None:
        servers.append(entry("ns/modern", modern, beside))
    with gateway(tmp_path, servers, "--prefer-era=auto") as running:
        wait_until(lambda: all(server["ready"] for server in running.status()["servers"]))
        every = conformance(running.url, tmp_path / "out", "2026-07-28")
    checks = [check for check in every if not check["scenario"].startswith("server-tasks-")]
    assert [check for check in checks if check["status"] in {"FAILURE", "WARNING"}] == []
    assert len({check["scenario"] for check in checks}) == STATELESS


def conformance(url: str, out: Path, version: str) -> list[dict[str, str]]:
    """All checks of the suite at one version of the protocol, each with its scenario."""
    arguments = (
        ["--requirements", version]
        if version in {"2025-11-25", "2026-07-28"}
        else ["--suite", "all", "--spec-version", version]
    )
    command = [str(NODE), str(SUITE), "server", "--url", url.replace("127.0.0.1", "localhost"), *arguments, "-o", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment(), check=False)
    checks = [
        {**check, "scenario": directory.name}
        for directory in sorted(out.iterdir())
        for check in json.loads((directory / "checks.json").read_text())
    ]
    assert checks, done.stdout + done.stderr
    assert done.returncode == 0, [check for check in checks if check["status"] == "FAILURE"]
    return checks
