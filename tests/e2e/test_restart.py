"""A plain restart of the sidecar under the load of everybody's SDK."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.clients import AUTO, COMMANDS, restless
from tests.e2e.stack import entry, gateway, wait_until
from tests.e2e.test_translated import started
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


@pytest.mark.duty("era.direct", "era.pooled", "era.translated", "call.clients")
def test_sdks_of_both_eras_call_servers_of_both(one: ScriptedServer, tmp_path: Path) -> None:
    """A restart costs those nothing whose calls need no translation: Envoy knows the way."""
    places = [tmp_path / name for name in ("server", "new", "translated", "old")]
    for place in places:
        place.mkdir()
    with started(places[0]) as (_, url):
        servers = [entry("ns/one", one.url, "a_"), entry("ns/modern", url, "m_")]
        with gateway(tmp_path, servers, "--prefer-era=stateless") as running:
            with restless(running.url, "m_several", places[1], *AUTO, mode="auto") as new:
                running.sidecar.signal(signal.SIGTERM)
                assert running.sidecar.wait() == 0
                running.start_sidecar()
            calls = len(one.calls("tools/call"))
            with restless(running.url, "a_one", places[2], *AUTO, mode="auto") as translated:
                wait_until(lambda: len(one.calls("tools/call")) > calls + 10 * len(AUTO), "calls")
            with restless(running.url, "m_several", places[3]) as old:
                pass
        for client in (*new, *translated):
            assert (client.said("error"), client.said("ready")) == ([], ["2026-07-28"]), client.name
        for client in old:
            assert client.said("error") == [], client.name
        assert {client.name for client in old if client.said("ready") == ["2025-11-25"]} >= {*COMMANDS} - {"Go"}
