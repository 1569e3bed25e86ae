"""The arguments of a tool that stand in headers, too (`x-mcp-header` in its schema).

Clients of the stateless era write them into `Mcp-Param-*`; the gateway does it for the others
(specification 2026-07-28, basic/transports, Custom Headers). An annotation is good when

1. it stands at a property that is reached through `properties` alone
2. it is the name of a header (RFC 9110, section 5.6.2)
3. its property is a string, an integer or a boolean
4. no other property of the tool has it, in whatever case
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mcpgw_sidecar.protocol.envelope import encode_value
from mcpgw_sidecar.protocol.passing import PARAMS

_KEY: Final = "x-mcp-header"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TYPES = ("string", "integer", "boolean")  # a set takes no list, and `type` may be one
_LITERALS = {True: "true", False: "false"}
# Where schemas stand in a schema, besides `properties` (JSON Schema 2020-12).
_OF_ONE = frozenset(
    {"items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties"}
    | {"not", "if", "then", "else", "contentSchema"}
)
_OF_MANY = frozenset(
    {"allOf", "anyOf", "oneOf", "prefixItems", "patternProperties", "dependentSchemas", "$defs", "definitions"}
)
MAX_DEPTH = 64  # schemas within one another
_Path = tuple[str, ...]
_Step = tuple[Any, ...]  # the step before, and a name; a tuple of each path would take far more memory
_ROOT: _Step = ()


def fault_of(schema: object) -> str | None:
    """What is wrong with the annotations of a tool's `inputSchema`, decoded; None if nothing is."""
    seen: set[str] = set()
    for path, node in _annotated(schema):
        name = node[_KEY]
        if not path:
            return f'"{_KEY}" stands where no client finds it'
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            return f'"{_KEY}" of {path[-1][:80]!r} is no name of a header'
        if node.get("type") not in _TYPES:
            return f'"{_KEY}" stands at {path[-1][:80]!r}, which is no string, integer or boolean'
        if name.lower() in seen:
            return f'"{_KEY}" {name[:80]!r} is there twice'
        seen.add(name.lower())
    return None


def headers_of(tool: str, arguments: str) -> dict[str, str]:
    """The headers of a call; tool and arguments are JSON, `fault_of` found no fault."""
    if _KEY not in tool:  # nearly all tools, on the path of a call
        return {}
    headers: dict[str, str] = {}
    values = json.loads(arguments, parse_int=str, parse_float=str)  # of any size, as the client wrote them
    for path, node in _annotated(json.loads(tool, parse_int=float).get("inputSchema")):
        value = _value_at(values, path or ())
        value = _LITERALS[value] if isinstance(value, bool) else value
        if isinstance(value, str):
            headers[f"{PARAMS}{node[_KEY].lower()}"] = encode_value(value)
    return headers


def _annotated(schema: object) -> Iterator[tuple[_Path | None, Mapping[str, Any]]]:
    """The annotated schemas within a schema, each with its path of properties, if it has one.

    Below MAX_DEPTH nothing is looked at.
    """
    stack: list[tuple[_Step | None, int, object]] = [(_ROOT, 0, schema)]
    while stack:
        step, depth, node = stack.pop()
        if not isinstance(node, dict) or depth > MAX_DEPTH:
            continue
        if _KEY in node:
            yield _path(step), node
        for key, inner in node.items():
            if key == "properties" and isinstance(inner, dict):
                for name, each in inner.items():
                    stack.append(((step, name) if step is not None else None, depth + 1, each))
            elif key in _OF_ONE:
                stack.append((None, depth + 1, inner))
            elif key in _OF_MANY:
                several = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
                stack += [(None, depth + 1, each) for each in several]


def _path(step: _Step | None) -> _Path | None:
    """The names on the way to a step."""
    names: list[str] = []
    while step:
        step, name = step
        names.append(name)
    return None if step is None else tuple(reversed(names))


def _value_at(values: object, path: _Path) -> object:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values
