"""Servers on the SDKs of others, behind the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.servers import TOOLS, real_server
from tests.e2e.stack import entry, gateway, succeeded, wait_until


@pytest.mark.duty("session.heal", "call.clients")
@pytest.mark.parametrize("name", TOOLS)
def test_a_server_of_others_is_used_and_healed_after_its_restart(name: str, tmp_path: Path) -> None:
    """Whatever its SDK says to a session that it does not know: 404, 400, or another one."""
    with real_server(name, tmp_path) as server, gateway(tmp_path, [entry("ns/real", server.url, "r_")]) as running:
        wait_until(lambda: running.server("ns/real")["ready"])
        with running.client() as client:
            tool = f"r_{server.tool}"
            assert tool in client.tools()
            for _ in range(3):
                assert succeeded(client.call(tool, message="x"))
            server.restart()
            assert succeeded(client.call(tool, message="x"))
            assert succeeded(client.call(tool, message="x"))
