"""The one ladder: each rung, and which of two failures wins."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.inbound.classify import MAX_BATCH, Batch, Inbound, classify
from mcpgw_sidecar.inbound.eras import Era
from mcpgw_sidecar.model.decisions import HttpRequest, Reject
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import JsonText, Scope, ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, Response
from tests.climb import DEFAULTS, GUARD

CATALOG: Snapshot = federate((), {}, (VirtualServer(name=VirtualName("ns/few"), tools=()),)).snapshot
SESSION = Session(key="k", expires=1, protocol_version="2025-11-25", client_info=JsonText("{}"), capabilities=JsonText("{}"))
LIVE = SessionState(session=SESSION, upstreams={})
BATCHING = SessionState(session=attrs.evolve(SESSION, protocol_version="2025-03-26"), upstreams={})
PING = '{"jsonrpc":"2.0","id":7,"method":"ping"}'
INITIALIZE = '{"jsonrpc":"2.0","id":7,"method":"initialize"}'
EVIL = {":authority": "evil.example"}
PAGE = {"origin": "http://evil.example"}
MODERN = {"mcp-protocol-version": "2026-07-28"}
NOBODY = {"x-mcp-virtualserver": "ns/none"}


def climb(body: str = PING, session: SessionState | SessionFault = LIVE, **headers: str) -> Inbound | Reject:
    sent = DEFAULTS | {name.replace("__", ":").replace("_", "-"): value for name, value in headers.items()}
    return climb_with(sent, body, session)


def climb_with(headers: dict[str, str], body: str = PING, session: SessionState | SessionFault = LIVE) -> Inbound | Reject:
    request = HttpRequest(headers=DEFAULTS | headers, body=body.encode())
    return classify(request, session, CATALOG, GUARD)


@pytest.mark.parametrize("http", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "session", "status", "code"),
    [
        (EVIL | PAGE | {":path": "/x"}, SessionFault.MISSING, 421, -32000),
        (PAGE | {":path": "/x"}, SessionFault.MISSING, 403, -32000),
        ({":path": "/x"} | MODERN, SessionFault.MISSING, 404, -32600),
        ({":path": "/mcp/ns/few"} | NOBODY | MODERN, SessionFault.MISSING, 400, -32600),
        (MODERN | NOBODY, SessionFault.MISSING, 400, -32022),
        (NOBODY, SessionFault.MISSING, 404, -32600),
        ({}, SessionFault.MISSING, 400, -32000),
        ({}, SessionFault.UNKNOWN, 404, -32001),
        ({}, SessionFault.EXPIRED, 404, -32001),
    ],
)
def test_every_method_climbs_the_same_rungs(
    http: str, headers: dict[str, str], session: SessionFault, status: int, code: int
) -> None:
    reject = climb_with({":method": http, **headers}, session=session)
    assert isinstance(reject, Reject)
    assert (reject.status, reject.code) == (status, code)
    body_is_read = http == "POST" and ":path" not in headers and ":authority" not in headers
    assert reject.method == ("ping" if http == "POST" else http), "it is counted with what was asked"
    assert reject.id == ("7" if body_is_read else "null")


@pytest.mark.parametrize("name", ["mcp-session-id", "mcp-protocol-version", "x-mcp-virtualserver"])
def test_a_header_that_is_there_twice_is_refused(name: str) -> None:
    reject = climb_with({":method": "POST", name: "a, b"})
    assert isinstance(reject, Reject)
    assert (reject.status, name in reject.message) == (400, True)


def test_a_refused_call_is_counted_with_its_server_and_tool() -> None:
    tool = read_item(TOOL, '{"name":"one","inputSchema":{"type":"object"}}')
    assert isinstance(tool, Item)
    server = Server(name=ServerName("ns/one"), url="http://one", hostname="one")
    catalog = federate((server,), {server.name: Discovered({"tool": (tool,)})}).snapshot
    for params, expected in (
        ('{"name":"one"}', ("tools/call", "ns/one", "one")),
        ('{"name":"one","name":"one"}', ("tools/call", "", "")),
        ('{"name":"two"}', ("tools/call", "", "")),
        ("5", ("", "", "")),
    ):
        body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}'.encode()
        request = HttpRequest(headers=DEFAULTS | {":authority": "evil.example"}, body=body)
        reject = classify(request, LIVE, catalog, GUARD)
        assert isinstance(reject, Reject)
        assert (reject.status, reject.method, reject.server, reject.tool) == (421, *expected)


@pytest.mark.parametrize("http", ["PUT", "HEAD", "OPTIONS", "PATCH"])
def test_other_methods_are_not_allowed(http: str) -> None:
    reject = climb_with({":method": http})
    assert isinstance(reject, Reject)
    assert (reject.status, reject.method) == (405, "")


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=utf-8", True),
        ("text/plain", False),
        ("", False),
        ("application/jsonx", False),
    ],
)
def test_a_body_is_declared_as_json(kind: str, taken: bool) -> None:
    climbed = climb_with({"content-type": kind})
    assert isinstance(climbed, Inbound) == taken
    assert isinstance(climbed, Inbound) or climbed.status == 415
    for http in ("GET", "DELETE"):
        assert isinstance(climb_with({":method": http, "content-type": kind}), Inbound)


@pytest.mark.parametrize(
    ("body", "code"),
    [("{", -32700), ("7", -32600), ("[]", -32600), (f"[{PING}]", -32600), ('{"jsonrpc":"2.0","id":7}', -32600)],
)
def test_a_body_is_one_message(body: str, code: int) -> None:
    for session in (LIVE, SessionFault.MISSING):
        reject = climb(body, session)
        assert isinstance(reject, Reject)
        assert (reject.status, reject.code) == (400, code)


@pytest.mark.parametrize(
    ("body", "kind", "method", "ident"),
    [
        (PING, Request, "ping", "7"),
        ('{"jsonrpc":"2.0","method":"notifications/initialized"}', Notification, "notifications/initialized", "null"),
        ('{"jsonrpc":"2.0","id":7,"result":{}}', Response, "", "null"),
    ],
)
def test_what_has_climbed_says_what_is_asked(body: str, kind: type, method: str, ident: str) -> None:
    inbound = climb(body, x_mcp_virtualserver="ns/few", mcp_protocol_version="2025-06-18")
    assert isinstance(inbound, Inbound)
    assert isinstance(inbound.message, kind)
    assert (inbound.method, inbound.id, inbound.era, inbound.session) == (method, ident, Era.STATEFUL, LIVE)
    assert inbound.scope == Scope(VirtualName("ns/few"))
    assert inbound.view is not CATALOG


def test_initialize_needs_no_session_and_gets_none() -> None:
    for session in (LIVE, SessionFault.MISSING, SessionFault.UNKNOWN):
        inbound = climb(INITIALIZE, session)
        assert isinstance(inbound, Inbound)
        assert inbound.session is None
    reject = climb_with(NOBODY, INITIALIZE, SessionFault.MISSING)
    assert isinstance(reject, Reject)
    assert (reject.status, reject.method, reject.id) == (404, "initialize", "7")


def test_a_batch_is_taken_from_the_version_that_has_them() -> None:
    inbound = climb(f" [{PING}, {PING}]", BATCHING)
    assert isinstance(inbound, Inbound)
    assert inbound.message == Batch((PING, PING))
    assert (inbound.method, inbound.id) == ("", "null")
    too_many = "[" + ",".join([PING] * (MAX_BATCH + 1)) + "]"
    bodies: list[tuple[Any, int]] = [("[]", -32600), (too_many, -32600), ("[7", -32700), ("[\udc80]", -32700)]
    for body, code in bodies:
        request = HttpRequest(headers=DEFAULTS, body=body.encode("utf-8", "surrogateescape"))
        reject = classify(request, BATCHING, CATALOG, GUARD)
        assert isinstance(reject, Reject), body
        assert (reject.status, reject.code) == (400, code)
    reject = climb_with(MODERN, f"[{PING}]", BATCHING)
    assert isinstance(reject, Reject)
    assert reject.code == -32022


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("text/event-stream", True),
        ("application/json, text/event-stream", True),
        ("*/*", True),
        ("text/*", True),
        ("application/json", False),
    ],
)
def test_a_stream_is_given_to_who_takes_one(accepted: str, taken: bool) -> None:
    climbed = climb_with({":method": "GET", "accept": accepted})
    assert isinstance(climbed, Inbound) == taken
    assert isinstance(climbed, Inbound) or (climbed.status, climbed.method) == (406, "GET")
    assert isinstance(climb_with({":method": "DELETE", "accept": accepted}), Inbound)


@pytest.mark.parametrize(
    ("method", "params", "stateless"),
    [
        ("server/discover", "{}", True),
        ("tools/list", '{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}', True),
        ("tools/list", '{"_meta":{"progressToken":1}}', False),
        ("tools/list", '{"_meta":7}', False),
        ("tools/list", "null", False),
    ],
)
def test_the_stateless_era_is_told_to_initialize(method: str, params: str, stateless: bool) -> None:
    body = f'{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}'
    for session in (LIVE, SessionFault.MISSING):
        reject = climb(body, session, mcp_protocol_version="2026-07-28" if stateless else "2025-11-25")
        if stateless:
            assert isinstance(reject, Reject)
            assert (reject.status, reject.code, reject.id, reject.method) == (400, -32601, "7", method)
        elif session is LIVE:
            assert isinstance(reject, Inbound)


def test_initialize_negotiates_whatever_the_header_says() -> None:
    for version in ("2025-06-18", "1999-01-01", ""):
        assert isinstance(climb(INITIALIZE, SessionFault.MISSING, mcp_protocol_version=version), Inbound)
