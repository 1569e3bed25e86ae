"""What could be read as two things is refused: keys in another case, charsets, repeated headers."""

from __future__ import annotations

import json

import pytest

from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import Malformed, Notification, parse_message
from mcpgw_sidecar.protocol.jsontext import JsonTextError, only, parse_object
from mcpgw_sidecar.protocol.relayed import rebuilt


@pytest.mark.parametrize("key", ["Method", "METHOD", "PARAMS", "param\u017f", "\u212aey", "ID", "\\u004dethod"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_member_in_another_case_is_refused(key: str, beside: bool) -> None:
    text = f'{{"jsonrpc":"2.0","id":1,"method":"ping","{key}":"x","key":1}}'
    if not beside:
        text = text.replace('"method":"ping",', "")
    if key == "\u212aey":
        with pytest.raises(JsonTextError):
            only(parse_object(text), "key")
        return
    message = parse_message(text)
    assert isinstance(message, Malformed)
    assert message.code == -32600


@pytest.mark.parametrize(
    ("kind", "encoding", "taken"),
    [
        ("application/json", "", True),
        ("Application/JSON; charset=UTF-8", "", True),
        ('application/json;charset="utf-8";', "", True),
        ("application/json; charset=utf-7", "", False),
        ("application/json; charset=utf-16", "", False),
        ("application/json; x=y", "", False),
        ("text/plain", "", False),
        ("application/json", "gzip", False),
        ("application/json", "identity", False),
    ],
)
def test_a_body_is_json_in_utf_8_and_nothing_else(kind: str, encoding: str, taken: bool) -> None:
    assert h.is_plain_json({"content-type": kind, "content-encoding": encoding}) is taken
    assert h.is_plain_json({})


def test_a_repeated_header_is_a_list() -> None:
    assert h.joined([("a", "1"), ("b", "2"), ("a", "3")]) == {"a": "1, 3", "b": "2"}


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (None, {h.JSON, h.EVENT_STREAM}),
        (" ", {h.JSON, h.EVENT_STREAM}),
        ("*/*;q=0.5", {h.JSON, h.EVENT_STREAM}),
        ("application/json, text/event-stream;q=0", {h.JSON}),
        ("application/json, text/event-stream; q=0.000", {h.JSON}),
        ("text/*", {h.EVENT_STREAM}),
        ("image/png", set()),
    ],
)
def test_what_a_client_accepts(accept: str | None, taken: set[str]) -> None:
    assert h.accepted(accept) == taken
    assert h.names_both(accept or "") is False
    assert h.names_both(h.BOTH)


def notification(method: str, params: object = None) -> Notification:
    message = parse_message(
        json.dumps({"jsonrpc": "2.0", "method": method, "x": 1} | ({"params": params} if params else {}))
    )
    assert isinstance(message, Notification)
    return message


def test_notifications_are_rebuilt_from_what_the_protocol_has() -> None:
    cancelled = notification("notifications/cancelled", {"requestId": 7, "reason": "\u00e9", "name": "danger"})
    assert json.loads(rebuilt(cancelled) or b"") == {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 7, "reason": "\u00e9"},
    }
    changed = rebuilt(notification("notifications/roots/list_changed"))
    assert json.loads(changed or b"") == {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    progress = rebuilt(notification("notifications/progress", {"progressToken": "x", "progress": 1}), {"progressToken": "5"})
    assert json.loads(progress or b"")["params"] == {"progressToken": 5, "progress": 1}
    for method in ("tools/call", "notifications/tools/list_changed", "notifications/x"):
        assert rebuilt(notification(method, {"name": "danger"})) is None
    with pytest.raises(JsonTextError):
        rebuilt(notification("notifications/cancelled", {"RequestId": 7}))
