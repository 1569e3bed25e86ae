"""Which template makes a URI (RFC 6570): only as much as is needed to find the owner, never to expand one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_EXPRESSION = re.compile(r"\{([^{}]*)\}")


@lru_cache(maxsize=4096)
def _pattern(template: str) -> tuple[int, re.Pattern[str]]:
    """How much of the template is fixed text, and what it matches: a variable within its segment, `{+x}` and `{/x}` beyond."""
    fixed, pattern, at = 0, "", 0
    for found in _EXPRESSION.finditer(template):
        literal = template[at : found.start()]
        operator = found[1][:1]
        pattern += re.escape(literal) + {"+": ".+", "#": ".*", "/": ".*", "?": ".*", "&": ".*"}.get(operator, "[^/?#]*")
        fixed, at = fixed + len(literal), found.end()
    literal = template[at:]
    return fixed + len(literal), re.compile(pattern + re.escape(literal), re.DOTALL)


def match(templates: Iterable[str], uri: str) -> str | None:
    """The template that makes a URI; of several the one with the most fixed text, then the first by name."""
    found = [
        (-fixed, template) for template in templates for fixed, pattern in [_pattern(template)] if pattern.fullmatch(uri)
    ]
    return min(found)[1] if found else None
