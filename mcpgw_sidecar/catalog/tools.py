"""One tool as its server wrote it. Everything but the name is relayed byte for byte.

`read_tool` is a ladder, first failure wins, and a failing tool is left out alone; its server and its siblings stay:

1. a JSON object in which `name` stands once
2. a name: a string of 1 to 128 characters, none of them a control character   (specification, server/tools, Tool Names)
3. `inputSchema`: an object with `"type": "object"`                             (the schema's required members: one tool
4. `outputSchema`, if there: an object with `"type": "object"`                   without them makes strict clients refuse
5. `title` and `description`, if there: strings                                  the whole list)
"""

from __future__ import annotations

from typing import Any

import attrs

from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps, only, parse_object

MAX_NAME = 128  # characters, prefix included (server/tools: SHOULD be 1 to 128)
_SHOWN = 80  # characters of a broken item that a report repeats


@attrs.frozen(slots=True)
class Tool:
    """`text` is the object, `text[name_start:name_end]` its name as JSON, `name` the same decoded."""

    name: str
    text: str = attrs.field(repr=False)
    name_start: int
    name_end: int

    @property
    def name_text(self) -> JsonText:
        """The name as its server writes it: what a call has to carry."""
        return JsonText(self.text[self.name_start : self.name_end])

    def with_prefix(self, prefix: str) -> str:
        """The object with the prefix before the name (prefixes are plain ASCII: they need no escapes)."""
        inside = self.name_start + 1
        return self.text[:inside] + dumps(prefix)[1:-1] + self.text[inside:]


@attrs.frozen(slots=True)
class Unusable:
    """Why a tool is left out; `name` is as much of its name as could be read."""

    name: str
    reason: str


def read_tool(text: str) -> Tool | Unusable:
    """A tool out of a server's list (the ladder above)."""
    try:
        members = parse_object(text)
        name = only(members, "name")
        values = {member.key: member.value for member in members}
    except JsonTextError as error:
        return Unusable(text[:_SHOWN], str(error))
    if name is None or not isinstance(name.value, str):
        return Unusable(text[:_SHOWN], '"name" is missing or not a string')
    fault = _name_fault(name.value) or _schema_fault(values) or _text_fault(values)
    if fault:
        return Unusable(name.value[:_SHOWN], fault)
    return Tool(name.value, text, name.start, name.end)


def _name_fault(name: str) -> str | None:
    if not 1 <= len(name) <= MAX_NAME:
        return f'"name" has {len(name)} characters; 1 to {MAX_NAME} are allowed'
    if any(not char.isprintable() for char in name):
        return '"name" contains a control character'
    return None


def _schema_fault(values: dict[str, Any]) -> str | None:
    for key, required in (("inputSchema", True), ("outputSchema", False)):
        schema = values.get(key)
        if schema is None and not required and key not in values:
            continue
        if not isinstance(schema, dict) or schema.get("type") != "object":
            return f'"{key}" is not a schema with "type": "object"'
    return None


def _text_fault(values: dict[str, Any]) -> str | None:
    for key in ("title", "description"):
        if key in values and not isinstance(values[key], str):
            return f'"{key}" is not a string'
    return None
