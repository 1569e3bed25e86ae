"""One tool, prompt, resource or template as its server wrote it.

Everything but a prefixed name is relayed byte for byte, without members that are null and, as tasks
are not federated, without a tool's `execution`. `read_item` is a ladder; the first failure
wins. An item that fails is left out alone; its server and the other items stay:

1. a JSON object in which the key (`name`, `uri`, `uriTemplate`) occurs once
2. the key: a string without control characters; a name of 1 to 128 characters
   (server/tools, Tool Names)
3. the other members that the schema of the kind requires, and strings where it has strings: one
   item without them makes strict clients refuse the whole list
   - tool: `inputSchema`, an object with `"type": "object"`; `outputSchema`, if there, as well, but
     of the stateless era any object, where the headers that `inputSchema` names have to be good
     (mirrored.py)
   - resource and template: `name`
   - prompt: `arguments`, if there, an array
4. a tool that can only be called as a task cannot be called through the gateway
"""

from __future__ import annotations

from typing import Any

import attrs

from mcpgw_sidecar.catalog import mirrored
from mcpgw_sidecar.catalog.templates import MAX_EXPRESSIONS, expressions
from mcpgw_sidecar.model.kinds import PROMPT, TEMPLATE, TOOL, Kind
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, only, parse_object

MAX_NAME = 128  # characters, prefix included (server/tools: SHOULD be 1 to 128)
MAX_URI = 8192  # characters: a common limit of servers for a URL
_SHOWN = 80  # characters of an unusable item that a report shows


@attrs.frozen(slots=True)
class Item:
    """`text` is the object, `text[key_start:key_end]` its key as JSON, `key` the decoded key."""

    key: str
    text: str = attrs.field(repr=False)
    key_start: int
    key_end: int

    @property
    def key_text(self) -> JsonText:
        """The key as its server wrote it, which a request for the item has to contain."""
        return JsonText(self.text[self.key_start : self.key_end])

    def with_key(self, key: str) -> str:
        """The object with another key."""
        return f"{self.text[: self.key_start]}{dumps(key)}{self.text[self.key_end :]}"

    def with_prefix(self, prefix: str) -> str:
        """The object with a prefix before the key. Prefixes are ASCII and need no escapes."""
        inside = self.key_start + 1
        return self.text[:inside] + dumps(prefix)[1:-1] + self.text[inside:]


@attrs.frozen(slots=True)
class Unusable:
    """Why an item is left out; `name` is the part of its key that could be read."""

    kind: str
    name: str
    reason: str


def read_item(kind: Kind, text: str, *, stateless: bool = False) -> Item | Unusable:
    """An item of a server's list of one era (the ladder above)."""
    try:
        members = parse_object(text)
        executions = [member for member in members if kind is TOOL and member.key == "execution"]
        kept = [member for member in members if member.value is not None and member not in executions]
        if len(kept) < len(members):
            text = _of_members(text, kept)
            members = parse_object(text)
        key = only(members, kind.key)
        values = {member.key: member.value for member in members}
    except JsonTextError as error:
        return Unusable(kind.name, text[:_SHOWN], str(error))
    if key is None or not isinstance(key.value, str):
        return Unusable(kind.name, text[:_SHOWN], f'"{kind.key}" is missing or not a string')
    fault = _key_fault(kind, key.value) or _shape_fault(kind, values, stateless=stateless) or _text_fault(values)
    fault = fault or _task_fault(executions)
    if fault:
        return Unusable(kind.name, key.value[:_SHOWN], fault)
    return Item(key.value, text, key.start, key.end)


def for_stateful(item: Item) -> Item:
    """A tool of the stateless era for clients of the other: without a schema that they refuse.

    One tool whose `outputSchema` is of no object costs a client of an official SDK the whole list.
    """
    if "outputSchema" not in item.text:
        return item
    members = parse_object(item.text)
    kept = [member for member in members if member.key != "outputSchema" or _is_object_schema(member.value)]
    if len(kept) == len(members):
        return item
    text = _of_members(item.text, kept)
    key = next(member for member in parse_object(text) if member.key == TOOL.key)
    return Item(item.key, text, key.start, key.end)


def _of_members(text: str, members: list[Member]) -> str:
    """The object with these members alone. Servers write null for none, clients refuse it."""
    return f"{{{','.join(f'{dumps(member.key)}:{text[member.start : member.end]}' for member in members)}}}"


def _key_fault(kind: Kind, key: str) -> str | None:
    limit = MAX_NAME if kind.prefixed else MAX_URI
    if not 1 <= len(key) <= limit:
        return f'"{kind.key}" has {len(key)} characters; 1 to {limit} are allowed'
    if any(not char.isprintable() for char in key):
        return f'"{kind.key}" contains a control character'
    return None


def _shape_fault(kind: Kind, values: dict[str, Any], *, stateless: bool) -> str | None:
    if kind is TOOL:
        output, schema = values.get("outputSchema"), values.get("inputSchema")
        fits = "outputSchema" not in values or (isinstance(output, dict) if stateless else _is_object_schema(output))
        for key, is_good in (("inputSchema", _is_object_schema(schema)), ("outputSchema", fits)):
            if not is_good:
                return f'"{key}" is not a schema with "type": "object"'
        return mirrored.fault_of(schema) if stateless else None
    if kind is PROMPT:
        if "arguments" in values and not isinstance(values["arguments"], list):
            return '"arguments" is not an array'
    elif not isinstance(values.get("name"), str):
        return '"name" is missing or not a string'
    elif kind is TEMPLATE and expressions(values[kind.key]) > MAX_EXPRESSIONS:
        return f"more than {MAX_EXPRESSIONS} variables"
    return None


def _is_object_schema(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def _text_fault(values: dict[str, Any]) -> str | None:
    for key in ("title", "description"):
        if key in values and not isinstance(values[key], str):
            return f'"{key}" is not a string'
    return None


def _task_fault(executions: list[Member]) -> str | None:
    for member in executions:
        if isinstance(member.value, dict) and member.value.get("taskSupport") == "required":
            return "it can only be called as a task, and tasks do not pass through the gateway"
    return None
