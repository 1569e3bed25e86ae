"""Parses JSON and notes the offsets of values.

So a name can be replaced, and every other byte stays.

Python's own C scanner reads the values (strict JSON: no NaN, no trailing data, checked escapes).
This module walks the members of objects, and notes where each value starts and ends. Numbers never
become integers: they are relayed as text, so their size does not matter.
"""

from __future__ import annotations

import gc
import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs; documented by its use in json.decoder
from typing import Any, NoReturn

import attrs

MAX_MEMBERS = 1000  # of a walked object: an envelope has six, and a walk of many delays every call
LONG = 1 << 17  # characters of a text that may hold very many values
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonTextError(ValueError):
    """The text is not one JSON value. The message says what is wrong, and at which character."""


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise JsonTextError(msg)


_scan_once = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]


@attrs.frozen(slots=True)
class Member:
    """One member of an object: key, value, and the offsets of the value (`text[start:end]`).

    `value` is the decoded value, or the list of members of an object that was walked.
    """

    key: str
    value: Any
    start: int
    end: int


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int) -> tuple[Any, int]:
    # The collector would look at a million small values again and again while they are made: that
    # takes six times as long as reading them, and no cycle is among them.
    is_collected = len(text) > LONG and gc.isenabled()
    if is_collected:
        gc.disable()
    try:
        return _scan_once(text, at)  # type: ignore[no-any-return]
    except StopIteration as stop:
        msg = f"a value is expected at character {stop.value}"
        raise JsonTextError(msg) from None
    except RecursionError:
        msg = "nested too deeply"
        raise JsonTextError(msg) from None
    except json.JSONDecodeError as error:
        msg = f"{error.msg} at character {error.pos}"
        raise JsonTextError(msg) from None
    finally:
        if is_collected:
            gc.enable()


def _members(text: str, at: int, into: frozenset[str]) -> tuple[list[Member], int]:
    """The members of the object whose `{` is at `at`, and the offset after its `}`."""
    members: list[Member] = []
    at = _space(text, at + 1)
    if text[at : at + 1] == "}":
        return members, at + 1
    while True:
        if text[at : at + 1] != '"':
            msg = f"a member name in double quotes is expected at character {at}"
            raise JsonTextError(msg)
        try:
            key, at = scanstring(text, at + 1, True)  # noqa: FBT003  # positional only in C: strict
        except json.JSONDecodeError as error:
            msg = f"{error.msg} at character {error.pos}"
            raise JsonTextError(msg) from None
        at = _space(text, at)
        if text[at : at + 1] != ":":
            msg = f"':' is expected at character {at}"
            raise JsonTextError(msg)
        start = _space(text, at + 1)
        if key in into and text[start : start + 1] == "{":
            value, at = _members(text, start, frozenset())
        else:
            value, at = _value(text, start)
        members.append(Member(key, value, start, at))
        if len(members) > MAX_MEMBERS:
            msg = f"an object with more than {MAX_MEMBERS} members"
            raise JsonTextError(msg)
        at = _space(text, at)
        char = text[at : at + 1]
        if char == "}":
            return members, at + 1
        if char != ",":
            msg = f"',' or '}}' is expected at character {at}"
            raise JsonTextError(msg)
        at = _space(text, at + 1)


def parse_object(text: str, *, into: frozenset[str] = frozenset()) -> list[Member]:
    """The members of the object that `text` is, in their order, with duplicates.

    An object under a key of `into` is walked too: its `Member.value` is a list of members. Raises
    JsonTextError.
    """
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        _value(text, at)
        msg = "an object is expected"
        raise JsonTextError(msg)
    members, at = _members(text, at, into)
    at = _space(text, at)
    if at != len(text):
        msg = f"extra data at character {at}"
        raise JsonTextError(msg)
    return members


def parse_array(text: str) -> list[str]:
    """The elements of the array that `text` is, each as its own text. Raises JsonTextError."""
    at = _space(text, 0)
    if text[at : at + 1] != "[":
        msg = "an array is expected"
        raise JsonTextError(msg)
    elements: list[str] = []
    at = _space(text, at + 1)
    if text[at : at + 1] == "]":
        return elements
    while True:
        _, end = _value(text, at)
        elements.append(text[at:end])
        at = _space(text, end)
        char = text[at : at + 1]
        if char == "]":
            return elements
        if char != ",":
            msg = f"',' or ']' is expected at character {at}"
            raise JsonTextError(msg)
        at = _space(text, at + 1)


def only(members: list[Member], key: str) -> Member | None:
    """The member with a key; None without one.

    Raises JsonTextError for two members, because either might count, and for one whose key differs
    in case alone: some JSON parsers take it for this one (Go's encoding/json, by Unicode folding).
    """
    folded = key.casefold()
    disguised = next((member.key for member in members if member.key != key and member.key.casefold() == folded), None)
    if disguised is not None:
        msg = f'member "{disguised[:80]}" is to be written "{key}"'
        raise JsonTextError(msg)
    matches = [member for member in members if member.key == key]
    if len(matches) > 1:
        msg = f'member "{key}" appears twice'
        raise JsonTextError(msg)
    return matches[0] if matches else None


def last(members: list[Member] | None, key: str) -> Member | None:
    """The last member with a key, as JSON parsers take it; None without one.

    For what a server says to its own client. What a client says has to be unambiguous: `only`.
    """
    return next((member for member in reversed(members or []) if member.key == key), None)


def dumps(value: Any) -> str:  # noqa: ANN401  # any JSON value
    """A value as compact JSON, in ASCII so that it fits into any header or log."""
    return json.dumps(value, separators=(",", ":"))
