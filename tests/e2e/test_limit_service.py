"""A rate limit service (that of Envoy's own project) counts for several gateways together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.clients import CACHE
from tests.e2e.stack import Client, Process, entry, free_ports, gateway, succeeded, wait_until
from tests.e2e.test_limits import limited
from tests.e2e.test_replicas import redis, redis_program
from tests.servers.scripted import ScriptedServer, tool

PROGRAM = CACHE / "ratelimit"
pytestmark = pytest.mark.skipif(
    not PROGRAM.exists() or redis_program() is None, reason="needs the rate limit service (build/clients) and Redis"
)
OF_EACH = {"key": "masked_remote_address", "rate_limit": {"unit": "hour", "requests_per_unit": 4}}
RULES = {
    "domain": "mcpgw",
    "descriptors": [
        {"key": "server", "value": "ns/one", "descriptors": [{"key": "tool", "value": "a_dear", "descriptors": [OF_EACH]}]},
        {"key": "method", "value": "initialize", "descriptors": [OF_EACH]},
    ],
}


@contextmanager
def counting(directory: Path, store: int, port: int) -> Iterator[Process]:
    rules = directory / "ratelimit" / "config" / "mcpgw.yaml"
    rules.parent.mkdir(parents=True, exist_ok=True)
    rules.write_text(yaml.safe_dump(RULES))
    http, debug = free_ports(2)
    process = Process(
        [str(PROGRAM)],
        directory / "ratelimit.log",
        RUNTIME_ROOT=str(directory),
        RUNTIME_SUBDIRECTORY="ratelimit",
        RUNTIME_WATCH_ROOT="false",
        USE_STATSD="false",
        REDIS_SOCKET_TYPE="tcp",
        REDIS_URL=f"127.0.0.1:{store}",
        REDIS_AUTH="s3cret",
        HOST="127.0.0.1",
        PORT=str(http),
        DEBUG_HOST="127.0.0.1",
        DEBUG_PORT=str(debug),
        GRPC_HOST="127.0.0.1",
        GRPC_PORT=str(port),
    )
    try:
        wait_until(lambda: "Listening for gRPC" in process.text, "the rate limit service")
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("safe"), tool("dear")) as server:
        yield server


def limits(port: int, **more: Any) -> dict[str, Any]:
    return {"newSessions": {"perSecond": 0}, "service": {"url": f"http://127.0.0.1:{port}", "timeout": "2s", **more}}


@pytest.mark.duty("limits.service")
def test_two_gateways_have_one_limit(one: ScriptedServer, tmp_path: Path) -> None:
    (store, port), places = free_ports(2), [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    servers = [entry("ns/one", one.url, "a_")]
    with (
        redis(tmp_path, store),
        counting(tmp_path, store, port),
        gateway(places[0], servers, limits=limits(port)) as first,
        gateway(places[1], servers, limits=limits(port)) as second,
    ):
        with first.client() as client, second.client() as other:
            for caller in (client, other, client):
                assert succeeded(caller.call("a_dear"))
            before = len(one.calls("tools/call"))
            with first.client(version="2025-03-26") as batching:
                call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a_dear", "arguments": {}}}
                batch = batching.send([call | {"id": number} for number in range(3)], accept="application/json").json()
                assert sum("result" in answer for answer in batch) == 1, "a batch counts like what came alone"
            for caller in (client, other):
                refused = caller.call("a_dear", "x")
                error = limited(refused)
                assert refused.json()["id"] == "x"
                assert 1 <= error["data"]["retryAfterSeconds"] <= 3600
                assert error["message"].startswith("Limited: a limit of this gateway's rate limit service; try again in ")
                assert refused.headers["retry-after"] == str(error["data"]["retryAfterSeconds"])
                assert succeeded(caller.call("a_safe"))
            assert len(one.calls("tools/call")) == before + 3
            with second.client():
                pass
            refused = Client(second.url).initialized
            assert refused.status_code == 429, "the fifth session"
            assert refused.json()["error"]["data"]["retryAfterSeconds"] == int(refused.headers["retry-after"])
        counted = 'mcpgw_requests_total{method="tools/call",outcome="limited",server="ns/one",tool="a_dear"}'
        wait_until(lambda: counted in first.metrics() and counted in second.metrics(), "they are counted")


@pytest.mark.duty("limits.service")
@pytest.mark.parametrize("fails_closed", [False, True])
def test_a_service_that_is_away(one: ScriptedServer, tmp_path: Path, *, fails_closed: bool) -> None:
    store, port = free_ports(2)
    with (
        redis(tmp_path, store),
        gateway(tmp_path, [entry("ns/one", one.url, "a_")], limits=limits(port, failClosed=fails_closed)) as running,
    ):
        if not fails_closed:
            with running.client() as client:
                assert succeeded(client.call("a_dear")), "calls go on"
            wait_until(lambda: running.status()["limitService"]["error"], "it is told")
            assert "calls and new sessions are not limited" in running.status()["limitService"]["error"]
            assert running.metric("mcpgw_limit_service_up") == 0
            assert running.metric("mcpgw_limit_service_failures_total") >= 2
            assert running.logged("Rate limit service lost")
            return
        refused = Client(running.url).initialized
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "limits of this gateway cannot be counted at the moment" in refused.json()["error"]["message"]
        wait_until(lambda: running.status()["limitService"]["error"], "it is told")
        with counting(tmp_path, store, port) as service, ExitStack() as clients:

            def opened() -> Client | None:
                client = clients.enter_context(Client(running.url))
                return client if client.initialized.status_code == 200 else None

            client = wait_until(opened, "it is back")
            assert succeeded(client.call("a_dear"))
            wait_until(lambda: running.status()["limitService"] == {"url": f"http://127.0.0.1:{port}", "error": None})
            service.stop()
            answered = client.call("a_dear", 7)
            assert (answered.status_code, answered.json()["id"]) == (200, 7), "it costs no client its session"
            assert answered.json()["error"]["data"] == {"reason": "Limited"}
        wait_until(lambda: 'method="initialize",outcome="limited"' in running.metrics(), "they are counted")
        assert 'outcome="limited",server="ns/one",tool="a_dear"' in running.metrics()
        assert running.logged("Rate limit service is back")
