"""Finds the template that a URI was made from (RFC 6570), to find its owner.

It never expands a template.

A template is matched with sets of positions that its parts can reach, not with a regular
expression: templates come from servers and URIs from clients, and strangers could stop the process
with both in a backtracking engine. The cost is the length of the URI times the number of parts,
whatever they contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_BEYOND = frozenset("+#/?&")  # operators whose values may contain the end of a segment
_SEGMENT_END = re.compile(r"[/?#]")
MAX_EXPRESSIONS = 32  # of a template, to limit the cost of a lookup
_SEGMENT, _ANYTHING = object(), object()


@lru_cache(maxsize=4096)
def _parts(template: str) -> tuple[int, tuple[object, ...]]:
    """The length of the template's fixed text, and its parts: texts and markers of variables."""
    parts: list[object] = []
    fixed = position = 0
    for expression in _EXPRESSION.finditer(template):
        literal = template[position : expression.start()]
        variable = _ANYTHING if expression[1][:1] in _BEYOND else _SEGMENT
        # Two variables of a kind side by side match the same as one.
        if literal or not parts or parts[-1] is not variable:
            parts += [literal, variable]
        fixed, position = fixed + len(literal), expression.end()
    return fixed + len(template) - position, (*parts, template[position:])


def expressions(template: str) -> int:
    """The number of variables in a template."""
    return len(_EXPRESSION.findall(template))


def _matches(parts: tuple[object, ...], uri: str) -> bool:
    positions = {0}
    for part in parts:
        if isinstance(part, str):
            positions = {position + len(part) for position in positions if uri.startswith(part, position)}
        elif part is _ANYTHING:
            positions = set(range(min(positions), len(uri) + 1))
        else:
            positions = _within_segments(positions, uri)
        if not positions:
            return False
    return len(uri) in positions


def _within_segments(starts: set[int], uri: str) -> set[int]:
    positions: set[int] = set()
    for start in sorted(starts):
        if start not in positions:
            end = _SEGMENT_END.search(uri, start)
            positions.update(range(start, (end.start() if end else len(uri)) + 1))
    return positions


def match(templates: Iterable[str], uri: str) -> str | None:
    """The template that matches a URI: the one with the most fixed text, then the first by name."""
    candidates = [
        (-fixed, template) for template in templates for fixed, parts in [_parts(template)] if _matches(parts, uri)
    ]
    return min(candidates)[1] if candidates else None
