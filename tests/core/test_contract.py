"""What Python and Lua share stands in one place, and adds up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pytest
from lupa.luajit21 import LuaRuntime

from mcpgw_sidecar.envoy import contract
from mcpgw_sidecar.envoy.contract import prelude
from mcpgw_sidecar.envoy.entries import MEMO_FIELDS
from mcpgw_sidecar.envoy.routes import REPEATED
from mcpgw_sidecar.model import timeouts as t
from mcpgw_sidecar.protocol.methods import KNOWN, REPEATABLE

SOURCES = {path.name: path.read_text() for path in (files("mcpgw_sidecar.envoy") / "lua").iterdir()}
NAMES = set(re.findall(r"^local ([A-Z_]+) =", prelude(), re.MULTILINE))
NOT_OURS = {"401", "403", "200", "1", "id", "error"}  # values that a filter may write for a reason of its own


def code(source: str) -> str:
    return re.sub(r"--.*", "", source)


@pytest.mark.parametrize("name", SOURCES)
def test_no_filter_writes_a_value_of_the_contract(name: str) -> None:
    texts = {text for pair in re.findall(r"'([^'\n]*)'|\"([^\"\n]*)\"", code(SOURCES[name])) for text in pair if text}
    shared = {value for value in contract._SHARED.values() if isinstance(value, str)}
    listed = {each for value in contract._SHARED.values() if isinstance(value, tuple) for each in value}
    of_http = {
        ":path",
        ":authority",
        ":method",
        ":scheme",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "user-agent",
    }
    of_envoy = {"transfer-encoding", "x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-retriable-status-codes"}
    allowed = NOT_OURS | of_http | of_envoy
    assert texts & ((shared | listed) - allowed) == set()
    assert not [text for text in texts if "mcp" in text], "a name of ours"


def test_every_name_of_the_contract_is_used() -> None:
    used = set(re.findall(r"\b[A-Z][A-Z_]+\b", " ".join(map(code, SOURCES.values()))))
    assert used >= NAMES, "no filter uses it: take it out of envoy/contract.py"


def test_the_memo_reads_the_fields_of_an_entry() -> None:
    read = set(re.findall(r"\bentry\.(\w+)", SOURCES["memo.lua"])) | set(
        re.findall(r"\bquestion\.(\w+)", SOURCES["memo.lua"])
    )
    assert read == set(MEMO_FIELDS)


@pytest.mark.parametrize("path", ["", "/plain", "/é/with 'quotes' and \"these\"", "/back\\slash", "/new\nline"])
def test_a_prelude_is_lua(path: str) -> None:
    lua = LuaRuntime(encoding=None)
    values: Any = lua.execute(f"{prelude(path)}return STAMPS, {', '.join(sorted(NAMES - {'STAMPS'}))}".encode())
    assert values[0].decode() == path
    for name, value in zip(sorted(NAMES - {"STAMPS"}), values[1:], strict=True):
        expected = contract._SHARED[name] if name in contract._SHARED else getattr(contract, name, None)
        if name == "HEALING":
            expected = int(t.healing() * 1000)
        if isinstance(expected, Mapping):
            assert {key.decode(): each.decode() for key, each in value.items()} == expected
        elif isinstance(expected, tuple):
            assert tuple(each.decode() for each in value.values()) == expected
        else:
            assert (value.decode() if isinstance(value, bytes) else value) == expected


def test_whoever_waits_waits_longer_than_what_it_waits_for() -> None:
    for request in (t.REQUEST, 60.0):
        assert t.STORE + request + t.STORE + t.LISTEN == t.opening(request)
        assert t.opening(request) < t.decision(request) < t.router(request)
        assert request + t.opening(request) < t.healing(request)
    assert t.decision() > t.START
    assert t.CONNECT < t.REQUEST


def test_only_what_the_broker_may_do_twice_is_sent_again() -> None:
    assert {method for method in KNOWN if re.fullmatch(REPEATED, method)} == set(REPEATABLE)
