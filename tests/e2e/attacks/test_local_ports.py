"""Local ports: what a page in the operator's browser, or a neighbour, can reach."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.e2e.stack import entry, gateway
from tests.servers.scripted import ScriptedServer


@pytest.mark.duty("security.admin-host")
def test_the_admin_port_answers_no_name_of_somebody_else(one: ScriptedServer, tmp_path: Path) -> None:
    """A page whose name was made to resolve to 127.0.0.1 read the status of all servers."""
    servers = [entry("ns/one", one.url)]
    with gateway(tmp_path, servers, "--admin-host=admin.example", envoy=False) as running:

        def status(host: str, path: str = "/status") -> int:
            return httpx2.get(f"{running.admin}{path}", headers={"host": host}, trust_env=False).status_code

        for path in ("/status", "/metrics", "/readyz", "/healthz", "/nowhere"):
            assert status("evil.example", path) == status("evil.example:9090", path) == 421
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9090", "10.1.2.3", "[::1]:9090", "admin.example:9090"):
            assert status(host) == 200, host
