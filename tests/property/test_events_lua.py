"""Envoy's response filter, run by the LuaJIT that Envoy contains, against Python's own JSON."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from lupa.luajit21 import LuaRuntime

from mcpgw_sidecar.envoyfiles.scripts import messages
from mcpgw_sidecar.model.names import NULL, JsonText
from mcpgw_sidecar.protocol import owners
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, parse_message
from mcpgw_sidecar.protocol.owners import read_call, read_event_owner, read_owner
from tests.property.test_laws import JSON, TEXT

LUA = LuaRuntime(encoding=None)
LUA.execute(messages("").encode())
name_owner, name_owners = LUA.globals().name_owner, LUA.globals().name_owners
OWNER = b"ns/one:tick-et_"
IDS = st.integers() | TEXT


def renamed(message: str) -> Any:
    return json.loads(name_owner(message.encode("utf-8", "surrogatepass"), OWNER))


@pytest.mark.duty("ask.answer-returns", "ask.id-alone")
@given(IDS, TEXT, JSON, st.dictionaries(TEXT, JSON, max_size=3))
def test_a_request_names_its_server_and_the_id_comes_back(
    ident: Any, method: str, params: Any, more: dict[str, Any]
) -> None:
    more = {key: value for key, value in more.items() if key not in {"id", "method", "params"}}
    message = {**more, "jsonrpc": "2.0", "id": ident, "method": method, "params": params}
    text = renamed(json.dumps(message))
    owner = read_owner(text["id"])
    assert owner is not None
    assert (owner.server, owner.ticket) == ("ns/one", "tick-et_")
    assert json.loads(owner.id) == ident
    assert text == message | {"id": text["id"]}


@given(IDS, JSON, st.dictionaries(TEXT, JSON, max_size=3))
def test_answers_and_notifications_pass_as_they_came(ident: Any, value: Any, more: dict[str, Any]) -> None:
    more = {key: inner for key, inner in more.items() if key not in {"id", "method"}}
    for message in (
        {**more, "jsonrpc": "2.0", "id": ident, "result": value},
        {**more, "jsonrpc": "2.0", "method": "notifications/message", "params": value},
    ):
        text = json.dumps(message, ensure_ascii=True).encode()
        assert name_owner(text, OWNER) == text


@pytest.mark.duty("notify.server-cancelled")
@given(IDS)
def test_a_cancellation_names_what_it_cancels(ident: Any) -> None:
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"reason": "r", "requestId": ident}}
    owner = read_owner(renamed(json.dumps(message))["params"]["requestId"])
    assert owner is not None
    assert json.loads(owner.id) == ident


@given(st.binary(max_size=80))
def test_what_is_no_message_passes_as_it_came(body: bytes) -> None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or "method" not in value:
        line = b"data:" + body.replace(b"\n", b"").replace(b"\r", b"") + b"\n"
        assert name_owners(b"", line, OWNER) == (line, b"") or b'"method"' in line


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 300), max_size=6))
def test_bytes_come_out_in_their_order_however_they_are_cut(parts: list[bytes], cuts: list[int]) -> None:
    request = b'id: 7\ndata: {"jsonrpc":"2.0","id":1,"method":"ping"}\r\n\n'
    stream = b"\n".join(parts) + b"\r" + request
    whole, rest = name_owners(b"", stream, OWNER)
    out, held, edges = b"", b"", [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        done, held = name_owners(held, stream[start:end], OWNER)
        out += done
    assert (out, held) == (whole, rest)
    assert whole.endswith(
        b'id: mcpgw:ns/one:tick-et_:~~7\ndata: {"jsonrpc":"2.0","id":"mcpgw:ns/one:tick-et_:1","method":"ping"}\r\n\n'
    )


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_end_of_a_line(ending: bytes) -> None:
    line = b'data: {"jsonrpc":"2.0","id":1,"method":"ping"}' + ending + ending
    assert name_owners(b"", line, OWNER) == (line.replace(b'"id":1', b'"id":"mcpgw:ns/one:tick-et_:1"'), b"")


@pytest.mark.duty("ask.id-alone", "notify.server-cancelled")
@given(IDS, TEXT)
def test_the_sidecar_names_owners_as_envoy_does(ident: Any, method: str) -> None:
    for message in (
        {"jsonrpc": "2.0", "id": ident, "method": method or "m"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ident}},
        {"jsonrpc": "2.0", "method": "notifications/message", "params": {"requestId": ident}},
        {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"a": 1, "_meta": {"x": [], "progressToken": ident}}},
        {"method": "m", "params": {"_meta": {"progressToken": ident, "y": {}}}, "id": ident, "jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"_meta": 5, "progressToken": ident}},
        {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"_meta": {"x": 1}}},
        {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"_meta": dict.fromkeys(map(str, range(1001)))}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {}},
    ):
        text = json.dumps(message)
        parsed = parse_message(text)
        assert isinstance(parsed, Request | Notification)
        ours = owners.name_owner(parsed, OWNER.decode())
        assert json.loads(ours) == renamed(text)


def test_a_request_that_is_no_utf8_is_named_too() -> None:
    line = b'data:{"id":7,"method":"elicitation/create","params":{"message":"gr\xfc\xdfe"}}\n'
    assert name_owners(b"", line, OWNER) == (line.replace(b'"id":7', b'"id":"mcpgw:ns/one:tick-et_:7"'), b"")


def test_a_line_over_the_limit_passes_as_it_came() -> None:
    line = b'data: {"jsonrpc":"2.0","id":1,"method":"x","params":"' + b"y" * (2 << 20)
    assert name_owners(b"", line, OWNER) == (line, b"")


@pytest.mark.parametrize(
    "ident",
    [
        "x",
        "mcpgw:",
        "mcpgw:a",
        "mcpgw::1",
        "mcpgw:a:t",
        "mcpgw:a:t:",
        "mcpgw:a:t:[1]",
        "mcpgw:a:t:x",
        'mcpgw:a:t:1,"x":2',
        "mcpgw:a:t: 1",
        "mcpgw::t:1",
        5,
        None,
        [1],
    ],
)
def test_other_ids_name_nobody(ident: object) -> None:
    assert read_owner(ident) is None


@pytest.mark.duty("resume.ids-unique", "resume.at-server")
@given(st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=("Cs",)), max_size=20))
def test_the_id_of_an_event_names_its_owner_and_comes_back(ident: str) -> None:
    line = f"id: {ident}\n".encode()
    text, held = name_owners(b"", line, OWNER)
    assert held == b""
    if not ident:
        assert text == line
        return
    spaced = ident.startswith(" ")
    owner = read_event_owner(text.decode().removeprefix("id: ").removesuffix("\n"))
    assert owner is not None
    assert (owner.server, owner.ticket, read_call(owner.id)) == ("ns/one", "tick-et_", (NULL, ident))
    assert not spaced or owner.id.startswith("~~ ")


@pytest.mark.duty("resume.at-server", "security.own-answer")
@given(
    st.integers() | st.text(st.characters(blacklist_categories=("Cs",)), max_size=90),
    st.sampled_from(["7", "~36~x", "~~", ""]),
)
def test_the_id_of_an_event_says_whose_stream_it_is_in(call: Any, event_id: str) -> None:
    ident = json.dumps(call)
    text, _ = name_owners(b"", f"id: s{event_id}\n".encode(), OWNER, None, ident.encode())
    if len(ident) > 256:
        assert text == b"", "it cannot be resumed"
        return
    owner = read_event_owner(text.decode().removeprefix("id: ").removesuffix("\n"))
    assert owner is not None
    assert read_call(owner.id) == (ident, f"s{event_id}")


def test_what_a_client_made_up_is_no_call() -> None:
    for text in ("~zz~1", "~", "~6e756c6c~1", "~7b7d~1", "~352c~1", "~ff~1"):
        call, _ = read_call(JsonText(text))
        assert call == NULL


@pytest.mark.duty("notify.client-progress")
@pytest.mark.parametrize("token", [1, "t", 9007199254740993])
def test_progress_of_the_client_names_the_server_that_asked(token: Any) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {"_meta": {"progressToken": token}}}
    owner = read_owner(renamed(json.dumps(message))["params"]["_meta"]["progressToken"])
    assert owner is not None
    assert json.loads(owner.id) == token
