"""Which template makes a URI (RFC 6570): only as much as is needed to find the owner, never to expand one.

Matched by sets of reachable places, not by a regular expression: templates come from servers and URIs from clients, and a
backtracking engine given both by strangers is a way to stop the process. The cost is length times parts, whatever they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_BEYOND = frozenset("+#/?&")  # operators whose values may hold what ends a segment
_SEGMENT_END = re.compile(r"[/?#]")
MAX_EXPRESSIONS = 32  # of one template: what a lookup may cost
_SEGMENT, _ANYTHING = object(), object()


@lru_cache(maxsize=4096)
def _parts(template: str) -> tuple[int, tuple[object, ...]]:
    """How much of the template is fixed text, and its parts: texts, and what stands for a variable."""
    parts: list[object] = []
    fixed = at = 0
    for found in _EXPRESSION.finditer(template):
        literal = template[at : found.start()]
        variable = _ANYTHING if found[1][:1] in _BEYOND else _SEGMENT
        if literal or not parts or parts[-1] is not variable:  # two of a kind side by side match what one matches
            parts += [literal, variable]
        fixed, at = fixed + len(literal), found.end()
    return fixed + len(template) - at, (*parts, template[at:])


def expressions(template: str) -> int:
    """How many variables a template has."""
    return len(_EXPRESSION.findall(template))


def _makes(parts: tuple[object, ...], uri: str) -> bool:
    reached = {0}
    for part in parts:
        if isinstance(part, str):
            reached = {place + len(part) for place in reached if uri.startswith(part, place)}
        elif part is _ANYTHING:
            reached = set(range(min(reached), len(uri) + 1))
        else:
            reached = _within_segments(reached, uri)
        if not reached:
            return False
    return len(uri) in reached


def _within_segments(reached: set[int], uri: str) -> set[int]:
    found: set[int] = set()
    for place in sorted(reached):
        if place not in found:
            end = _SEGMENT_END.search(uri, place)
            found.update(range(place, (end.start() if end else len(uri)) + 1))
    return found


def match(templates: Iterable[str], uri: str) -> str | None:
    """The template that makes a URI; of several the one with the most fixed text, then the first by name."""
    found = [(-fixed, template) for template in templates for fixed, parts in [_parts(template)] if _makes(parts, uri)]
    return min(found)[1] if found else None
