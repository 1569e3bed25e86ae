"""Limits as users configure them, counted by Envoy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.stack import HEADERS, PLAIN, Client, Gateway, entry, gateway, succeeded, wait_until
from tests.e2e.test_eras import ask
from tests.servers.scripted import ScriptedServer, tool

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}


@pytest.fixture(scope="module")
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("safe"), tool("dear")) as server:
        yield server


def limited(response: Any) -> dict[str, Any]:
    """The error of a limited call."""
    assert response.status_code == 200
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == -32000
    assert error["data"]["reason"] == "Limited"
    return error


@pytest.mark.duty("limits.calls")
@pytest.mark.parametrize("memo", ["on", "off"])
def test_calls_of_one_tool(one: ScriptedServer, tmp_path: Path, memo: str) -> None:
    limits = {"calls": [{"perMinute": 1, "burst": 3, "each": ["caller", "tool"], "tools": ["a_d*"]}]}
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], f"--route-memo={memo}", limits=limits) as running:
        with running.client() as client:
            before = len(one.calls("tools/call"))
            for _ in range(3):
                assert succeeded(client.call("a_dear", "x"))
            refused = client.call("a_dear", "x")
            error = limited(refused)
            assert refused.json()["id"] == "x"
            assert error["data"] == {"reason": "Limited", "retryAfterSeconds": 60}
            assert error["message"] == "Limited: at most 1 calls a minute for each caller and tool; try again in 60 s"
            assert refused.headers["retry-after"] == "60"
            assert len(one.calls("tools/call")) == before + 3
            for _ in range(5):
                assert succeeded(client.call("a_safe"))
            assert "a_dear" in client.tools()
        with running.client(version="2025-03-26") as client:
            call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a_dear", "arguments": {}}}
            batch = client.send([call | {"id": number} for number in range(4)], accept="application/json").json()
            assert sum("result" in answer for answer in batch) == 3, "a batch is no way around: its listener counts, too"
            (error,) = (answer["error"] for answer in batch if "error" in answer)
            assert error["data"]["reason"] == "Limited"
        counted = 'mcpgw_requests_total{method="tools/call",outcome="limited",server="ns/one",tool="a_dear"} 2.0'
        wait_until(lambda: counted in running.metrics(), "they are counted")


@pytest.mark.duty("limits.calls")
def test_a_change_of_another_server_gives_nobody_more(tmp_path: Path) -> None:
    """The buckets stood in the routes: whoever changed a server again and again had no limit."""
    limits = {"calls": [{"perMinute": 1, "burst": 2, "each": ["caller"], "tools": ["a_é", "a_100%*"]}]}
    with ScriptedServer(tool("é"), tool("100%é")) as odd, ScriptedServer(tool("other")) as other:
        entries = [entry("ns/odd", odd.url, "a_")]
        with gateway(tmp_path, entries, limits=limits) as running, running.client() as client:
            assert succeeded(client.call("a_é"))
            assert succeeded(client.call("a_100%é")), "names that a header holds encoded"
            limited(client.call("a_é"))
            running.write([*entries, entry("ns/other", other.url, "b_")])
            wait_until(lambda: "b_other" in client.tools(), "another server")
            assert succeeded(client.call("b_other"))
            limited(client.call("a_é"))
            limited(client.call("a_100%é"))


@pytest.mark.duty("limits.calls", "limits.configured")
def test_limits_are_followed(one: ScriptedServer, tmp_path: Path) -> None:
    access = tmp_path / "access.yaml"
    access.write_text("limits: {calls: [{perMinute: 1, each: [server]}]}")
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], f"--access={access}") as running, running.client() as client:
        assert succeeded(client.call("a_safe"))
        limited(client.call("a_safe"))
        generation = running.status()["config"]["generation"]
        access.write_text("limits: {calls: [{perMinute: 0}]}")
        wait_until(lambda: "calls[0].perMinute must be" in (running.status()["config"]["error"] or ""), "refused")
        limited(client.call("a_safe"))
        access.write_text("{}")
        wait_until(lambda: succeeded(client.call("a_safe")), "no limit any more")
        config = running.status()["config"]
        assert (config["error"], config["generation"]) == (None, generation + 1)


@pytest.mark.duty("limits.sessions")
@pytest.mark.parametrize("memo", ["on", "off"])
def test_new_sessions_of_one_address(one: ScriptedServer, tmp_path: Path, memo: str) -> None:
    limits = {"newSessions": {"perSecond": 1, "burst": 3}}
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], f"--route-memo={memo}", limits=limits) as running:
        clients = [running.client() for _ in range(3)]
        refused = Client(running.url).initialized
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["data"] == {"reason": "Limited", "retryAfterSeconds": 1}
        assert "at most 1 new sessions a second of one address" in refused.json()["error"]["message"]
        body = json.dumps(INITIALIZE)
        for text in (body, body.replace("initialize", "\\u0069nitialize"), body + " " * 70_000):
            headers = {**HEADERS, "mcp-session-id": "x"}
            answers = [PLAIN.post(running.url, content=text, headers=headers) for _ in range(5)]
            assert sum(answer.status_code == 200 for answer in answers) <= 2, "a session id is no way around"
        for client in clients:
            for _ in range(5):
                assert succeeded(client.call("a_safe")), "sessions go on"
            client.close()
        wait_until(lambda: Client(running.url).initialized.status_code == 200, "a new one later")
        counted = 'mcpgw_requests_total{method="initialize",outcome="limited"'
        wait_until(lambda: counted in running.metrics(), "they are counted")


def test_limits_stand_in_one_file(tmp_path: Path, one: ScriptedServer) -> None:
    access = tmp_path / "access.yaml"
    access.write_text("limits: {}")
    with pytest.raises(AssertionError, match="limits belongs into the document of --access"):
        Gateway(tmp_path, [entry("ns/one", one.url)], f"--access={access}", envoy=False, limits={})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["limits"] == {}


@pytest.mark.duty("limits.heap")
def test_envoys_memory_has_a_limit(one: ScriptedServer, tmp_path: Path) -> None:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--envoy-heap=512MiB") as running, running.client() as client:
        assert succeeded(client.call("a_safe"))

        def pressure() -> int:
            name, _, value = running.ask_envoy("/stats?filter=fixed_heap.pressure").text.partition(": ")
            return int(value) if name else 0

        assert 0 < wait_until(pressure, "Envoy looks") < 80


@pytest.mark.duty("limits.streams")
def test_open_streams_of_one_caller(one: ScriptedServer, tmp_path: Path) -> None:
    """Of all its sessions together; calls go on."""
    limits = {"streams": {"perCaller": 2}}
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], limits=limits) as running, ExitStack() as clients:
        first, second, third = (clients.enter_context(running.client()) for _ in range(3))

        def stream(client: Client) -> Any:
            return client.http.stream("GET", client.url, headers=client.headers | {"accept": "text/event-stream"})

        with stream(second):
            with stream(first):
                wait_until(lambda: running.metric("mcpgw_streams") == 2, "two streams")
                with stream(third) as refused:
                    assert refused.status_code == 429
                    assert json.loads(refused.read())["error"]["data"] == {"reason": "Limited"}
                listen = ask(running, "subscriptions/listen", notifications={"toolsListChanged": True})
                assert (listen.status_code, listen.json()["error"]["code"]) == (429, -32603)
                assert succeeded(third.call("a_safe"))
            wait_until(lambda: running.metric("mcpgw_streams") == 1, "one is closed")
            with stream(third) as again:
                assert again.status_code == 200
        assert 'mcpgw_requests_total{method="GET",outcome="limited"' in running.metrics()


@pytest.mark.duty("limits.hops")
def test_clients_behind_a_load_balancer(one: ScriptedServer, tmp_path: Path) -> None:
    """What a client writes into X-Forwarded-For stands before what the load balancer adds."""
    limits = {"calls": [{"perMinute": 1, "burst": 1, "each": ["caller"]}], "newSessions": {"perSecond": 0}}
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--trusted-hops=1", limits=limits) as running:

        def refused(forwarded: str, version: str = "2025-11-25") -> bool:
            with running.client(version=version, x_forwarded_for=forwarded) as client:
                return not succeeded(client.call("a_safe"))

        assert [refused("10.0.0.1"), refused("10.0.0.2"), refused("10.0.0.1")] == [False, False, True]
        assert refused("10.9.9.9, 10.0.0.2"), "an address that the client made up"
        with running.client(version="2025-03-26", x_forwarded_for="10.0.0.3") as client:
            call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a_safe", "arguments": {}}}
            batch = client.send([call | {"id": number} for number in range(2)], accept="application/json").json()
            assert sum("result" in answer for answer in batch) == 1, "its batches, too"
        assert "x-forwarded-for" not in one.calls("tools/call")[-1].headers
        wait_until(lambda: '"client":"10.0.0.3"' in (tmp_path / "envoy.log").read_text(), "the log has it")
