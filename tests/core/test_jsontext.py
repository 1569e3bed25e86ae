from __future__ import annotations

import contextlib
import gc
import json

import pytest

from mcpgw_sidecar.protocol import jsontext
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps, only, parse_array, parse_object


def test_members_keep_order_duplicates_and_places() -> None:
    text = ' {"a" : 1 ,"b":"x\\"y","a":[{}]}\n'
    members = parse_object(text)
    assert [(member.key, text[member.start : member.end]) for member in members] == [
        ("a", "1"),
        ("b", '"x\\"y"'),
        ("a", "[{}]"),
    ]


def test_walks_into_the_keys_that_are_asked_for() -> None:
    text = '{"params":{"name":"n","q":{"name":"other"}},"z":{}}'
    params = parse_object(text, into=frozenset({"params"}))[0]
    assert [(member.key, text[member.start : member.end]) for member in params.value] == [
        ("name", '"n"'),
        ("q", '{"name":"other"}'),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "{}{}",
        "{} x",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        '{"a":1 "b":2}',
        "{'a':1}",
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":01}',
        '{"a":"\x01"}',
        '{"a\n":1}',
        '{"a":"\\q"}',
        '{"a":"',
        "{a:1}",
        "\ufeff{}",
        "{" + '"":0,' * 1001 + '"a":0}',
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_what_is_not_one_object_is_refused(text: str) -> None:
    with pytest.raises(JsonTextError):
        parse_object(text)


def test_every_prefix_of_an_object_is_refused() -> None:
    text = '{"jsonrpc":"2.0","id":"\\u00e9","params":{"a":[1,-0.0,true,null]}}'
    for end in range(len(text)):
        with pytest.raises(JsonTextError):
            parse_object(text[:end])
    assert parse_object(text)


@pytest.mark.parametrize("number", ["9007199254740993", "1e400", "-0.0", "1" * 5000])
def test_numbers_are_text_whatever_their_size(number: str) -> None:
    text = f'{{"n":{number}}}'
    member = parse_object(text)[0]
    assert text[member.start : member.end] == number


def test_lone_surrogates_pass() -> None:
    assert parse_object('{"a":"\\ud800"}')[0].value == "\ud800"


def test_array_elements_are_their_own_texts() -> None:
    assert parse_array(' [ {"a": 1} , 2,"x"] ') == ['{"a": 1}', "2", '"x"']
    assert parse_array("[]") == []


@pytest.mark.parametrize("text", ["{}", "[1", "[1,]", "[1 2]", ""])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(JsonTextError):
        parse_array(text)


def test_a_member_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(JsonTextError, match="twice"):
        only(parse_object('{"a":1,"\\u0061":2}'), "a")


def test_our_own_json_is_ascii_and_compact() -> None:
    assert dumps({"a": "é", "b": [1]}) == '{"a":"\\u00e9","b":[1]}'
    assert json.loads(dumps("\ud800")) == "\ud800"


@pytest.mark.parametrize("end", ["]}", "", "}", "]}x"])
def test_the_collector_is_on_again_after_a_long_text(end: str) -> None:
    text = '{"a":[' + "[]," * (jsontext.LONG // 3) + "[]" + end
    with contextlib.suppress(JsonTextError):
        assert parse_object(text)[0].start == 5
    assert gc.isenabled()
    gc.disable()
    try:
        with contextlib.suppress(JsonTextError):
            parse_object(text)
        assert not gc.isenabled()
    finally:
        gc.enable()
