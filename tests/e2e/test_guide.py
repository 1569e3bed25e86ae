"""The seed guide on our product: its flows with their log lines, and its troubleshooting 1-3."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.e2e.stack import Client, Gateway, Process, answer, entry, gateway, succeeded, text_of, wait_until
from tests.servers.scripted import ScriptedServer, tool

NAME = "mcp-test/mcp-server1-route"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("greet")) as running:
        yield running


@pytest.fixture
def debugged(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """At LOG_LEVEL=-4, the guide's own spelling of debug."""
    servers = [entry(NAME, server.url, "test_", hostname="server1.mcp.local")]
    with gateway(tmp_path_factory.mktemp("guide"), servers, "--log-level=-4") as running:
        yield running


def lines_of(running: Gateway, action: Any) -> list[str]:
    """The lines that an action adds to the log."""
    before = len(running.sidecar.text.splitlines())
    action()
    return running.sidecar.text.splitlines()[before:]


@pytest.mark.duty("log.guide")
def test_the_brokers_log_patterns(guide: Gateway) -> None:
    assert guide.logged(r"^INFO Registering server mcpURL=http://\S+/mcp prefix=test_$")
    assert guide.logged(r"^INFO Discovered tools mcpURL=http://\S+/mcp #tools=5$")
    assert guide.logged(r'^INFO Federating tool mcpURL=http://\S+/mcp "federated name"=test_greet$')
    assert guide.logged(r"^INFO Server registered url=http://\S+/mcp totalServers=3$")
    assert not guide.logged("^DEBUG"), "nothing of a request is logged at INFO"


@pytest.mark.duty("log.quiet")
def test_nothing_is_logged_of_requests_at_info(guide: Gateway) -> None:
    def ask() -> None:
        with guide.client() as client:
            client.tools()
            assert text_of(client.call("test_greet", name="x")) == "Hi x"
            client.call("test_nope")
            client.http.delete(client.url, headers=client.headers)

    settled = ("Envoy accepted its configuration", "Server registered .*totalServers=3")
    wait_until(lambda: all(guide.logged(line) for line in settled), "the lines of the start")
    assert lines_of(guide, ask) == []


@pytest.mark.duty("log.level")
def test_the_environment_sets_the_level(server: ScriptedServer, tmp_path: Path) -> None:
    """As the guide does: kubectl set env deployment/... LOG_LEVEL=-4."""

    class Set(Gateway):
        env: ClassVar[dict[str, str]] = {"LOG_LEVEL": "-4"}

    running = Set(tmp_path, [entry(NAME, server.url, "test_")], envoy=False)
    try:
        Client(running.broker_url).close()
        assert running.logged("^DEBUG Processing request method=initialize$")
    finally:
        running.stop()


@pytest.mark.duty("log.guide")
def test_flow_1_initialize(debugged: Gateway) -> None:
    lines = lines_of(debugged, lambda: debugged.client().close())
    assert "DEBUG Processing request method=initialize" in lines
    assert any(line.startswith("DEBUG [EXT-PROC] Response backend session: ") for line in lines)
    assert "DEBUG [EXT-PROC] Session ID doesn't need reverse mapping" in lines


@pytest.mark.duty("log.guide")
def test_flow_2_tools_list(debugged: Gateway) -> None:
    with debugged.client() as client:
        lines = lines_of(debugged, client.tools)
    assert "DEBUG [EXT-PROC] HandleRequestBody None tool call setting method header onlytools/list" in lines
    sent = 'DEBUG Sending MCP routing instructions to Envoy: request_body:{response:{header_mutation:{set_headers:{header:{key:"'
    assert any(line.startswith(sent) and 'key:"x-mcp-method" raw_value:"tools/list"' in line for line in lines)
    assert any(line.startswith("DEBUG [EXT-PROC] Processing response body...") for line in lines)


@pytest.mark.duty("log.guide", "security.call-secrets", "header.authority-path")
def test_flow_3_tools_call(debugged: Gateway, server: ScriptedServer) -> None:
    with debugged.client() as client:
        lines = lines_of(debugged, lambda: client.call("test_greet", name="private-argument"))
        assert f"DEBUG [EXT-PROC] Found matching server toolName=test_greet serverPrefix=test_ serverName={NAME}" in lines
        assert "DEBUG Stripped tool name tool=greet originalPrefix=test_" in lines
        assert f"DEBUG Completed MCP processing with routing target={NAME}" in lines
        assert any('key:"x-mcp-toolname" raw_value:"test_greet"' in line for line in lines)
        assert any('key:":authority" raw_value:"server1.mcp.local"' in line for line in lines)
        assert any(line.startswith("DEBUG [EXT-PROC] Processing response body...") for line in lines)
        log = debugged.sidecar.text
        assert "private-argument" not in log
        assert client.session not in log
        assert all(session not in log for session in server.sessions)
    assert server.calls("tools/call")[-1].headers["host"] == "server1.mcp.local"


@pytest.mark.duty("error.tool-not-found")
def test_scenario_1_tool_not_found(guide: Gateway) -> None:
    with guide.client() as client:
        error = client.call("test_nope").json()["error"]
    assert (error["code"], error["message"]) == (-32601, "Tool not found")


@pytest.mark.duty("error.unreachable", "list.server-gone", "error.neighbours")
def test_scenario_2_backend_unreachable(
    guide: Gateway, sdk_servers: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ScriptedServer(tool("time")) as going:
        servers = [entry(NAME, f"http://127.0.0.1:{sdk_servers[0]}/mcp", "test_"), entry("mcp-test/going", going.url, "g_")]
        with gateway(tmp_path_factory.mktemp("scenario2"), servers, "--refresh-interval=200ms") as running:
            with running.client() as client:
                assert succeeded(client.call("g_time"))
                going.stop()
                response = client.call("g_time")
                assert answer(response)["error"]["data"]["reason"] == "Unreachable"
                assert "mcp-test/going" in response.text
                wait_until(lambda: "g_time" not in client.tools(), "the list is without that server's tools")
                assert "test_greet" in client.tools()
                assert text_of(client.call("test_greet", name="x")) == "Hi x"
            assert running.logged(r"^WARN MCP server failed, will retry with backoff server=mcp-test/going")
    assert guide.sidecar.popen.poll() is None


def test_scenario_3_routing(debugged: Gateway) -> None:
    """The configuration, /status, Envoy's routes and the log agree on which prefix leads where."""
    assert debugged.server(NAME)["toolPrefix"] == "test_"
    assert debugged.server(NAME)["hostname"] == "server1.mcp.local"
    with debugged.client() as client:
        client.call("test_greet")
    assert debugged.logged(r"(routing|authority|ext_proc)")
    assert NAME in (debugged.directory / "envoy" / "rds.yaml").read_text()


def test_envoy_restarts_while_the_sidecar_runs(debugged: Gateway) -> None:
    with debugged.client() as client:
        assert succeeded(client.call("test_greet"))
        assert isinstance(debugged.envoy, Process)
        debugged.envoy.signal(signal.SIGKILL)
        debugged.envoy.stop()
        debugged.start_envoy()
        with debugged.client() as other:
            other.headers["mcp-session-id"] = client.session
            assert succeeded(other.call("test_greet"))


def test_answers_are_whole_at_debug(sdk_servers: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """At debug the router also gets the headers of each answer.

    The body that is streamed after them must not change their length.
    """
    servers = [entry(NAME, f"http://127.0.0.1:{sdk_servers[0]}/mcp", "test_")]
    with gateway(tmp_path_factory.mktemp("whole"), servers, "--log-level=debug") as running, running.client() as client:
        for number in range(40):
            assert answer(client.call("test_greet", number, name="Ada"))["id"] == number
