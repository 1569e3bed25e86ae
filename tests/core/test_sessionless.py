"""Requests of the stateless era for servers of sessions, and their answers back."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.protocol import sessionless
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, Response, parse_message
from mcpgw_sidecar.protocol.jsontext import JsonTextError
from mcpgw_sidecar.protocol.sessionless import Sender
from mcpgw_sidecar.protocol.translation import UntranslatableError
from tests.property.test_laws import JSON

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
}
SERVER = "io.modelcontextprotocol/serverInfo"


def request(meta: Any = META, method: str = "tools/call", **params: Any) -> Request:
    text = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": meta}})
    message = parse_message(text)
    assert isinstance(message, Request)
    return message


def response(text: str) -> Response:
    message = parse_message(f'{{"jsonrpc":"2.0","id":"x",{text}}}')
    assert isinstance(message, Response)
    return message


def noted(method: str, **params: Any) -> Notification:
    message = parse_message(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))
    assert isinstance(message, Notification)
    return message


@pytest.mark.duty("era.pooled")
def test_who_sends_a_request() -> None:
    sender = sessionless.sender_of(request(META | {"progressToken": 1e5, "io.modelcontextprotocol/logLevel": "error"}))
    assert sender == Sender(
        JsonText('{"name": "c", "version": "1"}'), {"elicitation": {}}, "error", JsonText("100000.0"), None, {}
    )
    unknown = sessionless.sender_of(request({"io.modelcontextprotocol/clientInfo": 7, "progressToken": [1]}))
    assert (json.loads(unknown.info)["name"], unknown.capabilities, unknown.token) == ("unknown", {}, None)
    assert sessionless.sender_of(request(None)).level is None
    back = sessionless.sender_of(request(requestState="s", inputResponses={"q1": {"a": 1}, "q2": None}))
    assert (back.state, back.answers) == ("s", {"q1": '{"a": 1}', "q2": "null"})
    assert sessionless.sender_of(request(requestState=7, inputResponses=[])).state == ""
    long = {"name": "x" * 3000}
    huge = request(
        {"io.modelcontextprotocol/clientInfo": long, "io.modelcontextprotocol/clientCapabilities": {"roots": long}}
    )
    short = sessionless.sender_of(huge)
    assert (json.loads(short.info)["name"], short.capabilities) == ("unknown", {"roots": {}})
    twice = parse_message('{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{},"_meta":{}}}')
    assert isinstance(twice, Request)
    with pytest.raises(JsonTextError):
        sessionless.sender_of(twice)


@pytest.mark.duty("era.pooled")
def test_a_request_is_the_same_without_its_answers() -> None:
    first = sessionless.digest_of(request(name="a", arguments={"x": [1]}))
    assert first == sessionless.digest_of(request({}, arguments={"x": [1]}, name="a", requestState="s", inputResponses={}))
    others = (
        request(name="b", arguments={"x": [1]}),
        request(name="a"),
        request(name="a", arguments={"x": [1]}, method="m"),
    )
    assert first not in {sessionless.digest_of(each) for each in others}


@pytest.mark.duty("era.pooled")
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.dictionaries(st.text(max_size=4), JSON, max_size=3))
def test_a_request_keeps_what_is_the_servers(arguments: Any, more: Any) -> None:
    sent = request(META | more | {"progressToken": 7}, name="a", arguments=arguments)
    body = json.loads(sessionless.to_session(sent, "id", "token"))
    assert body["id"] == "id"
    params = json.loads(sent.text)["params"]
    assert body["params"] == params | {"_meta": {**more, "progressToken": "token"}}
    assert json.dumps(arguments) in sessionless.to_session(sent, "id", "token").decode()
    none = sessionless.to_session(request(None, name="a"), "id", "token")
    assert json.loads(none)["params"] == {"name": "a", "_meta": None}


@pytest.mark.duty("era.pooled")
@pytest.mark.parametrize(
    ("result", "method", "expected"),
    [
        ("{}", "tools/call", {"resultType": "complete"}),
        ('{"a":1}', "tools/call", {"resultType": "complete", "a": 1}),
        ('{"resultType":"x","_meta":{"m":1}}', "tools/call", {"resultType": "x", "_meta": {"m": 1}}),
        ("{}", "resources/read", {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}),
        ('{"ttlMs":5}', "resources/read", {"resultType": "complete", "ttlMs": 5, "cacheScope": "private"}),
        ('{"_meta":{}}', "prompts/get", {"resultType": "complete", "_meta": {}}),
    ],
)
def test_a_result_gets_what_its_era_has_besides(result: str, method: str, expected: dict[str, Any]) -> None:
    back = json.loads(sessionless.from_session(response(f'"result":{result}'), method, JsonText("7")))
    assert back["result"]["_meta"].pop(SERVER)["name"] == "mcpgw-sidecar"
    assert (back["id"], back["result"]) == (7, {"_meta": {}, **expected})


@pytest.mark.duty("era.pooled")
def test_results_and_errors_as_they_are() -> None:
    named = response(f'"result":{{"_meta":{{"{SERVER}":{{"name":"s"}}}}}}')
    assert json.loads(sessionless.from_session(named, "m", JsonText("1")))["result"]["_meta"] == {SERVER: {"name": "s"}}
    odd = json.loads(sessionless.from_session(response('"result":{"_meta":null}'), "m", JsonText("1")))
    assert odd["result"] == {"_meta": None, "resultType": "complete"}
    with pytest.raises(UntranslatableError):
        sessionless.from_session(response('"result":[]'), "m", JsonText("1"))
    unknown = '{"code":-32002,"message":"no","data":{"uri":"x"}}'
    for method, error, code in (
        ("resources/read", unknown, -32602), ("tools/call", unknown, -32002), ("resources/read", '{"code":-32000}', -32000),
    ):  # fmt: skip
        back = json.loads(sessionless.from_session(response(f'"error":{error}'), method, JsonText('"i"')))
        assert back["error"] == json.loads(error) | {"code": code}
    assert b'"error":7' in sessionless.from_session(response('"error":7'), "resources/read", JsonText("1"))


@pytest.mark.duty("era.pooled")
def test_what_a_client_hears() -> None:
    def hears(message: Notification, level: str | None = None, *, reports: bool = True) -> Any:
        sender = Sender(JsonText("{}"), {}, level, JsonText("9") if reports else None, None, {})
        text = sessionless.heard(message, "ours", sender)
        return text and json.loads(text)["params"]

    progress = noted("notifications/progress", progressToken="ours", progress=1)
    assert hears(progress) == {"progressToken": 9, "progress": 1}
    assert hears(progress, reports=False) is None
    assert hears(noted("notifications/progress", progressToken="other", progress=1)) is None
    assert hears(noted("notifications/progress", progress=1)) is None
    line = noted("notifications/message", level="warning", data="x")
    assert [hears(line, level) is not None for level in (None, "info", "warning", "error")] == [False, True, True, False]
    assert hears(noted("notifications/message", level="loud"), "debug") is None
    assert hears(noted("notifications/other"), "debug") is None
    assert sessionless.more_verbose("info", None)
    assert sessionless.more_verbose("debug", "info")
    assert not sessionless.more_verbose("info", "info")


@pytest.mark.duty("era.pooled")
def test_a_question_is_what_its_era_has_of_it() -> None:
    question = request({"x": 1}, "elicitation/create", message="é", elicitationId="e", task={})
    bare = parse_message('{"jsonrpc":"2.0","id":1,"method":"roots/list"}')
    assert isinstance(bare, Request)
    text = sessionless.input_required({"q1": question, "q2": bare}, JsonText('"s"'))
    asked = json.loads(text)
    assert asked.pop("_meta")[SERVER]["name"] == "mcpgw-sidecar"
    assert asked == {
        "resultType": "input_required",
        "inputRequests": {
            "q1": {"method": "elicitation/create", "params": {"message": "é"}},
            "q2": {"method": "roots/list", "params": {}},
        },
        "requestState": "s",
    }


@pytest.mark.duty("era.pooled")
def test_the_pages_that_a_call_needs_first() -> None:
    def found(error: str) -> list[str]:
        message = parse_message(f'{{"jsonrpc":"2.0","id":1,"error":{error}}}')
        assert isinstance(message, Response)
        return [each.text for each in sessionless.pages_of(message).values()]

    page = '{"mode":"url","url":"https://x","elicitationId":"e","message":"é"}'
    (text,) = found(f'{{"code":-32042,"message":"m","data":{{"elicitations":[{page}]}}}}')
    assert text == f'{{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{page}}}'
    many = ",".join([page] * 30)
    assert len(found(f'{{"code":-32042,"message":"m","data":{{"elicitations":[{many}]}}}}')) == sessionless.MAX_PAGES
    for other in (
        '{"code":-32603,"message":"m","data":{"elicitations":[{}]}}',
        '{"code":-32042,"message":"m","data":{"elicitations":{}}}',
        '{"code":-32042,"message":"m","data":{"elicitations":[1]}}',
        '{"code":-32042,"message":"m","data":{}}',
        '{"code":-32042,"message":"m","data":[1]}',
        '{"code":-32042,"message":"m"}',
    ):
        assert found(other) == []
    done = parse_message('{"jsonrpc":"2.0","id":1,"result":{}}')
    assert isinstance(done, Response)
    assert sessionless.pages_of(done) == {}
    asked = parse_message(text)
    assert isinstance(asked, Request)
    assert json.loads(sessionless.question_of(asked).params) == json.loads(page)


@pytest.mark.parametrize(
    ("answer", "is_accepted"),
    [('{"action":"accept"}', True), ('{"action":"decline"}', False), ("{}", False), ("7", False), (None, False)],
)
def test_what_a_user_says_to_a_page(answer: str | None, *, is_accepted: bool) -> None:
    assert sessionless.is_accepted(answer) == is_accepted
