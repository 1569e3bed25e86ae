from __future__ import annotations

import json

import attrs
import pytest

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.model.decisions import Decision, Forward, HttpRequest, OpenSession, Reject, ToBroker
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState, UpstreamSession
from tests.climb import decide

SERVER = Server(name=ServerName("ns/one"), url="http://one.example/mcp?x=1", hostname="one.local", tool_prefix="test_")
SESSION = Session(key="k", expires=9, protocol_version="2025-11-25", client_info=JsonText("{}"), capabilities=JsonText("{}"))
UPSTREAM = UpstreamSession(id="up-1", protocol_version="2025-06-18", ticket="t1")
OPEN = SessionState(
    session=SESSION,
    upstreams={SERVER.name: UPSTREAM},
    opens=lambda server, ticket: UPSTREAM if (server, ticket) == (SERVER, "t1") else None,
)
FRESH = SessionState(session=SESSION, upstreams={})


def _snapshot(*names: str) -> object:
    tools = [read_item(TOOL, json.dumps({"name": name, "inputSchema": {"type": "object"}})) for name in names]
    return federate(
        (SERVER,), {SERVER.name: Discovered({"tool": tuple(tool for tool in tools if isinstance(tool, Item))})}
    ).snapshot


SNAPSHOT = _snapshot("greet", "größe")


def ask(body: str | bytes, session: SessionState | SessionFault = OPEN, **headers: str) -> Decision:
    data = body if isinstance(body, bytes) else body.encode()
    return decide(HttpRequest(headers={":path": "/mcp?q", **headers}, body=data), SNAPSHOT, session)  # type: ignore[arg-type]


def call(name: str, ident: str = "1", rest: str = "") -> str:
    return f'{{"jsonrpc":"2.0","id":{ident},"method":"tools/call","params":{{"name":{name}{rest}}}}}'


@pytest.mark.duty("call.name-alone", "session.upstream-version")
def test_only_the_name_is_exchanged() -> None:
    body = call('"test_greet"', "9007199254740993", ',"arguments":{"name":"test_greet", "n":1e400,"s":"\\ud800"},"_meta":{}')
    decision = ask(body)
    assert isinstance(decision, Forward)
    assert decision.body.decode() == body.replace('"name":"test_greet",', '"name":"greet",', 1)
    assert decision.id == "9007199254740993"
    assert (decision.server, decision.key, decision.session_id, decision.protocol_version) == (
        SERVER,
        "test_greet",
        "up-1",
        "2025-06-18",
    )


@pytest.mark.duty("call.name-alone")
@pytest.mark.parametrize("name", ['"t\\u0065st_greet"', '"test_greet"', '"test_gre\\u0065t"'])
def test_a_name_may_be_escaped(name: str) -> None:
    decision = ask(call(name))
    assert isinstance(decision, Forward)
    assert decision.body.decode() == call('"greet"')


def test_a_name_beyond_ascii_goes_as_its_server_writes_it() -> None:
    decision = ask(call('"test_größe"'))
    assert isinstance(decision, Forward)
    assert json.loads(decision.body)["params"]["name"] == "größe"


@pytest.mark.duty("call.name-alone")
def test_the_name_may_stand_behind_its_arguments() -> None:
    body = (
        '{"params":{"arguments":{"params":{"name":"x"}},"name":"test_greet"},"method":"tools/call","id":"q","jsonrpc":"2.0"}'
    )
    decision = ask(body)
    assert isinstance(decision, Forward)
    assert decision.body.decode() == body.replace("test_greet", "greet")


def test_duplicates_among_the_arguments_are_the_servers_business() -> None:
    body = call('"test_greet"', rest=',"arguments":{"a":1,"a":2}')
    decision = ask(body)
    assert isinstance(decision, Forward)
    assert b'{"a":1,"a":2}' in decision.body


def test_a_megabyte_of_arguments() -> None:
    body = call('"test_greet"', rest=',"arguments":{"data":"' + "é" * 500_000 + '"}')
    decision = ask(body)
    assert isinstance(decision, Forward)
    assert len(decision.body) == len(body.encode()) - len("test_")


@pytest.mark.duty("error.tool-not-found", "error.params-32602", "error.malformed-400")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (call('"nope"'), 200, -32601),
        (call('"greet"'), 200, -32601),
        (call('"test_"'), 200, -32601),
        (call("5"), 200, -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}', 200, -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call"}', 200, -32602),
        (call('"a","name":"test_greet"'), 400, -32600),
        (call('"a","n\\u0061me":"test_greet"'), 400, -32600),
        ("{", 400, -32700),
        ("[]", 400, -32600),
    ],
)
def test_refusals(body: str, status: int, code: int) -> None:
    decision = ask(body)
    assert isinstance(decision, Reject)
    assert (decision.status, decision.code) == (status, code)


@pytest.mark.duty("error.tool-not-found")
def test_an_unknown_tool_is_named() -> None:
    decision = ask(call('"nope"', '"x"'))
    assert decision == Reject(
        status=200, code=-32601, message="Tool not found", data={"name": "nope"}, id='"x"', method="tools/call"
    )  # type: ignore[arg-type]


@pytest.mark.duty("session.missing-400", "session.unknown-404", "session.expired-404")
@pytest.mark.parametrize(
    ("fault", "status"), [(SessionFault.MISSING, 400), (SessionFault.UNKNOWN, 404), (SessionFault.EXPIRED, 404)]
)
def test_without_a_session_nothing_is_called(fault: SessionFault, status: int) -> None:
    decision = ask(call('"test_greet"'), fault)
    assert isinstance(decision, Reject)
    assert (decision.status, decision.id) == (status, "1")


@pytest.mark.duty("session.upstream-own")
def test_a_first_call_opens_a_session_with_its_server() -> None:
    opens = OpenSession(server=SERVER, session=SESSION, id=JsonText("1"), method="tools/call", tool="test_greet")
    assert ask(call('"test_greet"'), FRESH) == opens
    read = '{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:"}}'
    assert isinstance(ask(read, FRESH), Reject), "nobody owns it"


@pytest.mark.parametrize("method", ["initialize", "tools/list", "ping", "x"])
def test_everything_else_is_the_brokers(method: str) -> None:
    body = f'{{"jsonrpc":"2.0","id":1,"method":"{method}"}}'
    assert ask(body) == ToBroker(method=method, id=JsonText("1"))
    without = ask(body, SessionFault.MISSING)
    if method == "initialize":
        assert without == ToBroker(method=method, id=JsonText("1"))
    else:  # the verdict that the broker would give
        assert isinstance(without, Reject)
        assert (without.status, without.id, without.method) == (400, "1", method)


def test_notifications_are_the_brokers() -> None:
    assert ask('{"jsonrpc":"2.0","method":"notifications/initialized"}') == ToBroker(method="notifications/initialized")


@pytest.mark.duty("ask.answer-returns", "ask.id-alone")
@pytest.mark.parametrize(("named", "raw"), [("7", "7"), ('\\"a:b\\"', '"a:b"'), ("9007199254740993", "9007199254740993")])
@pytest.mark.parametrize("content", ['"result":{"n":1e400}', '"error":{"code":-1,"message":"declined"}'])
def test_an_answer_goes_to_the_server_that_its_id_names(named: str, raw: str, content: str) -> None:
    decision = ask(f'{{"jsonrpc":"2.0", "id":"mcpgw:ns/one:t1:{named}",{content}}}')
    assert isinstance(decision, Forward)
    assert decision.body.decode() == f'{{"jsonrpc":"2.0", "id":{raw},{content}}}'
    assert (decision.server, decision.kind, decision.session_id, decision.owner) == (SERVER, None, "up-1", "ns/one:t1")


def test_an_answer_to_a_ping_of_the_broker_is_the_brokers() -> None:
    assert ask('{"jsonrpc":"2.0","id":"mcpgw-ping-0a-1","result":{}}') == ToBroker(
        method="", id=JsonText('"mcpgw-ping-0a-1"')
    )


@pytest.mark.duty("ask.nobody-waits-400")
@pytest.mark.parametrize(
    "ident", ["4", '"x"', '"mcpgw:ns/other:t1:1"', '"mcpgw:ns/one:t2:1"', '"mcpgw:ns/one:t1:[]"', '"mcpgw:ns/one:1"']
)
def test_an_answer_that_nobody_waits_for_is_refused(ident: str) -> None:
    decision = ask(f'{{"jsonrpc":"2.0","id":{ident},"result":{{}}}}')
    assert isinstance(decision, Reject)
    assert (decision.status, decision.code, decision.id) == (400, -32600, ident)


@pytest.mark.duty("ask.stranger-400", "session.unknown-404")
def test_an_answer_needs_a_session_here_and_its_ticket() -> None:
    answer = '{"jsonrpc":"2.0","id":"mcpgw:ns/one:t1:1","result":{}}'
    for session, status in ((SessionFault.MISSING, 400), (SessionFault.UNKNOWN, 404), (FRESH, 400)):
        decision = ask(answer, session)
        assert isinstance(decision, Reject)
        assert decision.status == status


def resume(event_id: str, session: SessionState | SessionFault = OPEN) -> Decision:
    return ask("", session, **{":method": "GET", "last-event-id": event_id})


@pytest.mark.duty("resume.at-server")
def test_a_stream_goes_on_at_the_server_that_its_last_event_names() -> None:
    decision = resume("mcpgw:ns/one:t1:7:a b")
    assert isinstance(decision, Forward)
    assert (decision.server, decision.session_id, decision.last_event_id, decision.body) == (SERVER, "up-1", "7:a b", b"")


@pytest.mark.duty("resume.own-alone")
@pytest.mark.parametrize("event_id", ["", "7", "mcpgw:ns/one:t2:7", "mcpgw:ns/other:t1:7", "mcpgw:ns/one:t1"])
def test_a_stream_that_no_server_goes_on_with_is_the_brokers(event_id: str) -> None:
    assert resume(event_id) == ToBroker(method="")
    refused = resume("mcpgw:ns/one:t1:7", SessionFault.UNKNOWN)
    assert isinstance(refused, Reject)
    assert (refused.status, refused.method) == (404, "GET")


@pytest.mark.duty("transport.version-400")
def test_a_version_that_is_not_spoken_here() -> None:
    decision = ask(call('"test_greet"'), **{"mcp-protocol-version": "2026-07-28"})
    assert isinstance(decision, Reject)
    assert (decision.status, decision.code, decision.id) == (400, -32022, "1")


def test_a_path_is_told_from_its_query() -> None:
    assert HttpRequest(headers={":path": "/mcp?q"}, body=b"").path == "/mcp"


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "rpc_error"), (503, "unavailable"), (504, "timeout"), (404, "rejected"), (502, "rejected")]
)
def test_a_rejections_word_in_the_metrics(status: int, outcome: str) -> None:
    assert Reject(status=status, code=-1, message="m").outcome == outcome


def test_when_a_server_has_moved() -> None:
    assert not SERVER.moved_from(attrs.evolve(SERVER, tool_prefix="other_"))
    assert SERVER.moved_from(attrs.evolve(SERVER, url="http://elsewhere.example/mcp"))
    assert SERVER.moved_from(attrs.evolve(SERVER, ca_file="/ca.pem"))


@pytest.mark.duty("batch.later-400")
def test_a_batch_is_the_brokers_in_the_version_that_has_them() -> None:
    batch, early = (
        "[" + call('"test_greet"') + "]",
        attrs.evolve(OPEN, session=attrs.evolve(SESSION, protocol_version="2025-03-26")),
    )
    assert ask(f" {batch}", early) == ToBroker(method="")
    for session in (OPEN, SessionFault.MISSING):
        decision = ask(batch, session)
        assert isinstance(decision, Reject)
        assert (decision.status, decision.code) == (400, -32600)
