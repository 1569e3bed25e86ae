"""Servers and clients as they are in the field: what official SDKs forgive is forgiven here."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import quiet
from tests.e2e.stack import (
    CLIENT,
    HEADERS,
    PLAIN,
    PROGRAM,
    Client,
    Gateway,
    entry,
    environment,
    gateway,
    listening,
    succeeded,
    text_of,
    wait_until,
)
from tests.servers.scripted import ScriptedServer, tool

SERVER = "ns/one"
Answer = Any


def ready(running: Gateway) -> dict[str, Any]:
    return wait_until(lambda: (row := running.server(SERVER)) and row["ready"] and row, "the server is ready")


def raw(text: str, status: int = 200, kind: str = "application/json") -> Answer:
    """An answer of these bytes; `ID` stands for the id of the request."""

    def answer(handler: Any, message: Any) -> bool:
        handler.send(status, text.replace("ID", json.dumps(message.get("id"))).encode(), kind=kind)
        return True

    return answer


def result(text: str) -> str:
    return f'{{"jsonrpc":"2.0","id":ID,"result":{text}}}'


ERROR = '{"jsonrpc":"2.0","id":ID,"error":{"code":%d,"message":"no"}}'
TOOLS = '{"tools":[{"name":"one","inputSchema":{"type":"object"}}]}'


@pytest.mark.parametrize(
    "list_answer",
    [
        raw(ERROR % -32601),
        raw(ERROR % -32601, 400),
        raw(ERROR % -32603, 500),
        raw(ERROR % -32601, 404),
        raw("", 501),
        raw("oops", 500, "text/plain"),
        raw(result("{}")),
        raw(result('{"resourceTemplates":null}')),
        raw(result("null")),
        raw("{}"),
    ],
    ids=["-32601", "400", "500", "404", "501", "text", "no member", "null", "null result", "no message"],
)
def test_an_optional_list_that_fails_costs_its_server_that_list(
    one: ScriptedServer, tmp_path: Path, list_answer: Answer
) -> None:
    one.capabilities = {"tools": {}, "resources": {}}
    one.answers["resources/list"] = raw(result('{"resources":[{"uri":"a:b","name":"n"}]}'))
    one.answers["resources/templates/list"] = list_answer
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")], envoy=False) as running:
        row = ready(running)
        assert (row["tools"], row["resources"]) == (2, 1)
        assert "resources/templates/list" in row["invalid"][0]["reason"]


@pytest.mark.parametrize("after", [1, 2], ids=["the first lists", "later lists"])
def test_a_server_that_forgets_its_session_while_it_is_listed_loses_no_list(
    one: ScriptedServer, tmp_path: Path, after: int
) -> None:
    """Its 404 is no answer to the list: everybody lost its templates for a second."""
    listed = 0

    def lists(handler: Any, message: Any) -> bool:
        nonlocal listed
        listed += 1
        if listed == after:
            one.sessions.clear()
            return raw(ERROR % -32001, 404)(handler, message)
        return raw(result('{"resourceTemplates":[{"uriTemplate":"a:{x}","name":"n"}]}'))(handler, message)

    one.capabilities = {"tools": {}, "resources": {}}
    one.answers["resources/list"] = raw(result('{"resources":[]}'))
    one.answers["resources/templates/list"] = lists
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")], "--refresh-interval=300ms", envoy=False) as running:
        invalid = []
        while listed < after + 2:
            invalid += running.server(SERVER)["invalid"]
            quiet(0.01)
        assert (invalid, running.server(SERVER)["ready"]) == ([], True)
        assert not running.logged("MCP server failed")
        assert len(one.calls("initialize")) == 2


def test_a_server_without_tools_keeps_its_prompts(one: ScriptedServer, tmp_path: Path) -> None:
    one.capabilities = {"prompts": {}}
    one.answers["tools/list"] = raw(ERROR % -32601)
    one.answers["prompts/list"] = raw(result('{"prompts":[{"name":"p"}]}'))
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")], envoy=False) as running:
        row = ready(running)
        assert (row["tools"], row["prompts"]) == (0, 1)


@pytest.mark.parametrize(
    "listed",
    [
        result('{"tools":[{"name":"one","inputSchema":{"type":"object"}}],"nextCursor":""}'),
        result('{"tools":[{"name":"one","inputSchema":{"type":"object"}}],"nextCursor":null}'),
        "\ufeff" + result(TOOLS),
        f'{{"jsonrpc":"2.0","id":ID,"error":null,"result":{TOOLS}}}',
        result(
            '{"tools":[{"name":"one","title":null,"description":null,"annotations":null,"outputSchema":null,'
            '"inputSchema":{"type":"object"}}]}'
        ),
    ],
    ids=["empty cursor", "null cursor", "BOM", "error null", "null members"],
)
def test_small_deviations_of_a_list_cost_nothing(one: ScriptedServer, tmp_path: Path, listed: str) -> None:
    one.answers["tools/list"] = raw(listed)
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")], envoy=False) as running:
        row = ready(running)
        assert (row["tools"], row["invalid"]) == (1, [])
        assert len(one.calls("tools/list")) == 1
        broker = Client(running.broker_url)
        (shown,) = broker.post("tools/list").json()["result"]["tools"]
        assert shown == {"name": "a_one", "inputSchema": {"type": "object"}}, "strict clients refuse null"


@pytest.mark.parametrize("events", [
    "event: ping\ndata: 12:00\n\nevent: message\ndata: MESSAGE\n\n",
    'data: [{"jsonrpc":"2.0","method":"notifications/message","params":{}},MESSAGE]\n\n',
    "id: 1\ndata:\n\ndata: MESSAGE\n\n",
])  # fmt: skip
def test_events_of_all_kinds_are_read(one: ScriptedServer, tmp_path: Path, events: str) -> None:
    one.answers["tools/list"] = raw(events.replace("MESSAGE", result(TOOLS)), kind="text/event-stream")
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")], envoy=False) as running:
        assert ready(running)["tools"] == 1


def test_an_empty_session_id_is_none(one: ScriptedServer, tmp_path: Path) -> None:
    one.keeps_sessions = False

    def initialize(handler: Any, message: Any) -> bool:
        version = message["params"]["protocolVersion"]
        values = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
        handler.send_json({"jsonrpc": "2.0", "id": message["id"], "result": values}, [("mcp-session-id", "")])
        return True

    one.answers["initialize"] = initialize
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        assert succeeded(client.call("a_one"))
        assert "mcp-session-id" not in one.calls("tools/call")[0].headers


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_server_that_knows_no_notifications_is_used(one: ScriptedServer, tmp_path: Path, status: int) -> None:
    one.answers["notifications/initialized"] = raw("no", status, "text/plain")
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        assert succeeded(client.call("a_one"))


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_a_server_is_asked_with_the_version_of_its_client(one: ScriptedServer, tmp_path: Path, version: str) -> None:
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running:
        before = len(one.calls("initialize"))
        with Client(running.url, version=version) as client:
            assert succeeded(client.call("a_one"))
            (opened,) = one.calls("initialize")[before:]
            assert opened.json["params"]["protocolVersion"] == version
            assert one.calls("tools/call")[0].headers["mcp-protocol-version"] == version


def test_a_server_of_2024_is_used(one: ScriptedServer, tmp_path: Path) -> None:
    one.version = "2024-11-05"
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        assert running.server(SERVER)["protocolVersion"] == "2025-03-26"
        assert succeeded(client.call("a_one"))


@pytest.mark.parametrize("data", [{"supported": ["2025-03-26", "2025-06-18"]}, None], ids=["it says which", "it does not"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_server_that_refuses_a_version_is_asked_for_another(
    one: ScriptedServer, tmp_path: Path, status: int, data: Any
) -> None:
    def initialize(handler: Any, message: Any) -> bool:
        if message["params"]["protocolVersion"] == "2025-06-18":
            return False
        error = {"code": -32602, "message": "Unsupported protocol version", **({"data": data} if data else {})}
        handler.send(status, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        return True

    one.answers["initialize"] = initialize
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        assert succeeded(client.call("a_one"))
        asked = [call.json["params"]["protocolVersion"] for call in one.calls("initialize")]
        assert asked == ["2025-11-25", "2025-06-18"] * 2


def test_no_request_of_the_brokers_has_an_id_that_a_client_uses(one: ScriptedServer, tmp_path: Path) -> None:
    """A client's call with id 1 would get the broker's answer, or wait for ever."""
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        client.call("a_one")
        assert client.post("logging/setLevel", {"level": "debug"}).status_code == 200
        wait_until(lambda: one.calls("logging/setLevel"))
        own = [call.json["id"] for call in one.requests if "id" in call.json and call.method != "tools/call"]
        assert len(own) == len(set(own)) >= 4
        assert all(re.fullmatch(r"mcpgw-[0-9a-f]{16}", ident) for ident in own)


def test_a_session_costs_its_server_no_connection_of_its_own(one: ScriptedServer, tmp_path: Path) -> None:
    connections: list[socket.socket] = []

    def count(handler: Any, _message: Any) -> bool:
        if handler.connection not in connections:
            connections.append(handler.connection)
        return False

    one.answers["initialize"] = one.answers["notifications/initialized"] = count
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running:
        clients = [running.client() for _ in range(30)]
        for client in clients:
            assert succeeded(client.call("a_one"))
            client.close()
        assert len(connections) <= 6


def test_an_error_says_nothing_of_where_a_server_lives(one: ScriptedServer, tmp_path: Path) -> None:
    def redirect(handler: Any, _message: Any) -> bool:
        handler.send(302, b"", [("location", "http://10.1.2.3:99/secret?k=1")])
        return True

    dead = ScriptedServer(tool("dead"))
    servers = [entry(SERVER, one.url, "a_"), entry("ns/dead", dead.url, "d_")]
    with gateway(tmp_path, servers) as running, running.client() as client:
        dead.stop()
        one.answers["initialize"] = redirect
        for name in ("d_dead", "a_one"):
            response = client.call(name)
            assert "error" in response.json()
            assert not re.search(r"127\.0\.0\.1|10\.1\.2\.3|secret", response.text), response.text


def test_a_stream_that_breaks_off_is_no_success(one: ScriptedServer, tmp_path: Path) -> None:
    def breaks(handler: BaseHTTPRequestHandler, _message: Any) -> bool:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"7\r\n: one\n\n\r\n")
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        return True

    one.answers["tools/call"] = breaks
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        with pytest.raises(httpx2.HTTPError):
            client.call("a_one")
        outcome = 'mcpgw_requests_total{method="tools/call",outcome="broken",server="ns/one",tool="a_one"}'
        wait_until(lambda: running.metric(re.escape(outcome)) == 1)


def test_a_session_that_is_unknown_is_said_to_be(one: ScriptedServer, tmp_path: Path) -> None:
    """Some clients initialize again on -32001 alone."""
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        for method in ("tools/list", "tools/call"):
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "a_one"}}
            response = client.send(message, mcp_session_id="unknown")
            assert (response.status_code, response.json()["error"]["code"]) == (404, -32001)


def test_clients_of_another_era_find_their_way_to_initialize(one: ScriptedServer, tmp_path: Path) -> None:
    """Rust's client takes any error of the new era for a server of that era, and gives up."""
    version = {"mcp-protocol-version": "2026-07-28"}
    meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, httpx2.Client(trust_env=False) as http:
        for method, params in (("server/discover", {}), ("server/discover", meta)):
            for headers in ({}, version):
                body = {"jsonrpc": "2.0", "id": "d", "method": method, "params": params}
                response = http.post(running.url, json=body, headers=HEADERS | headers)
                assert (response.status_code, response.json()["error"]["code"], response.json()["id"]) == (400, -32601, "d")
        params = {"protocolVersion": "2099-01-01", "capabilities": {}, "clientInfo": CLIENT}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        response = http.post(running.url, json=body, headers=HEADERS | {"mcp-protocol-version": "2099-01-01"})
        assert response.json()["result"]["protocolVersion"] == "2025-11-25", "negotiated"


def test_null_params_are_none(one: ScriptedServer, tmp_path: Path) -> None:
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        assert client.send('{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}').status_code == 200
        assert client.send('{"jsonrpc":"2.0","method":"notifications/roots/list_changed","params":null}').status_code == 202
        error = client.send('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}').json()["error"]
        assert error["code"] == -32602


def test_http_1_0_is_accepted(one: ScriptedServer, tmp_path: Path) -> None:
    """nginx asks by it, unless it is told otherwise."""
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running:
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        head = "POST /mcp HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        with socket.create_connection(("127.0.0.1", running.ports["gateway"]), 10) as connection:
            connection.sendall((head % len(body)).encode() + body)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer.split(b" ", 2)[1] == b"400", answer  # no session id, and no 426


@pytest.mark.parametrize("header", ["mcp-method", "mcp-name", "mcp-param-x", "traceparent", "dpop", "authorization"])
def test_pages_may_send_what_sdks_send(one: ScriptedServer, tmp_path: Path, header: str) -> None:
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running:
        asked = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        response = PLAIN.request("OPTIONS", running.url, headers=asked)
        allowed = [each.strip() for each in response.headers["access-control-allow-headers"].split(",")]
        assert header in allowed or ("*" in allowed and header != "authorization")


def test_streams_say_how_long_to_wait_after_their_end(one: ScriptedServer, tmp_path: Path) -> None:
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        with client.http.stream("GET", client.url, headers=client.headers) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("id: ")
            assert next(lines) == "retry: 6000"
        with Client(running.url, version="2025-06-18") as older, listening(older) as heard:
            one.tools.append(tool("three"))
            one.notify("notifications/tools/list_changed")
            wait_until(lambda: heard)


def test_a_change_that_a_server_says_in_a_clients_session_alone_reaches_clients_at_once(
    one: ScriptedServer, tmp_path: Path
) -> None:
    with (
        gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running,
        Client(running.url, capabilities={"elicitation": {}}) as client,
        listening(client) as heard,
    ):
        client.call("a_one")
        session = one.calls("tools/call")[0].headers["mcp-session-id"]
        wait_until(lambda: any(get.headers["mcp-session-id"] == session for get in one.requests if get.http == "GET"))
        one.tools.append(tool("new"))
        one.notify("notifications/tools/list_changed", session)
        wait_until(lambda: [message for message in heard if message.get("method") == "notifications/tools/list_changed"])
        assert "a_new" in client.tools()


def test_a_tool_that_is_only_for_tasks_is_left_out_and_reported(one: ScriptedServer, tmp_path: Path) -> None:
    one.tools += [tool(word, execution={"taskSupport": word}) for word in ("required", "optional", "forbidden")]
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")]) as running, running.client() as client:
        listed = {each["name"]: each for each in client.post("tools/list").json()["result"]["tools"]}
        assert "a_required" not in listed
        assert not any("execution" in each for each in (listed["a_optional"], listed["a_forbidden"]))
        row = ready(running)
        assert "a task" in json.dumps(row)


@pytest.mark.parametrize("status", [400, 404])
def test_a_server_that_ends_idle_sessions_stays_ready(one: ScriptedServer, tmp_path: Path, status: int) -> None:
    def forgotten(handler: Any, message: Any) -> bool:
        return not one.knows(handler) and raw(ERROR % -32000, status)(handler, message)

    one.answers["tools/list"] = forgotten
    one.offers_stream = False
    with gateway(tmp_path, [entry(SERVER, one.url, "a_")], "--refresh-interval", "1s") as running:
        ready(running)
        one.sessions.clear()
        wait_until(lambda: len(one.calls("initialize")) == 2)
        lists = len(one.calls("tools/list"))
        wait_until(lambda: len(one.calls("tools/list")) > lists)
        assert running.server(SERVER)["ready"]
        assert not running.logged("MCP server failed")


@pytest.mark.duty("session.newest-credentials")
def test_a_stream_and_the_end_of_a_session_have_the_clients_newest_token(one: ScriptedServer, tmp_path: Path) -> None:
    """The server refuses streams with the token that opened the session, once it has expired."""
    valid = {"Bearer 1"}

    def expires(handler: Any, _message: Any = None) -> bool:
        if handler.headers.get("authorization") in {None, *valid}:
            return False
        handler.send(401, b'{"error":"expired"}')
        return True

    one.refuses = expires
    with gateway(tmp_path, [entry("ns/one", one.url, "a_", forwardHeaders=["authorization"])]) as running:
        client = Client(running.url, capabilities={"elicitation": {}}, authorization="Bearer 1")
        with client, listening(client) as heard:
            for _ in range(3):
                assert succeeded(client.call("a_one"))
            session = one.calls("tools/call")[-1].headers["mcp-session-id"]
            valid.clear()
            valid.add("Bearer 2")
            one.drop_streams()
            assert client.call("a_one").json()["error"]["data"]["reason"] == "Unauthorized"
            client.headers["authorization"] = "Bearer 2"
            assert succeeded(client.call("a_one"))
            assert one.calls("tools/call")[-1].headers["mcp-session-id"] == session, "it is the same session"
            wait_until(lambda: one.streams(session), "its stream is back")
            one.notify("notifications/message", session)
            wait_until(lambda: heard)
            client.headers["authorization"] = "Bearer 3"
            valid.add("Bearer 3")
            client.http.delete(client.url, headers=client.headers)
        wait_until(lambda: [each for each in one.requests if each.http == "DELETE"])
        assert [each for each in one.requests if each.http == "DELETE"][-1].headers["authorization"] == "Bearer 3"


@pytest.mark.duty("status.long-names")
def test_a_name_that_some_models_refuse_is_listed_and_told(one: ScriptedServer, tmp_path: Path) -> None:
    name = "a_" + "x" * 63
    one.tools.append(tool(name.removeprefix("a_")))
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running, running.client() as client:
        assert name in client.tools()
        warned = {"kind": "tool", "name": name, "reason": "65 characters; some models take 64"}
        assert running.server("ns/one")["warnings"] == [warned]
        assert running.logged(f"^WARN Tool has a long name.*{name}")
        command = [*PROGRAM, "status", "--admin-address", running.admin.removeprefix("http://")]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
        assert f"tool {name}: 65 characters" in shown
    config = tmp_path / "virtual.yaml"
    config.write_text(f"servers: []\nvirtualServers: [{{name: ns/v, tools: [{name}]}}]\n")
    checked = subprocess.run([*PROGRAM, "check", str(config)], capture_output=True, text=True, check=True, env=environment())
    assert f"virtual server ns/v: tool {name}: 65 characters" in checked.stderr


@pytest.mark.duty("session.discovery-timeout")
def test_a_server_that_takes_long_to_begin(one: ScriptedServer, tmp_path: Path) -> None:
    """Longer than the gateway's ten seconds: it is discovered, and opened for a client."""

    def slow(handler: Any, _message: Any) -> bool:
        handler.server_object._closing.wait(11)
        return False

    one.answers["initialize"] = slow
    slow_one = entry("ns/one", one.url, "a_", discoveryTimeout="30s")
    with gateway(tmp_path, [slow_one]) as running, running.client() as client:
        wait_until(lambda: running.server("ns/one")["ready"])
        assert text_of(client.call("a_one"))


@pytest.mark.duty("session.discovery-timeout")
def test_a_server_that_takes_longer_than_the_operator_allows(one: ScriptedServer, tmp_path: Path) -> None:
    one.delay = 2
    with gateway(tmp_path, [entry("ns/one", one.url)], "--discovery-timeout=500ms") as running:
        wait_until(lambda: running.server("ns/one")["reason"] == "Timeout")
        assert "did not answer initialize within 0.5 s" in running.server("ns/one")["message"]


def streamed(*messages: Any, crlf: bool = False, ends: bool = True) -> Answer:
    """An event stream with a notification, a request of the server's and the answer."""

    def answer(handler: Any, message: Any) -> bool:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        final = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": "x" * 200_000}]}}
        line = "\r\n" if crlf else "\n"
        for each in [*messages, *([final] if ends else [])]:
            handler.wfile.write(f"event: message{line}id: 5{line}data: {json.dumps(each)}{line}{line}".encode())
            handler.wfile.flush()
        handler.close_connection = True
        return True

    return answer


def strict(handler: Any, _message: Any) -> bool:
    """As the servers of the official SDKs: 406 to a client that does not name both types."""
    names = handler.headers.get("accept", "")
    if "application/json" in names and "text/event-stream" in names:
        return False
    own = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "Not Acceptable"}}
    handler.send(406, json.dumps(own).encode())
    return True


@pytest.mark.duty("transport.accept")
@pytest.mark.parametrize("accept", ["", "*/*", "application/json, */*;q=0.1", "application/*, text/*"])
def test_a_client_that_takes_everything_gets_its_calls_through(one: ScriptedServer, tmp_path: Path, accept: str) -> None:
    one.answers["tools/call"] = strict
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running, running.client(accept=accept) as client:
        for _ in range(3):
            assert succeeded(client.call("a_one"))
        before = running.metric(r'mcpgw_memo_lookups_total\{result="hit"\}')
        assert before > 0, "Envoy remembers what was decided of it"
        client.headers["accept"] = "application/json, text/event-stream"
        assert succeeded(client.call("a_one"))


@pytest.mark.duty("transport.accept")
@pytest.mark.parametrize("crlf", [True, False])
def test_a_client_that_takes_json_alone_gets_json(one: ScriptedServer, tmp_path: Path, crlf: bool) -> None:
    said = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
    asked = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running, running.client() as client:
        for _ in range(2):
            assert succeeded(client.call("a_one"))
        client.headers["accept"] = "application/json"
        one.answers["tools/call"] = strict
        assert succeeded(client.call("a_one"))
        one.answers["tools/call"] = streamed(said, asked, crlf=crlf)
        for _ in range(2):
            response = client.call("a_one", 7)
            assert (response.headers["content-type"], response.json()["id"]) == ("application/json", 7)
            assert text_of(response) == "x" * 200_000
        one.answers["tools/call"] = streamed(said, asked, crlf=crlf, ends=False)
        error = client.call("a_one", 8).json()
        assert (error["id"], error["error"]["data"]) == (8, {"server": "ns/one", "reason": "BrokenOff"})
        client.headers["accept"] = "application/json, text/event-stream"
        one.answers["tools/call"] = streamed(said)
        assert "event-stream" in client.call("a_one").headers["content-type"]


class Linking(ScriptedServer):
    """A server that can read URIs which it does not list: those that begin with `unlisted`."""

    def __init__(self, name: str, *listed: str, unlisted: str = "") -> None:
        super().__init__(tool(name))
        self.capabilities = {"tools": {}, "resources": {"subscribe": True}}
        self.unlisted, self.read = unlisted, list[str]()
        uris = [{"uri": uri, "name": uri} for uri in listed]
        self.answers["resources/list"] = self._answer({"resources": uris})
        self.answers["resources/templates/list"] = self._answer({"resourceTemplates": []})
        self.answers["resources/read"] = self._read
        self.answers["resources/subscribe"] = self._answer({})

    def _answer(self, value: dict[str, Any]) -> Answer:
        def answer(handler: Any, message: Any) -> bool:
            handler.result(message["id"], value)
            return True

        return answer

    def _read(self, handler: Any, message: Any) -> bool:
        uri = message["params"]["uri"]
        self.read.append(uri)
        if uri.startswith(self.unlisted) and self.unlisted:
            handler.result(message["id"], {"contents": [{"uri": uri, "text": str(self.port)}]})
        else:
            error = {"code": -32002, "message": "mine: no such resource"}
            handler.send_json({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return True


def read(client: Client, uri: str) -> Any:
    answered = client.post("resources/read", {"uri": uri}).json()
    return answered["result"]["contents"][0]["text"] if "result" in answered else answered["error"]


@pytest.mark.duty("resources.links")
def test_a_link_that_no_list_has_is_read_where_it_came_from(tmp_path: Path) -> None:
    with (
        Linking("one", "db://main/listed", unlisted="db://main/") as one,
        Linking("two", "db://other/x", unlisted="file:") as two,
        Linking("three", unlisted="db://main/") as three,
        gateway(tmp_path, [entry(f"ns/{name}", server.url, f"{name}_") for name, server in
                           (("one", one), ("two", two), ("three", three))]) as running,
        running.client() as client,
    ):  # fmt: skip
        wait_until(lambda: len(client.tools()) == 3)
        assert read(client, "db://main/row/7")["code"] == -32002, "nothing was called: nobody can have given it"
        assert succeeded(client.call("two_two"))
        assert read(client, "db://main/row/7")["message"] == "mine: no such resource", "the only one that was called"
        assert succeeded(client.call("one_one"))
        assert succeeded(client.call("three_three"))
        two.read.clear()
        assert read(client, "db://main/row/7") == str(one.port), "it lists URIs of that place"
        assert (two.read, three.read) == ([], [])
        assert read(client, "file:///tmp/x") == str(two.port), "the first that knows it"
        assert one.read[-1] == "file:///tmp/x"
        one.read.clear()
        assert read(client, "file:///tmp/x") == str(two.port)
        assert one.read == [], "it is remembered"
        assert read(client, "mailto:nobody")["code"] == -32002
        assert read(client, "mcpgw://ns%2Ftwo/file:///tmp/x")["code"] == -32002
        assert "result" in client.post("resources/subscribe", {"uri": "file:///tmp/x"}).json()
        assert two.calls("resources/subscribe")
        assert not one.calls("resources/subscribe")


@pytest.mark.duty("notify.after-listing")
@pytest.mark.parametrize("batch", [False, True], ids=["a call", "in a batch"])
def test_a_change_that_a_call_says_is_told_once_the_new_list_is_there(
    one: ScriptedServer, tmp_path: Path, batch: bool
) -> None:
    """On the call's own stream it would come before the gateway has listed the server again."""

    def grows(handler: Any, message: Any) -> bool:
        one.tools.append(tool("grown"))
        return streamed({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}, {"jsonrpc": "2.0", "method": "x"})(
            handler, message
        )

    one.offers_stream = False  # nothing else tells the gateway before a minute is over
    one.answers["tools/call"] = grows
    version = "2025-03-26" if batch else "2025-11-25"
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running:
        client = Client(running.url, version=version)
        with client, listening(client) as heard:
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one"}}
            answered = client.send([call] if batch else call).text
            assert '"x"' in answered, "other notifications pass"
            assert "list_changed" not in answered
            wait_until(lambda: any("tools/list_changed" in str(message) for message in heard))
            assert "a_grown" in client.tools()
            url = running.url.replace("/mcp", "/changed")
            assert client.http.post(url, headers={"x-mcp-servername": "ns/one"}).status_code == 404


@pytest.mark.duty("call.idle-connections")
def test_a_server_that_closes_idle_connections_without_a_word(one: ScriptedServer, tmp_path: Path) -> None:
    """As gunicorn does after two seconds: Envoy closes them before, so no call meets one."""
    one.idle = 2.0
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running, running.client() as client:
        for _ in range(2):
            assert succeeded(client.call("a_one"))
        time.sleep(2.5)
        assert one.idled == 0
        assert succeeded(client.call("a_one"))
