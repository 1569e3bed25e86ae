"""The broker with servers that are odd, broken, slow or gone.

The tests need no Envoy: lists and status show the result.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import PLAIN, Client, Gateway, entry, free_ports, gateway, wait_until
from tests.servers.broken import half, html
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upstreams")


def start(directory: Path, *servers: dict[str, Any]) -> Any:
    return gateway(directory, list(servers), "--refresh-interval=200ms", envoy=False)


def tools(running: Gateway) -> list[str]:
    with Client(running.broker_url) as client:
        return client.tools()


def page(cursor: str | None, following: str | None) -> str:
    result: dict[str, Any] = {"tools": [tool(f"t{cursor or 0}")]}
    return json.dumps(result | ({"nextCursor": following} if following else {}))


@pytest.mark.duty("list.upstream-pages")
def test_all_pages_are_read(one: ScriptedServer, directory: Path) -> None:
    one.raw_list = lambda cursor: page(cursor, str(int(cursor or 0) + 1) if int(cursor or 0) < 4 else None)
    with start(directory, entry("ns/one", one.url)) as running:
        assert tools(running) == ["t0", "t1", "t2", "t3", "t4"]


@pytest.mark.duty("list.upstream-pages")
def test_a_cursor_that_loops_is_cut_and_said_so(one: ScriptedServer, directory: Path) -> None:
    one.raw_list = lambda cursor: page(cursor, "1" if cursor != "1" else "2" if cursor == "x" else "1")
    with start(directory, entry("ns/one", one.url)) as running:
        assert tools(running) == ["t0", "t1"]
        (cut,) = [bad for bad in running.server("ns/one")["invalid"] if not bad["name"]]
        assert "cursors repeat" in cut["reason"]


@pytest.mark.duty("list.upstream-pages")
def test_a_list_without_end_is_cut_and_said_so(one: ScriptedServer, directory: Path) -> None:
    many = [tool(f"n{number}") for number in range(3000)]
    one.raw_list = lambda cursor: json.dumps({"tools": many, "nextCursor": str(int(cursor or 0) + 1)})
    with start(directory, entry("ns/one", one.url)) as running:
        wait_until(lambda: running.server("ns/one")["tools"] == 3000)
        assert any("more than 10000" in bad["reason"] for bad in running.server("ns/one")["invalid"])


@pytest.mark.duty("list.invalid-left-out")
def test_invalid_tools_are_left_out_one_by_one(one: ScriptedServer, directory: Path) -> None:
    one.tools = [tool("good"), {"name": "no-schema"}, 5, tool(""), tool("good"), {"inputSchema": {}}]
    with start(directory, entry("ns/one", one.url, "p_")) as running:
        assert tools(running) == ["p_good"]
        assert len(running.server("ns/one")["invalid"]) == 5
        assert running.logged("WARN Tool left out .*no-schema.*inputSchema")


@pytest.mark.duty("list.as-written")
def test_tools_are_relayed_as_they_were_written(one: ScriptedServer, directory: Path) -> None:
    raw = '{"x-vendor":{"n":9007199254740993,"e":1e400},  "name":"odd","inputSchema":{"type":"object","$defs":{"a":-0.0}},"s":"\\ud800"}'
    one.raw_list = lambda _: f'{{"tools":[{raw}],"_meta":{{}}}}'
    with start(directory, entry("ns/one", one.url, "p_")) as running, Client(running.broker_url) as client:
        assert raw.replace('"odd"', '"p_odd"') in client.post("tools/list").text


@pytest.mark.duty("list.clash", "list.order")
def test_a_clash_is_won_by_the_earlier_server_in_any_order_of_arrival(
    one: ScriptedServer, two: ScriptedServer, directory: Path
) -> None:
    one.delay = 0.3
    with start(directory, entry("ns/one", one.url), entry("ns/two", two.url)) as running:
        wait_until(lambda: running.server("ns/one")["ready"])
        assert tools(running) == ["both", "one", "two"]
        assert running.server("ns/two")["conflicts"] == [{"kind": "tool", "name": "both", "owner": "ns/one"}]
        assert running.server("ns/one")["conflicts"] == []
        assert running.server("ns/two")["ready"]
        assert running.logged("another server owns its name.*ns/two.*both.*ns/one")


@pytest.mark.duty("list.server-gone")
def test_a_failing_server_keeps_its_tools_for_three_checks_and_comes_back(directory: Path, two: ScriptedServer) -> None:
    with ScriptedServer(tool("one")) as first:
        port = first.port
        with start(directory, entry("ns/one", first.url), entry("ns/two", two.url)) as running:
            first.stop()
            wait_until(lambda: not running.server("ns/one")["ready"])
            assert "one" in tools(running)
            wait_until(lambda: "one" not in tools(running))
            assert running.server("ns/one")["reason"] == "Unreachable"
            assert running.logged("WARN Tools removed until the server answers again")
            assert tools(running) == ["both", "two"]
            with ScriptedServer(tool("one"), port=port):
                wait_until(lambda: running.server("ns/one")["ready"])
                assert "one" in tools(running)


@pytest.mark.duty("list.refresh")
def test_a_changed_definition_is_found_by_the_next_check(one: ScriptedServer, directory: Path) -> None:
    one.offers_stream = False
    with start(directory, entry("ns/one", one.url)) as running, Client(running.broker_url) as client:
        one.tools = [tool("one", description="changed")]
        wait_until(lambda: "changed" in client.post("tools/list").text)


@pytest.mark.duty("status.what-went-wrong", "session.upstream-unsupported", "error.neighbours")
@pytest.mark.parametrize(
    ("break_it", "reason", "words"),
    [
        (lambda server: setattr(server, "status", 500), "HttpError", "HTTP 500"),
        (lambda server: setattr(server, "status", 401), "Unauthorized", "credential"),
        (lambda server: setattr(server, "status", 302), "Redirect", "redirects"),
        (lambda server: setattr(server, "version", "1999-01-01"), "UnsupportedVersion", "1999-01-01"),
        (lambda server: setattr(server, "raw_list", lambda _: "5"), "BadAnswer", "no object"),
        (lambda server: setattr(server, "raw_list", lambda _: "{}"), "BadAnswer", "tools"),
        (lambda server: setattr(server, "raw_list", lambda _: '{"tools":'), "BadAnswer", "Parse error"),
        (lambda server: server.answers.update({"initialize": html}), "BadAnswer", "text/html"),
        (lambda server: server.answers.update({"tools/list": half}), "BrokenOff", "broke off"),
        (lambda server: server.answers.update({"tools/list": endless}), "TooLarge", "16 MiB"),
        (lambda server: server.answers.update({"tools/list": odd_error}), "RpcError", "-32099 no tools"),
    ],
)
def test_what_a_server_can_do_wrong(
    one: ScriptedServer, two: ScriptedServer, directory: Path, break_it: Any, reason: str, words: str
) -> None:
    """Its own status says what, its neighbour serves on, and it is back when the cause is gone."""
    break_it(one)
    with start(directory, entry("ns/one", one.url), entry("ns/two", two.url)) as running:
        wait_until(lambda: running.server("ns/one")["reason"] == reason)
        assert words in running.server("ns/one")["message"]
        assert running.server("ns/two")["ready"]
        assert tools(running) == ["both", "two"]
        one.status, one.version, one.raw_list = None, None, None
        one.answers.clear()
        wait_until(lambda: running.server("ns/one")["ready"])
        assert tools(running) == ["both", "one", "two"]


def endless(handler: Any, _message: Any) -> bool:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()
    for _ in range(20):
        handler.wfile.write(b"data: " + b"x" * (1 << 20))
    return True


def odd_error(handler: Any, message: Any) -> bool:
    handler.send_json({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32099, "message": "no tools"}})
    return True


@pytest.mark.duty("ready.dead-servers")
def test_mute_and_dead_servers_hold_nobody_up(directory: Path) -> None:
    """Five refuse, five accept and never answer, ten are well: the well ones are listed at once."""
    well = [ScriptedServer(tool(f"t{number}")) for number in range(10)]
    mute = [ScriptedServer(tool("never")) for _ in range(5)]
    for server in mute:
        server.delay = 8
    servers = [entry(f"ns/dead{port}", f"http://127.0.0.1:{port}/mcp") for port in free_ports(5)]
    servers += [entry(f"ns/mute{server.port}", server.url) for server in mute]
    servers += [entry(f"ns/well{server.port}", server.url) for server in well]
    try:
        started = time.monotonic()
        with start(directory, *servers) as running:
            assert len(tools(running)) == 10
            assert time.monotonic() - started < 8, "nobody waited for the mute ones"
            assert sum(server["ready"] for server in running.status()["servers"]) == 10
    finally:
        for server in well + mute:
            server.stop()


@pytest.mark.duty("status.one-server", "ready.dead-servers")
def test_who_is_missing_is_named_and_shown(one: ScriptedServer, directory: Path) -> None:
    dead = entry("ns/dead", f"http://127.0.0.1:{free_ports(1)[0]}/mcp")
    with start(directory, entry("ns/one", one.url), dead) as running:
        assert running.readyz().json() == {"ready": True, "waitingFor": None, "serversNotReady": ["ns/dead"]}
        for name, reason in (("one", "Ready"), ("dead", "Unreachable")):
            shown = PLAIN.get(f"{running.admin}/status/ns/{name}")
            assert (shown.status_code, shown.json()["name"], shown.json()["reason"]) == (200, f"ns/{name}", reason)
        unknown = PLAIN.get(f"{running.admin}/status/ns/none")
        assert unknown.status_code == 404
        assert "'ns/none' not found" in unknown.json()["error"]
        assert "/status" in unknown.json()["error"]


@pytest.mark.duty("session.upstream-delete")
@pytest.mark.parametrize(("version", "told"), [("2025-06-18", "2025-06-18"), ("1999-01-01", "2025-11-25")])
def test_the_brokers_own_session_is_closed_in_a_version_that_was_spoken(
    one: ScriptedServer, directory: Path, version: str, told: str
) -> None:
    """In another one a server refuses it. One that nobody can use is closed, too."""
    one.version = version
    with start(directory, entry("ns/one", one.url)) as running:
        wait_until(lambda: one.calls("initialize"))
        if version == told:
            wait_until(lambda: running.server("ns/one")["ready"])
        running.sidecar.signal(signal.SIGTERM)
        running.sidecar.wait()
        deleted = [each.headers["mcp-protocol-version"] for each in one.requests if each.http == "DELETE"]
        assert set(deleted) == {told}
        assert not one.sessions


@pytest.mark.duty("transport.upstream-headers")
def test_the_brokers_own_requests_say_what_the_protocol_asks(one: ScriptedServer, directory: Path) -> None:
    one.version = "2025-06-18"
    with start(directory, entry("ns/one", one.url)) as running:
        wait_until(lambda: running.server("ns/one")["ready"] and one._streams)
        first, *others = [each for each in one.requests if each.http == "POST" and each.method != "server/discover"]
        assert first.method == "initialize"
        assert "mcp-session-id" not in first.headers
        assert {"notifications/initialized", "tools/list"} <= {each.method for each in others}
        for each in (first, *others):
            assert {"application/json", "text/event-stream"} <= set(each.headers["accept"].split(", "))
        listening = next(each for each in one.requests if each.http == "GET")
        assert "text/event-stream" in listening.headers["accept"]
        for each in (*others, listening):
            assert each.headers["mcp-session-id"] in one.sessions
            assert each.headers["mcp-protocol-version"] == "2025-06-18"


@pytest.mark.duty("config.credential-file", "security.credentials")
def test_credentials_from_a_file_are_read_again(one: ScriptedServer, directory: Path) -> None:
    secret = directory / "token"
    secret.write_text("Bearer first\n")
    with start(directory, entry("ns/one", one.url, credentialFile=str(secret))) as running:
        wait_until(lambda: running.server("ns/one")["ready"])
        assert one.calls("tools/list")[-1].headers["authorization"] == "Bearer first"
        secret.write_text("Bearer second\n")
        wait_until(lambda: one.calls("tools/list")[-1].headers["authorization"] == "Bearer second")
        secret.unlink()
        wait_until(lambda: running.server("ns/one")["reason"] == "BadCredential")
        assert "Bearer" not in running.sidecar.text


@pytest.mark.duty("call.ping")
def test_the_broker_itself_can_be_pinged_and_asked_nothing_else(one: ScriptedServer, directory: Path) -> None:
    with start(directory, entry("ns/one", one.url)) as running:
        wait_until(lambda: one._streams)
        for number, method in ((1, "ping"), (2, "sampling/createMessage")):
            data = json.dumps({"jsonrpc": "2.0", "id": number, "method": method})
            one._streams[-1].wfile.write(f"id: p\ndata:\n\ndata: {data}\n\n".encode())
        wait_until(lambda: len([each for each in one.requests if each.json.get("id") and not each.method]) == 2)
        replies = {each.json["id"]: each.json for each in one.requests if each.json.get("id") and not each.method}
        assert replies[1]["result"] == {}
        assert replies[2]["error"]["code"] == -32601
        assert running.server("ns/one")["ready"]


@pytest.mark.duty("session.capabilities")
def test_instructions_of_the_servers_reach_the_client(one: ScriptedServer, directory: Path) -> None:
    one.instructions = "Be kind."
    with start(directory, entry("ns/one", one.url, "k_")) as running, Client(running.broker_url) as client:
        assert client.initialized.json()["result"]["instructions"] == "Tools that start with k_:\nBe kind."


def test_a_call_that_goes_around_envoy_is_told_the_way(one: ScriptedServer, directory: Path) -> None:
    with start(directory, entry("ns/one", one.url)) as running, Client(running.broker_url) as client:
        assert "Envoy listener" in client.call("one").json()["error"]["message"]
        assert client.call("nope").json()["error"]["code"] == -32601
