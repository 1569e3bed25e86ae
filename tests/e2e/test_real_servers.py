"""Servers on the SDKs of others, behind the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.servers import TOOLS, real_server
from tests.e2e.stack import Client, Process, answer, entry, free_ports, gateway, succeeded, wait_until
from tests.e2e.test_eras import ask
from tests.e2e.test_matrix import OLD
from tests.e2e.test_translated import _answers


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


@pytest.mark.duty("session.heal")
@pytest.mark.parametrize("before", [("plain",), ()], ids=["none, then sessions", "sessions, then none"])
def test_a_server_that_begins_or_ceases_to_keep_sessions(before: tuple[str, ...], tmp_path: Path) -> None:
    """It restarts with another configuration, also just after it was met without sessions."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/mcp"

    def started(options: tuple[str, ...]) -> Process:
        process = Process([*OLD, str(port), *options], tmp_path / f"server{len(options)}.log", PYTHONUNBUFFERED="1")
        wait_until(lambda: _answers(url), "server")
        return process

    server = started(before)
    try:
        with gateway(tmp_path, [entry("ns/one", url, "x_")]) as running, Client(running.url) as earlier:

            def all_call(*clients: Client) -> None:
                for client in clients:
                    for number in range(3):
                        said = answer(client.call("x_echo", number, message=f"m{number}"))
                        assert said["result"]["content"][0]["text"] == f"Echo: m{number}", said
                said = answer(ask(running, "tools/call", name="x_echo", arguments={"message": "pooled"}))
                assert said["result"]["content"][0]["text"] == "Echo: pooled", said

            wait_until(lambda: running.server("ns/one")["ready"])
            all_call(earlier)
            server.stop()
            server = started(() if before else ("plain",))
            with Client(running.url) as later:
                all_call(later, earlier)
    finally:
        server.stop()
