"""The scanner of the route memo, in the LuaJIT that Envoy contains, against the router's parser.

Its result is the same, or it declines.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from lupa.luajit21 import LuaRuntime

from mcpgw_sidecar.envoyfiles.scripts import messages
from mcpgw_sidecar.protocol.envelope import META_CAPABILITIES, META_LEVEL, Envelope, check
from mcpgw_sidecar.protocol.extensions import UI
from mcpgw_sidecar.protocol.jsonrpc import METHOD_NOT_FOUND, Notification, Request, parse_message
from mcpgw_sidecar.protocol.jsontext import only
from mcpgw_sidecar.protocol.methods import ADDRESSED
from mcpgw_sidecar.protocol.versions import META_VERSION, STATELESS
from tests.property.test_laws import JSON, TEXT

LUA = LuaRuntime(encoding=None)
SEEN = "\nfunction shows() return shows_pages end\nfunction envoy_on_request"
LUA.execute(messages("").replace("\nfunction envoy_on_request", SEEN).encode())
scan = LUA.globals().scan
NAMES = st.sampled_from(["greet", "a.b/c", "größe", "with space", 'quo"te', "back\\slash", "", "\x7f", "\u2028"]) | TEXT
KEYS = st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "name", "arguments", "_meta", "n\u0061me"])
MARKS = '{}[]:,"\\0-'
WORDS = ["\\u00e9", "\\ud800", "01", "1.", "1e5", "1E+", "9" * 30, "true", "nul", "NaN", "é", "/*", '"name"', '"id"']
SPACES = ["\n", "\t", " ", "\x0b", "\x00", "\x7f", "\ufeff"]
PIECES = st.sampled_from([*MARKS, *WORDS, *SPACES, '"jsonrpc":"2.0"', '"method":"ping"'])


def agrees(body: bytes) -> bool:
    """Whether the scanner takes the body. What it takes, it reads as Python's parser does."""
    result = scan(body)
    if result is None:
        return False
    method, first, last, name, name_end = (*(result if isinstance(result, tuple) else (result,)), None, None, None, None)[:5]
    message = parse_message(body)
    assert isinstance(message, Request | Notification)
    assert message.method == method.decode()
    if isinstance(message, Request):
        assert body[first - 1 : last].decode() == message.id
    else:
        assert first is None
    if name is None:
        assert message.method not in ADDRESSED
        return True
    assert (message.method, isinstance(message, Request)) == ("tools/call", True)
    member = only(message.params or [], "name")
    assert member is not None
    assert body[name - 1 : name_end].decode() == member.value
    start, end = (len(message.text[:at].encode()) for at in (member.start, member.end))
    assert (name - 2, name_end + 1) == (start, end)
    return True


def dumped(value: Any, *, ascii_only: bool, indent: int | None) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")


@pytest.mark.duty("call.memo-same")
@given(
    st.sampled_from([1, -7, 2**70, 1.5, "x", "ü", 'a"b', "\x1f"]),
    st.sampled_from(["greet", "a.b/c-d_e", "größe", "with space"]),
    st.dictionaries(
        st.text(max_size=5), st.integers() | st.text(alphabet=st.characters(codec="utf-8"), max_size=9) | st.none()
    ),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)
def test_an_ordinary_call_is_taken(ident: Any, name: str, arguments: Any, ascii_only: bool, indent: int | None) -> None:
    params = {"name": name, "arguments": arguments, "_meta": {"progressToken": 1}}
    call = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    escaped = ascii_only and not name.isascii()
    assert agrees(dumped(call, ascii_only=ascii_only, indent=indent)) != escaped
    reordered = dict(reversed(call.items()))
    assert agrees(dumped(reordered, ascii_only=ascii_only, indent=indent)) != escaped


@pytest.mark.parametrize("method", ["initialize", "ping", "tools/list", "logging/setLevel", "notifications/initialized"])
def test_what_is_the_brokers_is_taken(method: str) -> None:
    for more in ({}, {"id": 3}, {"id": "x", "params": {"cursor": "c"}}):
        assert agrees(json.dumps({"jsonrpc": "2.0", "method": method, **more}).encode())


@pytest.mark.duty("call.memo-same")
@given(st.dictionaries(KEYS, JSON | TEXT), st.dictionaries(KEYS, JSON), NAMES, st.booleans())
def test_any_message_is_read_alike_or_declined(outer: Any, params: Any, name: str, ascii_only: bool) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", **outer, "params": {"name": name, **params}}
    agrees(dumped(call, ascii_only=ascii_only, indent=None))


@given(st.lists(st.integers(0, 200) | PIECES, max_size=4), st.integers(0, 200), st.integers(0, 6))
def test_damaged_calls_are_read_alike_or_declined(pieces: list[Any], at: int, cut: int) -> None:
    text = '{"jsonrpc": "2.0","id":1,"method":"tools/call","params":{"name":"greet","arguments":{"a":[1,-2.5e-3,"é\\n",null,{}]}}}'
    for piece in pieces:
        if isinstance(piece, int):
            at = piece
        else:
            text = text[:at] + piece + text[at + cut :]
    agrees(text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=60))
@example(b"\xef\xbb\xbf{}")
@example(b'{"jsonrpc":"2.0","method":"ping"}\x00')
def test_any_bytes_are_read_alike_or_declined(body: bytes) -> None:
    agrees(body)
    agrees(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"a":"%b"}}}' % body)
    agrees(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%b"}}' % body)


@pytest.mark.parametrize(
    "body",
    [
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}',
        '{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"a"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"params":{}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\\u0061me":"a","name":"b"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\u0061"}}',
        '{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"a"}}',
        '{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}',
        '{"jsonrpc":"1.0","id":1,"method":"tools/call","params":{"name":"a"}}',
        '{"id":1,"method":"tools/call","params":{"name":"a"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}',
        '{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"a"}}',
        '{"jsonrpc":"2.0","id":1,"result":{}}',
        '[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}} x',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":' + "[" * 120 + "]" * 120 + "}}",
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a",'
        + ",".join(f'"m{n}":1' for n in range(120))
        + "}}",
    ],
)
def test_what_is_not_plain_is_declined(body: str) -> None:
    assert not agrees(body.encode())


def test_the_stamps_are_closed_with_their_lua_state(tmp_path: Path) -> None:
    """Envoy makes a new state for each change of the listener."""
    path = tmp_path / "stamps"
    path.write_bytes(b"0123456789abcdef" * 2)
    gc.collect()  # the states of other tests
    opened = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        lua = LuaRuntime(encoding=None)
        source = messages(str(path))
        seen = source.replace(
            "\nfunction envoy_on_request", "\nopened_at, look = file_state, stamp\nfunction envoy_on_request"
        )
        lua.execute(seen.encode())
        for second in (1, 2):
            lua.globals().opened_at(second)
            assert lua.globals().look(1) == b"0123456789abcdef"
            assert not lua.globals().look(2), "behind its end"
        del lua
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == opened


VERSIONS = st.sampled_from(["2026-07-28", "2025-11-25", "2027-01-01", 7, None, "2026\u002d07-28"])
CAPABILITIES = st.sampled_from(
    [{}, {"extensions": {}}, {"extensions": {UI: {}}}, {"extensions": [UI]}, {"Extensions": {UI: 1}}, [], None, {UI: 1}]
)
META_KEYS = st.sampled_from(
    [
        META_VERSION,
        META_CAPABILITIES,
        META_LEVEL,
        "progressToken",
        META_VERSION.upper(),
        "io.modelcontextprotocol/\u017f",
        "x",
    ]
)
EDGES = st.sampled_from(["2026-07-28", "2025-11-25", "", "x"])
lua_is_of_era = LUA.eval(
    b"function(s, headers, version) return is_of_era(s, {get = function(_, name) return headers[name] end}, version) end"
)


@pytest.mark.duty("call.memo-same", "era.envelope")
@given(
    st.sampled_from(["tools/call", "tools/list", "server/discover", "ping"]),
    st.sampled_from(["greet", "größe"]),
    st.dictionaries(META_KEYS, JSON | VERSIONS | CAPABILITIES) | st.none(),
    VERSIONS,
    CAPABILITIES,
    st.dictionaries(st.sampled_from(["mcp-method", "mcp-name"]), st.sampled_from(["tools/call", "greet", "tools/list"])),
    EDGES,
    st.booleans(),
)
def test_an_envelope_is_read_alike_or_declined(
    method: str,
    name: str,
    more: Any,
    spoken: Any,
    capabilities: Any,
    wrong: dict[str, str],
    version: str,
    ascii_only: bool,
) -> None:
    meta = None if more is None else {META_VERSION: spoken, META_CAPABILITIES: capabilities} | more
    params = {"name": name, "_meta": meta} if method == "tools/call" else {"_meta": meta}
    body = dumped({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, ascii_only=ascii_only, indent=None)
    headers = {"mcp-protocol-version": version, "mcp-method": method, "mcp-name": name} | wrong
    if scan(body) is None:
        return
    encoded = LUA.table_from({key.encode(): value.encode() for key, value in headers.items()})
    is_taken = lua_is_of_era(body, encoded, version.encode())
    message = parse_message(body)
    assert isinstance(message, Request)
    checked = check(message, headers)
    if version not in STATELESS:
        is_modern = isinstance(meta, dict) and META_VERSION in meta
        assert not is_taken or not is_modern or not isinstance(meta[META_VERSION], str)
        return
    if is_taken:
        assert isinstance(checked, Envelope) or (checked.code == METHOD_NOT_FOUND and method == "ping")
        assert not isinstance(checked, Envelope) or checked.has_apps == bool(LUA.globals().shows())
    elif ascii_only is name.isascii() and not wrong and more == {}:
        assert not isinstance(checked, Envelope)
