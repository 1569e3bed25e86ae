"""A plain restart of the sidecar under the load of everybody's SDK."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.clients import restless
from tests.e2e.stack import entry, gateway, wait_until
from tests.servers.scripted import ScriptedServer, tool


@pytest.mark.duty("restart.sessions", "restart.streams", "call.clients")
def test_a_restart_costs_no_sdk_its_session_or_its_stream(one: ScriptedServer, tmp_path: Path) -> None:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running:
        with restless(running.url, "a_one", tmp_path) as clients:
            wait_until(lambda: running.metric("mcpgw_streams") == len(clients), "their streams")
            running.sidecar.signal(signal.SIGTERM)
            assert running.sidecar.wait() == 0
            running.start_sidecar()
            wait_until(lambda: running.metric("mcpgw_streams") == len(clients), "their streams again")
            one.tools.append(tool("new"))
            one.notify("notifications/tools/list_changed")
            for client in clients:
                wait_until(lambda client=client: client.said("changed"), f"{client.name} hears of the change")
        for client in clients:
            assert client.said("error") == [], client.name
            assert int(client.said("calls")[0]) > 10, client.name
        assert 'method="initialize"' not in running.metrics(), "no client has opened another session with the new process"
