"""What the router and the broker answer from: who owns which name, and the list, already serialised."""

from __future__ import annotations

import base64
import binascii
import bisect
import hashlib
import json
from collections.abc import Mapping

import attrs

from mcpgw_sidecar.model.names import JsonText, ServerName, ToolName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.jsontext import dumps

PAGE = 1000  # tools on a page of tools/list (interface.md)


@attrs.frozen(slots=True)
class OwnedTool:
    """A tool that clients may call: its server, its name there (JSON), and its object with the prefixed name."""

    name: ToolName
    server: Server
    upstream_name: JsonText
    text: str = attrs.field(repr=False)


@attrs.frozen
class Snapshot:
    """One immutable state of the catalog. `names` is sorted; `digest` changes when a client's list does."""

    servers: Mapping[ServerName, Server]
    tools: Mapping[ToolName, OwnedTool]
    names: tuple[ToolName, ...]
    digest: str
    instructions: str = attrs.field(repr=False)
    _pages: Mapping[ToolName | None, bytes] = attrs.field(repr=False)

    def page(self, cursor: str | None) -> bytes | None:
        """The result of tools/list after a cursor, as JSON; None for a cursor that was never given out.

        A cursor says which name came last, so it outlives the snapshot, the process and the replica: a client that pages
        while the tools change sees each tool that stayed exactly once.
        """
        if cursor is None:
            return self._pages[None]
        last = _read_cursor(cursor)
        if last is None:
            return None
        return self._pages.get(last) or _render(self.tools, self.names, bisect.bisect_right(self.names, last))


def build(servers: Mapping[ServerName, Server], tools: Mapping[ToolName, OwnedTool], instructions: str = "") -> Snapshot:
    """A snapshot with every page of its list serialised."""
    names = tuple(sorted(tools))
    pages: dict[ToolName | None, bytes] = {None: _render(tools, names, 0)}
    for start in range(PAGE, len(names), PAGE):
        pages[names[start - 1]] = _render(tools, names, start)
    digest = hashlib.sha256(b"".join(pages.values())).hexdigest()[:16]
    return Snapshot(servers, tools, names, digest, instructions, pages)


def _render(tools: Mapping[ToolName, OwnedTool], names: tuple[ToolName, ...], start: int) -> bytes:
    shown = names[start : start + PAGE]
    body = ",".join(tools[name].text for name in shown)
    more = start + PAGE < len(names)
    cursor = f',"nextCursor":{dumps(_write_cursor(shown[-1]))}' if more else ""
    return f'{{"tools":[{body}]{cursor}}}'.encode()


def _write_cursor(last: ToolName) -> str:
    return base64.urlsafe_b64encode(json.dumps(["after", last]).encode()).decode()


def _read_cursor(cursor: str) -> ToolName | None:
    try:
        match json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True)):
            case ["after", str(last)]:
                return ToolName(last)
    except (binascii.Error, ValueError, RecursionError):
        pass
    return None


EMPTY = build({}, {})
