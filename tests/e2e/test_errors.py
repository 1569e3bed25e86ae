"""Each bad input of interface.md's error table, through a real Envoy.

The answer is a clear error with the client's own id, and nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.stack import (
    HEADERS,
    PLAIN,
    Client,
    Gateway,
    answer,
    entry,
    free_ports,
    gateway,
    succeeded,
    text_of,
    wait_until,
)
from tests.servers.scripted import ScriptedServer, tool

CALL = {"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": {"name": "s_echo"}}


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("echo")) as running:
        yield running


@pytest.fixture(scope="module")
def running(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}/mcp"
    servers = [entry("ns/one", server.url, "s_"), entry("ns/dead", dead, "d_")]
    options = ("--max-body=64KiB", "--call-timeout=1s", "--public-host=gw.example", "--allowed-origin=https://app.example")
    with gateway(tmp_path_factory.mktemp("errors"), servers, *options) as new_gateway:
        yield new_gateway


@pytest.fixture
def client(running: Gateway) -> Iterator[Client]:
    with running.client() as new_client:
        yield new_client


def error(response: httpx2.Response) -> tuple[int, int, Any]:
    body = response.json()
    assert body["jsonrpc"] == "2.0"
    assert body["error"]["message"]
    assert response.headers["content-type"] == "application/json"
    return response.status_code, body["error"]["code"], body["id"]


@pytest.mark.duty("error.tool-not-found", "call.id")
def test_an_unknown_tool(client: Client) -> None:
    response = client.call("s_nope", "x")
    assert error(response) == (200, -32601, "x")
    assert response.json()["error"] == {"code": -32601, "message": "Tool not found", "data": {"name": "s_nope"}}


@pytest.mark.duty("error.malformed-400")
@pytest.mark.parametrize(
    ("body", "code", "ident"),
    [
        ("", -32700, None),
        ("{", -32700, None),
        (b"\xff", -32700, None),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s_echo"}} trailing', -32700, None),
        ("[]", -32600, None),
        ('[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, None),
        ('"text"', -32600, None),
        ('{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        ('{"jsonrpc":"2.0","id":[1],"method":"ping"}', -32600, None),
        ('{"jsonrpc":"1.0","id":5,"method":"ping"}', -32600, 5),
        ('{"jsonrpc":"2.0","id":5}', -32600, 5),
        ('{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"x","name":"s_echo"}}', -32600, 5),
    ],
)
def test_not_json_or_not_one_message(client: Client, body: str | bytes, code: int, ident: object) -> None:
    assert error(client.send(body)) == (400, code, ident)


@pytest.mark.duty("error.params-32602")
@pytest.mark.parametrize("params", [{}, {"name": 5}, {"name": None}])
def test_a_call_without_a_name(client: Client, params: dict[str, Any]) -> None:
    assert error(client.post("tools/call", params, "n")) == (200, -32602, "n")


@pytest.mark.duty("session.missing-400")
def test_no_session(running: Gateway) -> None:
    for method in ("tools/call", "tools/list", "ping"):
        body = {"jsonrpc": "2.0", "id": 3, "method": method, "params": {"name": "s_echo"}}
        response = PLAIN.post(running.url, json=body, headers=HEADERS)
        assert error(response) == (400, -32000, 3)


@pytest.mark.duty("session.unknown-404", "session.id-unforgeable")
@pytest.mark.parametrize("method", ["tools/call", "tools/list"])
def test_an_unknown_expired_or_forged_session(client: Client, method: str) -> None:
    body = {"jsonrpc": "2.0", "id": "i", "method": method, "params": {"name": "s_echo"}}
    payload, _, tag = client.session.partition(".")
    for forged in ("nonsense", f"{payload}.{tag[::-1]}", f"{payload[:-1]}A.{tag}", payload, "x" * 9000):
        assert error(client.send(body, mcp_session_id=forged)) == (404, -32001, "i")
    client.http.delete(client.url, headers=client.headers)
    assert error(client.send(body)) == (404, -32001, "i")


@pytest.mark.duty("session.missing-400", "session.unknown-404")
def test_get_and_delete_need_a_session_too(running: Gateway) -> None:
    for ask in (httpx2.get, httpx2.delete):
        assert error(ask(running.url)) == (400, -32000, None)
        assert error(ask(running.url, headers={"mcp-session-id": "x"})) == (404, -32001, None)


@pytest.mark.duty("session.expired-404")
def test_a_session_that_expires(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        gateway(tmp_path_factory.mktemp("expiry"), [entry("ns/one", server.url, "s_")], "--session-lifetime=3s") as short,
        short.client() as client,
    ):
        wait_until(lambda: client.call("s_echo", "e").status_code == 404)
        response = client.call("s_echo", "e")
        assert error(response) == (404, -32001, "e")
        assert "expired" in response.json()["error"]["message"]


@pytest.mark.duty("transport.body-413")
def test_a_body_over_the_limit(client: Client) -> None:
    response = client.call("s_echo", data="x" * 70_000)
    assert error(response) == (413, -32600, None)
    assert "65536" in response.json()["error"]["message"]
    assert text_of(client.call("s_echo", data="x" * 60_000))


@pytest.mark.duty("error.unreachable")
def test_an_unreachable_server(client: Client, server: ScriptedServer, running: Gateway) -> None:
    """Refused when the session is opened, and refused by Envoy when the session is open already."""
    with ScriptedServer(tool("gone")) as going:
        running.write([entry("ns/one", server.url, "s_"), entry("ns/going", going.url, "g_")])
        wait_until(lambda: "g_gone" in client.tools())
        assert succeeded(client.call("g_gone"))
    response = client.call("g_gone", 'id "quoted"')
    assert error(response) == (200, -32000, 'id "quoted"')
    assert "ns/going" in response.json()["error"]["message"]
    assert response.json()["error"]["data"] == {"server": "ns/going", "reason": "Unreachable"}
    with running.client() as other:
        response = other.call("g_gone", 9007199254740993)
        assert error(response) == (200, -32000, 9007199254740993)
        assert "ns/going" in response.json()["error"]["message"]
    assert text_of(client.call("s_echo"))


@pytest.mark.duty("error.silent", "call.silence")
def test_a_server_that_is_too_slow(client: Client, server: ScriptedServer) -> None:
    def mute(handler: Any, _message: Any) -> bool:
        server._closing.wait(3)
        handler.close_connection = True
        return True

    assert succeeded(client.call("s_echo"))
    server.answers["tools/call"] = mute
    try:
        response = client.call("s_echo", 77)
    finally:
        del server.answers["tools/call"]
    assert error(response) == (200, -32000, 77)
    message = response.json()["error"]["message"]
    assert all(word in message for word in ("ns/one", "s_echo", "1 s"))


@pytest.mark.duty("call.progress-is-life")
def test_a_call_with_progress_may_last_longer_than_the_limit_of_silence(client: Client, server: ScriptedServer) -> None:
    def talk(handler: Any, message: Any) -> bool:
        notification = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        for _ in range(6):
            handler.wfile.write(f"data: {json.dumps(notification)}\n\n".encode())
            server._closing.wait(0.4)
        result = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": "late"}]}}
        handler.wfile.write(f"data: {json.dumps(result)}\n\n".encode())
        return True

    server.answers["tools/call"] = talk
    try:
        assert text_of(client.call("s_echo")) == "late"
    finally:
        del server.answers["tools/call"]


@pytest.mark.duty("error.unauthorized")
def test_a_server_that_refuses_the_clients_credentials(client: Client, server: ScriptedServer) -> None:
    server.status = 401
    try:
        response = client.call("s_echo", "a")
    finally:
        server.status = None
    assert error(response) == (200, -32000, "a")
    assert response.json()["error"]["data"] == {"server": "ns/one", "reason": "Unauthorized", "status": 401}
    assert "ns/one" in response.json()["error"]["message"]
    assert text_of(client.call("s_echo"))


def test_a_server_that_answers_nonsense(client: Client, server: ScriptedServer) -> None:
    def html(handler: Any, _message: Any) -> bool:
        handler.send(200, b"<html>", kind="text/html")
        return True

    server.answers["initialize"] = html
    try:
        response = client.call("s_echo", "h")
    finally:
        del server.answers["initialize"]
    assert error(response) == (200, -32000, "h")
    assert "text/html" in response.json()["error"]["message"]
    assert text_of(client.call("s_echo"))


@pytest.mark.duty("security.host-421", "security.origin-403")
def test_a_foreign_host_or_origin(client: Client) -> None:
    for message in (CALL, CALL | {"method": "ping"}):
        assert error(client.send(message, host="evil.example"))[:2] == (421, -32000)
        assert error(client.send(message, origin="http://evil.example"))[:2] == (403, -32000)
        assert client.send(message, host="gw.example").status_code == 200
        assert client.send(message, origin="http://localhost:6274").status_code == 200
        assert client.send(message, origin="https://app.example").status_code == 200


@pytest.mark.duty("header.forged", "security.fail-closed", "header.names")
def test_clients_cannot_say_what_only_the_router_says(client: Client, server: ScriptedServer) -> None:
    """The header that chooses a route, a server's Host and its path do not lead past the router."""
    before = len(server.requests)
    for method in ("ping", "tools/list"):
        response = client.send({"jsonrpc": "2.0", "id": 1, "method": method}, x_mcp_servername="ns/one")
        assert response.status_code == 200
    forged = {**client.headers, "x-mcp-servername": "ns/one"}
    assert client.http.delete(client.url, headers={**forged, "mcp-session-id": "x"}).status_code == 404
    assert client.http.get(client.url, headers={**forged, "mcp-session-id": "x"}).status_code == 404
    assert client.send(CALL, host=f"127.0.0.1:{server.port}", mcp_session_id="x").status_code == 404
    assert len(server.requests) == before
    client.send(CALL, x_mcp_servername="ns/dead", x_mcp_toolname="forged", x_mcp_method="forged", x_envoy_max_retries="9")
    arrived = server.calls("tools/call")[-1].headers
    assert arrived["x-mcp-servername"] == "ns/one"
    assert arrived["x-mcp-toolname"] == "s_echo"
    assert arrived["x-mcp-method"] == "tools/call"
    assert "x-envoy-max-retries" not in arrived


@pytest.mark.duty("transport.elsewhere")
def test_other_paths_and_methods(client: Client) -> None:
    elsewhere = client.url.replace("/mcp", "/other")
    assert client.http.get(elsewhere).status_code == 404
    response = client.http.post(elsewhere, json=CALL, headers=client.headers)
    assert error(response)[:2] == (404, -32600)
    assert client.http.put(client.url).status_code == 405


@pytest.mark.duty("error.method-32601", "list.cursor-32602", "error.params-32602")
def test_an_unknown_method_and_a_bad_cursor(client: Client) -> None:
    assert error(client.post("no/such", ident="m")) == (200, -32601, "m")
    assert error(client.post("tools/list", {"cursor": "nonsense"}, 4)) == (200, -32602, 4)
    assert error(client.post("tools/list", {"cursor": 5}, 4)) == (200, -32602, 4)
    assert error(client.post("initialize", {}, 4)) == (200, -32602, 4)
    assert error(client.post("initialize", {"protocolVersion": "2025-11-25", "capabilities": 5}, 4)) == (200, -32602, 4)


@pytest.mark.duty("transport.version-400", "session.era-fallback")
def test_a_version_of_the_other_era_is_told_what_is_spoken(client: Client) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "s_echo"}}
    response = client.send(message, mcp_protocol_version="2027-01-01")
    assert error(response) == (400, -32022, 1)
    assert {"2025-11-25", "2026-07-28"} <= set(response.json()["error"]["data"]["supported"])
    response = client.send(message, mcp_protocol_version="2026-07-28")
    assert error(response) == (400, -32602, 1), "its _meta is missing"
    response = client.send(message | {"method": "server/discover"}, mcp_protocol_version="2026-07-28")
    assert error(response) == (400, -32601, 1), "every SDK then initializes (interface.md)"
    assert "2025-11-25" in response.json()["error"]["message"]


@pytest.mark.duty("transport.media-415")
def test_a_wrong_content_type(client: Client) -> None:
    assert error(client.send({"jsonrpc": "2.0", "id": 1, "method": "ping"}, content_type="text/plain"))[:2] == (415, -32600)


@pytest.mark.duty("transport.get-406")
def test_a_get_that_does_not_want_events(client: Client) -> None:
    response = client.http.get(client.url, headers={**client.headers, "accept": "application/json"})
    assert error(response)[:2] == (406, -32600)


@pytest.mark.duty("session.version")
def test_an_initialize_that_asks_for_an_unknown_version_is_offered_ours(running: Gateway) -> None:
    with running.client(version="2030-01-01") as client:
        assert client.initialized.json()["result"]["protocolVersion"] == "2025-11-25"


@pytest.mark.duty("session.id-ascii")
def test_a_huge_client_info_still_gets_a_session(running: Gateway) -> None:
    with running.client() as client:
        big = {"name": "n" * 5000, "version": "1", "icons": [{"src": "data:" + "x" * 20_000}]}
        params = {
            "protocolVersion": "2025-11-25",
            "clientInfo": big,
            "capabilities": {"sampling": {}, "z": {"y": "x" * 9000}},
        }
        response = client.post("initialize", params)
        assert response.status_code == 200
        assert len(response.headers["mcp-session-id"]) < 8192
        session = {"mcp_session_id": response.headers["mcp-session-id"]}
        assert client.send(CALL, **session).status_code == 200


@pytest.mark.duty("call.name-alone")
def test_the_call_carries_what_it_was_given_byte_for_byte(client: Client, server: ScriptedServer) -> None:
    body = (
        '{ "jsonrpc":"2.0","params" : {"arguments":{"name":"s_echo","n":9007199254740993,"z":-0.0,"e":1e400,"s":"\\ud800",'
        '"a":1,"a":2}, "_meta":{"x":null},"name":"s_ech\\u006f","unknown":[1, 2]},"id":"\\u00e9", "method":"tools/call","x":0}'
    )
    client.send(body)
    assert server.calls("tools/call")[-1].body.decode() == body.replace('"name":"s_ech\\u006f"', '"name":"echo"')


@pytest.mark.duty("metrics.requests", "call.ping")
def test_metrics_count_what_went_wrong(client: Client, running: Gateway) -> None:
    client.call("s_nope")
    line = 'mcpgw_requests_total{method="tools/call",outcome="rpc_error",server="",tool=""}'
    assert running.metric(line.replace("{", r"\{").replace("}", r"\}")) >= 1
    client.call("s_echo")
    calls = r'mcpgw_requests_total\{method="tools/call",outcome="ok",server="ns/one",tool="s_echo"\}'
    assert wait_until(lambda: running.metric(calls) >= 1)
    assert json.dumps(running.status())
    assert answer(client.post("ping")) == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.duty("error.unreachable")
def test_a_gateway_is_no_server_of_its_own(tmp_path: Path) -> None:
    """It would list its own tools again and again, each time under a longer name."""
    with ScriptedServer(tool("greet")) as one, gateway(tmp_path, [entry("ns/one", one.url)]) as running:
        with running.client() as client:  # Envoy knows the list
            assert client.tools() == ["greet"]
        running.write([entry("ns/one", one.url), entry("ns/self", running.url, "self_")])
        wait_until(lambda: "leads to this gateway itself" in running.server("ns/self").get("message", ""))
        with running.client() as client:
            assert client.tools() == ["greet"]
