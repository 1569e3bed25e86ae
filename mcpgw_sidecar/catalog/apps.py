"""MCP Apps in the catalog: tools that pages alone call, and pages whose URIs two servers list.

`_meta.ui.resourceUri` of a tool, in older servers `_meta["ui/resourceUri"]`, names its page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, last, parse_object

SCHEME = "ui://"
_VISIBILITY = '"visibility"'


def is_for_apps(tool: str) -> bool:
    """Whether a tool (its object) is for pages alone, and none of a model's."""
    if _VISIBILITY not in tool:
        return False
    meta = json.loads(tool).get("_meta")
    ui = meta.get("ui") if isinstance(meta, dict) else None
    return isinstance(ui, dict) and ui.get("visibility") == ["app"]


def with_pages(tool: str, renamed: Mapping[str, str]) -> str:
    """A tool (its object) with the URIs of its page that clients see; any other byte unchanged."""
    if not renamed or SCHEME not in tool:
        return tool
    spans = [span for span in _pages(tool) if tool[span[0] : span[1]]]
    for start, end in sorted(spans, reverse=True):
        uri = renamed.get(json.loads(tool[start:end]))
        if uri is not None:
            tool = f"{tool[:start]}{dumps(uri)}{tool[end:]}"
    return tool


def _pages(tool: str) -> list[tuple[int, int]]:
    """Where the URIs of a tool's page stand."""
    meta = last(parse_object(tool), "_meta")
    ui = _inside(tool, meta, "ui")
    found = (_inside(tool, ui, "resourceUri"), _inside(tool, meta, "ui/resourceUri"))
    return [(member.start, member.end) for member in found if member is not None and isinstance(member.value, str)]


def _inside(text: str, outer: Member | None, key: str) -> Member | None:
    """A member of a member that is an object, with its place in the whole text."""
    if outer is None or not isinstance(outer.value, dict):
        return None
    try:
        member = last(parse_object(text[outer.start : outer.end]), key)
    except JsonTextError:
        return None
    return None if member is None else Member(member.key, member.value, outer.start + member.start, outer.start + member.end)
