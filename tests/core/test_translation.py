"""Messages of the stateful era in the words of the stateless one, and back."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from mcpgw_sidecar.catalog import mirrored
from mcpgw_sidecar.catalog.federation import federate_eras
from mcpgw_sidecar.catalog.items import Item, Unusable, read_item
from mcpgw_sidecar.catalog.offers import CAN_SUBSCRIBE, Discovered
from mcpgw_sidecar.extproc.codec import encode
from mcpgw_sidecar.model.decisions import Carry, HttpRequest, OpenSession, Reject
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TOOL, Kind
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionState
from mcpgw_sidecar.protocol import translation
from mcpgw_sidecar.protocol.jsonrpc import Request, Response, parse_message
from mcpgw_sidecar.protocol.jsontext import JsonTextError
from mcpgw_sidecar.protocol.translation import UntranslatableError
from mcpgw_sidecar.routing.stateful import decide_request

SESSION = Session(
    key="k", expires=1, protocol_version="2025-11-25", client_info=JsonText('{"name":"c"}'), capabilities=JsonText("{}")
)
VERSION = "io.modelcontextprotocol/protocolVersion"
NEW, OLD = ServerName("ns/new"), ServerName("ns/old")
TEXT = r'{"jsonrpc": "2.0","id" : 7, "method":"tools/call","params":{ "name":"t" ,"arguments": {"n":1e400,"ü":"é"}%s }}'


def request(text: str) -> Request:
    message = parse_message(text)
    assert isinstance(message, Request)
    return message


def sent(text: str, answers: str = "", envelope: str = '"x":1') -> dict[str, Any]:
    params: dict[str, Any] = json.loads(translation.to_stateless(request(text), "own", envelope, answers))["params"]
    return params


@pytest.mark.duty("era.translated")
def test_a_request_gets_an_envelope_and_keeps_its_bytes() -> None:
    before, after = TEXT[:70], ',"arguments": {"n":1e400,"ü":"é"}'
    text = translation.to_stateless(request(TEXT % ""), "own", '"x":1').decode()
    assert after in text
    assert text.startswith('{"jsonrpc": "2.0","id" : "own", "method":"tools/call","params":{ "name":"t" ')
    assert before[:16] == text[:16]
    assert sent(TEXT % "")["_meta"] == {"x": 1}


@pytest.mark.parametrize(
    ("meta", "there"),
    [
        ("{}", {"x": 1}),
        ("null", {"x": 1}),
        ('{"progressToken": 5 }', {"progressToken": 5, "x": 1}),
        ('{"io.modelcontextprotocol/logLevel":"debug", "a":[1] , "b":2}', {"a": [1], "b": 2, "x": 1}),
    ],
)
@pytest.mark.duty("era.translated")
def test_the_clients_own_meta_stays(meta: str, there: dict[str, Any]) -> None:
    assert sent(TEXT % f',"_meta": {meta}')["_meta"] == there
    before = '{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"_meta":%s,"name":"t"}}'
    assert sent(before % meta, '"requestState":"s"') == {"_meta": there, "name": "t", "requestState": "s"}


@pytest.mark.parametrize(
    "more", [',"_meta":{},"_meta":{}', ',"requestState":"mine"', ',"inputResponses":{}', ',"RequestState":1']
)
@pytest.mark.duty("era.translated")
def test_what_could_be_read_in_two_ways_is_refused(more: str) -> None:
    with pytest.raises(JsonTextError):
        sent(TEXT % more)


@pytest.mark.parametrize(
    ("declared", "can_ask", "capabilities"),
    [
        ({"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}}, False, {}),
        ({"roots": {"listChanged": True}, "sampling": {"tools": {}}}, True, {"roots": {}, "sampling": {"tools": {}}}),
        ({"elicitation": {}}, True, {"elicitation": {}}),
        ({"elicitation": {"form": {}, "url": {}}}, True, {"elicitation": {"form": {}}}),
        ({"elicitation": {"url": {}}}, True, {}),
        ({"extensions": {"a/b": {}}, "experimental": {"e": {}}, "tasks": {}}, False, {"extensions": {"a/b": {}}, "experimental": {"e": {}}}),
    ],
)  # fmt: skip
@pytest.mark.duty("era.translated")
def test_the_envelope_says_who_the_client_is(declared: Any, can_ask: bool, capabilities: Any) -> None:
    session = attrs.evolve(SESSION, capabilities=JsonText(json.dumps(declared)))
    said = translation.capabilities_of(json.loads(session.capabilities), can_ask=can_ask)
    meta = json.loads(f"{{{translation.envelope_of(session, 'warning', said)}}}")
    assert meta == {
        VERSION: "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/logLevel": "warning",
    }


@pytest.mark.duty("era.pooled")
def test_servers_of_sessions_may_send_a_user_to_a_page() -> None:
    declared = {"elicitation": {"url": {}}, "roots": {}}
    assert translation.capabilities_of(declared, can_ask=True, pages=True) == declared
    for mode, may in (('{"mode":"url"}', True), ('{"mode":"form"}', True), ('{"mode":"other"}', False)):
        assert translation.may_ask(translation.Question("q", "elicitation/create", JsonText(mode)), declared) is may
    only_forms: dict[str, object] = {"elicitation": {"form": {}}}
    assert not translation.may_ask(translation.Question("q", "elicitation/create", JsonText('{"mode":"url"}')), only_forms)


@pytest.mark.duty("era.translated")
def test_where_a_question_sends_the_user() -> None:
    def url(params: str, method: str = "elicitation/create") -> str | None:
        return translation.Question("q", method, JsonText(params)).url

    assert url('{"mode":"url","url":"http://x"}') == "http://x"
    nowhere = [
        '{"mode":"form","url":"http://x"}',
        '{"mode":"url"}',
        '{"mode":"url","url":7}',
        '{"a":1' + ',"b":1' * 1001 + "}",
    ]
    assert [url(params) for params in nowhere] == [None] * 4
    assert url('{"mode":"url","url":"http://x"}', "roots/list") is None


def answer(text: str) -> Response:
    message = parse_message(f'{{"jsonrpc":"2.0","id":"own",{text}}}')
    assert isinstance(message, Response)
    return message


def back(text: str, method: str = "tools/call") -> str:
    return translation.to_stateful(answer(text), method, JsonText("7")).decode()


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ('{"resultType":"complete", "content":[ {"n":1e400} ],"x":2}', '{"content":[ {"n":1e400} ],"x":2}'),
        ('{ "content":[] , "ttlMs":0,"cacheScope":"private","resultType":"other"}', '{"content":[]}'),
        ('{"structuredContent":[1],"content":[]}', '{"content":[]}'),
        ('{"structuredContent":{"a":1}}', '{"structuredContent":{"a":1}}'),
        ('{"_meta":{"io.modelcontextprotocol/serverInfo":{},"k":1}}', '{"_meta":{"k":1}}'),
        ('{"_meta":{"k": 1}}', '{"_meta":{"k": 1}}'),
        ('{"_meta":null}', '{"_meta":null}'),
        ("{}", "{}"),
    ],
)
@pytest.mark.duty("era.translated")
def test_an_answer_loses_what_its_era_does_not_have(result: str, shown: str) -> None:
    assert back(f'"result":{result}') == f'{{"jsonrpc":"2.0","id":7,"result":{shown}}}'


@pytest.mark.parametrize(
    ("error", "method", "shown"),
    [
        (
            '{"code":-32602,"message":"m","data":{"uri":"x"}}',
            "resources/read",
            '{"code":-32002,"message":"m","data":{"uri":"x"}}',
        ),
        ('{"code":-32602,"message":"m"}', "resources/read", '{"code":-32602,"message":"m"}'),
        ('{"code":-32602,"data":{"uri":"x"}}', "tools/call", '{"code":-32602,"data":{"uri":"x"}}'),
        ('"odd"', "resources/read", '"odd"'),
    ],
)
@pytest.mark.duty("era.translated")
def test_an_error_keeps_its_words(error: str, method: str, shown: str) -> None:
    assert back(f'"error":{error}', method) == f'{{"jsonrpc":"2.0","id":7,"error":{shown}}}'


@pytest.mark.duty("era.translated")
def test_no_result_is_no_success() -> None:
    many = ",".join(f'"{number}":1' for number in range(1001))
    for result in ("[1]", '[{"a":1}]', '"text"', f'{{"_meta":{{"io.modelcontextprotocol/serverInfo":{{}},{many}}}}}'):
        with pytest.raises(UntranslatableError):
            back(f'"result":{result}')


@pytest.mark.duty("era.translated")
def test_questions_are_read() -> None:
    assert translation.asked_in(answer('"result":{"resultType":"complete"}')) is None
    assert translation.asked_in(answer('"result":[{"resultType":"input_required"}]')) is None
    assert translation.asked_in(answer('"error":{}')) is None
    text = '"result":{"resultType":"input_required","requestState":"s\\u00e9","inputRequests":{"q":{"method":"roots/list"},"r":{"method":"m","params":{"a": 1}}}}'
    asked = translation.asked_in(answer(text))
    assert asked is not None
    assert [attrs.astuple(each) for each in asked.questions] == [("q", "roots/list", "{}"), ("r", "m", '{"a": 1}')]
    assert asked.answered({"q": '{"roots": []}'}) == '"inputResponses":{"q":{"roots": []}},"requestState":"s\\u00e9"'
    busy = translation.asked_in(answer('"result":{"resultType":"input_required"}'))
    assert busy is not None
    assert (busy.questions, busy.answered({})) == ((), "")


@pytest.mark.parametrize(
    ("method", "params", "capabilities", "may"),
    [
        ("elicitation/create", "{}", {"elicitation": {}}, True),
        ("elicitation/create", '{"mode":"form"}', {"elicitation": {"form": {}}}, True),
        ("elicitation/create", '{"mode":"url"}', {"elicitation": {}}, False),
        ("elicitation/create", '{"mode":"form","mode":"url"}', {"elicitation": {}}, False),
        ("elicitation/create", "{}", {"roots": {}}, False),
        ("roots/list", "{}", {"roots": {}}, True),
        ("tools/list", "{}", {"roots": {}, "sampling": {}}, False),
        ("roots/list", "{" + ",".join(f'"{number}":1' for number in range(1001)) + "}", {"roots": {}}, False),
    ],
)
@pytest.mark.duty("era.translated")
def test_who_may_be_asked_what(method: str, params: str, capabilities: Any, may: bool) -> None:
    assert translation.may_ask(translation.Question("q", method, JsonText(params)), capabilities) is may


@pytest.mark.parametrize(
    "requests",
    [
        '{"q":{}}', '{"q":{"method":1}}', '{"q":1}', "[]", '{"q":{"method":"roots/list","params":"text"}}',
        "{" + ",".join(f'"{number}":{{"method":"roots/list"}}' for number in range(21)) + "}",
    ],
)  # fmt: skip
@pytest.mark.duty("era.translated")
def test_unreadable_questions_are_a_fault_of_the_server(requests: str) -> None:
    with pytest.raises(UntranslatableError):
        translation.asked_in(answer(f'"result":{{"resultType":"input_required","inputRequests":{requests}}}'))


@pytest.mark.duty("era.translated")
def test_a_mismatch_of_headers_is_seen() -> None:
    assert translation.is_mismatch(answer('"error":{"code":-32020,"message":"m"}'))
    assert not translation.is_mismatch(answer('"error":{"code":-32602,"message":"m"}'))
    assert not translation.is_mismatch(answer('"result":{}'))


def annotated(**schema: Any) -> dict[str, Any]:
    return {"type": "string", "x-mcp-header": "Region", **schema}


@pytest.mark.parametrize(
    ("schema", "is_good"),
    [
        ({"properties": {"a": annotated()}}, True),
        ({"properties": {"a": {"properties": {"b": annotated(type="integer")}}}}, True),
        (
            {"properties": {"a": {"default": annotated()}}, "allOf": 5, "oneOf": [{}], "$defs": {"x": {}}, "items": True},
            True,
        ),
        ({"properties": {"a": annotated(**{"x-mcp-header": "no name"})}}, False),
        ({"properties": {"a": annotated(**{"x-mcp-header": 5})}}, False),
        ({"properties": {"a": annotated(type="number")}}, False),
        ({"properties": {"a": annotated(type=["string", "null"])}}, False),
        ({"properties": {"a": annotated(type={})}}, False),
        ({"properties": {"a": annotated(), "b": annotated(**{"x-mcp-header": "REGION"})}}, False),
        ({"properties": {"a": {"items": annotated()}}}, False),
        ({"properties": {"a": {"items": {"properties": {"b": annotated()}}}}}, False),
        ({"properties": {"a": {"anyOf": [{"properties": {"b": annotated()}}]}}}, False),
        ({"$defs": {"a": annotated()}}, False),
        (annotated(type="object"), False),
        (None, True),
    ],
)
@pytest.mark.duty("era.translated")
def test_annotations_of_headers(schema: Any, is_good: bool) -> None:
    assert (mirrored.fault_of(schema) is None) == is_good
    tool = read_item(TOOL, json.dumps({"name": "t", "inputSchema": {"type": "object", **(schema or {})}}), stateless=True)
    assert isinstance(tool, Item if is_good else Unusable)


@pytest.mark.duty("era.translated")
def test_a_deep_schema_costs_no_more_than_its_text() -> None:
    """A path of each of its thousand names would take a gigabyte; nobody looks below MAX_DEPTH."""
    schema: dict[str, Any] = {"properties": {f"n{number}": {} for number in range(10_000)}}
    for _ in range(300):
        schema = {"properties": {"a": schema}}
    schema["properties"]["b"] = annotated()
    assert mirrored.fault_of(schema) is None
    tool = json.dumps({"name": "t", "x": 1, "inputSchema": schema}).replace('"x": 1', f'"x": {"1" * 5000}')
    assert mirrored.headers_of(tool, '{"b":"c"}') == {"mcp-param-region": "c"}


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ('{"a":"eu","b":{"c":12345678901234567890123},"d":true,"e":1.0}', {"mcp-param-region": "eu", "mcp-param-n": "12345678901234567890123", "mcp-param-d": "true", "mcp-param-e": "1.0"}),
        ('{"e":1e400}', {"mcp-param-e": "1e400"}),
        ('{"a":"é","b":5,"d":false}', {"mcp-param-region": "=?base64?w6k=?=", "mcp-param-d": "false"}),
        ('{"a":null,"b":{"c":[1]}}', {}),
        ("[]", {}),
    ],
)  # fmt: skip
@pytest.mark.duty("era.translated")
def test_arguments_in_headers(arguments: str, headers: dict[str, str]) -> None:
    schema = {
        "properties": {
            "a": annotated(),
            "b": {"properties": {"c": annotated(type="integer", **{"x-mcp-header": "N"})}},
            "d": annotated(type="boolean", **{"x-mcp-header": "D"}),
            "e": annotated(type="integer", **{"x-mcp-header": "E"}),
        }
    }
    assert mirrored.headers_of(json.dumps({"name": "t", "inputSchema": schema}), arguments) == headers
    assert mirrored.headers_of('{"name":"t"}', arguments) == {}


def items(kind: Kind, *texts: dict[str, Any]) -> tuple[Item, ...]:
    read = [read_item(kind, json.dumps(text), stateless=True) for text in texts]
    return tuple(item for item in read if isinstance(item, Item))


SCHEMA = {"type": "object", "properties": {"a": annotated()}}
MODERN = Discovered(
    {
        TOOL.name: items(
            TOOL,
            {"outputSchema": {"type": "array"}, "name": "free", "inputSchema": SCHEMA},
            {"name": "bound", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"}},
        ),
        PROMPT.name: items(PROMPT, {"name": "p"}),
        RESOURCE.name: items(RESOURCE, {"uri": "x://1", "name": "r"}),
    },
    capabilities=frozenset({"tools", "resources", CAN_SUBSCRIBE}),
    protocol_versions=("2026-07-28",),
)
STATEFUL = Discovered({TOOL.name: items(TOOL, {"name": "here", "inputSchema": SCHEMA})}, protocol_versions=("2025-11-25",))
SERVERS = tuple(
    Server(name=name, url=f"http://{name}/mcp", hostname="h", tool_prefix=prefix)
    for name, prefix in ((NEW, "n_"), (OLD, ""))
)


def decided(method: str, **params: Any) -> Any:
    catalog = federate_eras(SERVERS, {OLD: STATEFUL, NEW: Discovered()}, {NEW: MODERN}).snapshot
    message = request(json.dumps({"jsonrpc": "2.0", "id": "i", "method": method, "params": params}))
    return decide_request(message, catalog, SessionState(session=SESSION, upstreams={}))


@pytest.mark.duty("era.translated")
def test_stateful_clients_see_servers_of_the_other_era() -> None:
    snapshot = federate_eras(SERVERS, {OLD: STATEFUL, NEW: Discovered()}, {NEW: MODERN}).snapshot
    assert snapshot.of(TOOL).keys == ("here", "n_bound", "n_free")
    assert "outputSchema" not in snapshot.of(TOOL).owned["n_free"].text, "clients of the SDK refuse the whole list"
    assert "outputSchema" in snapshot.of(TOOL).owned["n_bound"].text
    assert CAN_SUBSCRIBE in snapshot.capabilities
    assert snapshot.stateless is not None
    assert "outputSchema" in snapshot.stateless.of(TOOL).owned["n_free"].text


@pytest.mark.duty("era.translated")
def test_the_broker_carries_their_calls() -> None:
    call = decided("tools/call", name="n_free", arguments={"a": "eu"})
    assert isinstance(call, Carry)
    assert json.loads(call.text)["params"] == {"name": "free", "arguments": {"a": "eu"}}
    assert call.headers == {"mcp-method": "tools/call", "mcp-name": "free", "mcp-param-region": "eu"}
    assert (call.server.name, call.tool, call.id) == (NEW, "n_free", '"i"')
    bare = decided("tools/call", name="n_free")
    assert bare.headers == {"mcp-method": "tools/call", "mcp-name": "free"}
    read = decided("resources/read", uri="x://1")
    assert (read.headers, read.tool) == ({"mcp-method": "resources/read", "mcp-name": "x://1"}, "")
    complete = decided("completion/complete", ref={"type": "ref/prompt", "name": "n_p"}, argument={"name": "a", "value": ""})
    assert complete.headers == {"mcp-method": "completion/complete"}
    assert json.loads(complete.text)["params"]["ref"] == {"type": "ref/prompt", "name": "p"}
    assert isinstance(decided("tools/call", name="here"), OpenSession)
    twice = request(
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"n_free","arguments":{},"arguments":{"a":"b"}}}'
    )
    catalog = federate_eras(SERVERS, {OLD: STATEFUL, NEW: Discovered()}, {NEW: MODERN}).snapshot
    assert isinstance(decide_request(twice, catalog, SessionState(session=SESSION, upstreams={})), Reject)
    wanted = decided("resources/subscribe", uri="x://1")
    assert (wanted.server.name, wanted.method) == (NEW, "resources/subscribe")
    without = attrs.evolve(MODERN, capabilities=frozenset({"resources"}))
    catalog = federate_eras(SERVERS, {OLD: STATEFUL, NEW: Discovered()}, {NEW: without}).snapshot
    message = request('{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"x://1"}}')
    refused = decide_request(message, catalog, SessionState(session=SESSION, upstreams={}))
    assert isinstance(refused, Reject)
    assert refused.code == -32601


@pytest.mark.duty("era.translated")
def test_envoy_learns_what_is_called() -> None:
    """Limits and the operator's own filters see the tool, though the broker gets the call."""
    call = decided("tools/call", name="n_free", arguments={})
    response = encode(call, HttpRequest(headers={}, body=b""))
    options = response.request_body.response.header_mutation.set_headers
    assert {each.header.key: each.header.raw_value for each in options} == {
        "x-mcp-servername": b"mcpBroker",
        "x-mcp-method": b"tools/call",
        "x-mcp-toolname": b"n_free",
    }
    assert not response.request_body.response.HasField("body_mutation")
    own = encode(call, HttpRequest(headers={"x-mcp-size": "1"}, body=b""))
    options = own.request_body.response.header_mutation.set_headers
    assert {each.header.key: each.header.raw_value for each in options} == {
        "x-mcp-servername": b"ns/new",
        "x-mcp-carried": b"1",
        "x-mcp-method": b"tools/call",
        "x-mcp-toolname": b"n_free",
    }
