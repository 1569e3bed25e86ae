from __future__ import annotations

import json

import pytest

from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.protocol.jsonrpc import (
    Malformed,
    Notification,
    Request,
    Response,
    error_text,
    notification_text,
    parse_message,
    request_text,
    result_text,
)


@pytest.mark.duty("call.id")
@pytest.mark.parametrize("ident", ["1", '"1"', "-5", "9007199254740993", "1.5", '"\\u00e9 x"', '""'])
def test_an_id_keeps_its_text(ident: str) -> None:
    message = parse_message(f'{{"jsonrpc":"2.0","id":{ident},"method":"ping"}}')
    assert isinstance(message, Request)
    assert message.id == ident
    assert result_text(message.id, b"{}") == f'{{"jsonrpc":"2.0","id":{ident},"result":{{}}}}'.encode()


def test_kinds_of_messages() -> None:
    assert isinstance(parse_message(b'{"jsonrpc":"2.0","method":"x","id":1,"params":{}}'), Request)
    assert isinstance(parse_message(b'{"jsonrpc":"2.0","method":"x"}'), Notification)
    assert isinstance(parse_message(b'{"jsonrpc":"2.0","id":1,"result":{}}'), Response)
    assert isinstance(parse_message(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}'), Response)


@pytest.mark.duty("error.malformed-400")
@pytest.mark.parametrize(
    ("body", "code", "ident"),
    [
        (b"", -32700, "null"),
        (b"{", -32700, "null"),
        (b"\xff\xfe", -32700, "null"),
        (b'{"a":NaN}', -32700, "null"),
        (b"[]", -32600, "null"),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, "null"),
        (b"5", -32600, "null"),
        (b'"x"', -32600, "null"),
        (b"{}", -32600, "null"),
        (b'{"id":3,"method":"ping"}', -32600, "3"),
        (b'{"jsonrpc":"1.0","id":"x","method":"ping"}', -32600, '"x"'),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, "null"),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, "null"),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600, "null"),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600, "1"),
        (b'{"jsonrpc":"2.0","id":1,"method":""}', -32600, "1"),
        (b'{"jsonrpc":"2.0","id":1}', -32600, "1"),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', -32600, "1"),
        (b'{"jsonrpc":"2.0","result":{}}', -32600, "null"),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32600, "null"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}', -32600, "null"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":[]}', -32602, "1"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{},"params":{}}', -32600, "null"),
    ],
)
def test_what_is_no_message(body: bytes, code: int, ident: str) -> None:
    message = parse_message(body)
    assert isinstance(message, Malformed)
    assert (message.code, message.id) == (code, ident)


def test_our_own_messages_are_messages() -> None:
    assert isinstance(parse_message(request_text("a", "initialize", '{"a":1}')), Request)
    assert isinstance(parse_message(notification_text("notifications/x")), Notification)
    assert isinstance(parse_message(notification_text("notifications/x", "{}")), Notification)
    assert error_text(JsonText("7"), 1, "m") == b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}'
    error = error_text(JsonText("7"), -32601, 'no "x"', {"name": "\ud800"})
    assert isinstance(parse_message(error), Response)
    assert json.loads(error)["error"] == {"code": -32601, "message": 'no "x"', "data": {"name": "\ud800"}}
