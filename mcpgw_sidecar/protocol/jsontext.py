"""JSON as text with places, so that one name can be exchanged and every other byte stay as its author wrote it.

Python's own C scanner reads the values (strict JSON: no NaN, no trailing data, escapes checked); this module only walks
the members of objects around it and notes where each value starts and ends. Numbers are never turned into integers:
they are relayed as text, so their size does not matter.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs; documented by its use in json.decoder
from typing import Any, NoReturn

import attrs

MAX_MEMBERS = 1000  # of an object that is walked: an envelope has six; a body full of them would hold up every other call
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonTextError(ValueError):
    """Not one JSON value; the text says what is wrong and where (character offset)."""


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise JsonTextError(msg)


_scan_once = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]


@attrs.frozen(slots=True)
class Member:
    """One member of an object: its key, its value, and where the value stands (`text[start:end]`).

    `value` is the decoded value, except for an object that was walked into: then it is the list of its members.
    """

    key: str
    value: Any
    start: int
    end: int


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int) -> tuple[Any, int]:
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


def _members(text: str, at: int, into: frozenset[str]) -> tuple[list[Member], int]:
    """Members of the object whose `{` stands at `at`, and the offset behind its `}`."""
    found: list[Member] = []
    at = _space(text, at + 1)
    if text[at : at + 1] == "}":
        return found, at + 1
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
        found.append(Member(key, value, start, at))
        if len(found) > MAX_MEMBERS:
            msg = f"an object with more than {MAX_MEMBERS} members"
            raise JsonTextError(msg)
        at = _space(text, at)
        after = text[at : at + 1]
        if after == "}":
            return found, at + 1
        if after != ",":
            msg = f"',' or '}}' is expected at character {at}"
            raise JsonTextError(msg)
        at = _space(text, at + 1)


def parse_object(text: str, *, into: frozenset[str] = frozenset()) -> list[Member]:
    """Members of the one object that `text` is, in their order, duplicates included.

    Objects under a key of `into` are walked too: their `Member.value` is a list of members. Raises JsonTextError.
    """
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        _value(text, at)
        msg = "an object is expected"
        raise JsonTextError(msg)
    found, at = _members(text, at, into)
    at = _space(text, at)
    if at != len(text):
        msg = f"extra data at character {at}"
        raise JsonTextError(msg)
    return found


def parse_array(text: str) -> list[str]:
    """The elements of the one array that `text` is, each as its own text. Raises JsonTextError."""
    at = _space(text, 0)
    if text[at : at + 1] != "[":
        msg = "an array is expected"
        raise JsonTextError(msg)
    found: list[str] = []
    at = _space(text, at + 1)
    if text[at : at + 1] == "]":
        return found
    while True:
        _, end = _value(text, at)
        found.append(text[at:end])
        at = _space(text, end)
        after = text[at : at + 1]
        if after == "]":
            return found
        if after != ",":
            msg = f"',' or ']' is expected at character {at}"
            raise JsonTextError(msg)
        at = _space(text, at + 1)


def only(members: list[Member], key: str) -> Member | None:
    """The member of that key; None without one. Raises JsonTextError when there are two: which one counts is anybody's guess."""
    found = [member for member in members if member.key == key]
    if len(found) > 1:
        msg = f'member "{key}" stands there twice'
        raise JsonTextError(msg)
    return found[0] if found else None


def dumps(value: Any) -> str:  # noqa: ANN401  # any JSON value
    """Our own JSON, compact; ASCII only, so that it fits into any header or log."""
    return json.dumps(value, separators=(",", ":"))
