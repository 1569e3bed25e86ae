"""Reads all pages of all lists of a server, within limits."""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar.catalog.items import Item, Unusable, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.envoy.contract import FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.kinds import KINDS, TOOL, Kind
from mcpgw_sidecar.protocol.jsonrpc import METHOD_NOT_FOUND
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps, parse_array
from mcpgw_sidecar.upstream.stateful import Handshake, Upstream, UpstreamClient

_NOT_FOUND = 404
MAX_LIST = 64 << 20  # bytes of one list over all pages
MAX_PAGES = 1000  # pages of one list; beyond it the list is cut
MAX_ITEMS = 10_000  # items of one list; beyond it the list is cut


async def wait_discovered(
    client: UpstreamClient, upstream: Upstream, shake: Handshake, *, lives: bool = False
) -> Discovered:
    """Read the lists of a server. Raises UpstreamError.

    Tools are requested in any case, because not every server declares its capabilities. `lives`
    says that a refused list is not to be taken for the end of the session.
    """
    items: dict[str, tuple[Item, ...]] = {}
    unusable: list[Unusable] = []
    for kind in KINDS:
        if kind is TOOL or kind.capability in shake.capabilities:
            try:
                items[kind.name] = await _wait_list(client, kind, upstream, unusable)
            except UpstreamError as error:
                if not _costs_its_list_alone(kind, error):
                    raise
                if error.status in FORGOTTEN and not lives and await _wait_over(client, upstream):
                    raise
                unusable.append(Unusable(kind.name, "", f"{kind.list_method}: {error}"))
    versions = (shake.session.protocol_version,)
    return Discovered(items, tuple(unusable), shake.instructions, shake.capabilities, versions)


def _costs_its_list_alone(kind: Kind, error: UpstreamError) -> bool:
    """Whether a list that cannot be had leaves the server its other lists.

    An answer that is none costs the list. No answer and a refused credential concern the server; so
    does a list of tools, unless the server says that it has no such method.
    """
    if kind is TOOL:
        return error.reason == "RpcError" and error.words.startswith(f"{METHOD_NOT_FOUND} ")
    if error.reason == "HttpError":
        return error.status != _NOT_FOUND or bool(error.words)
    return error.reason in {"RpcError", "BadAnswer", "TooLarge"}


async def _wait_over(client: UpstreamClient, upstream: Upstream) -> bool:
    """Whether the session is over: a server that forgets it while it is listed would lose lists.

    Unlike `wait_alive`, whatever else is wrong with the ping costs a server nothing.
    """
    try:
        await client.wait_result(upstream, "ping", "{}")
    except UpstreamError as error:
        return error.status in FORGOTTEN
    return False


async def _wait_list(client: UpstreamClient, kind: Kind, upstream: Upstream, unusable: list[Unusable]) -> tuple[Item, ...]:
    """Read all pages of one list.

    A list with repeated cursors, or without an end, is cut, and `unusable` says so.
    """
    texts: list[str] = []
    cursors: set[str] = set()
    size, params = 0, "{}"
    for _ in range(MAX_PAGES):
        text, members = await client.wait_result(upstream, kind.list_method, params)
        values = {member.key: member for member in members}
        try:
            texts += parse_array(text[values[kind.member].start : values[kind.member].end])
        except (KeyError, JsonTextError):
            message = f'answered {kind.list_method} without an array "{kind.member}"'
            raise UpstreamError("BadAnswer", message) from None
        cursor: Any = values["nextCursor"].value if "nextCursor" in values else None
        if not isinstance(cursor, str) or not cursor:
            break
        size += len(text)
        if cursor in cursors or len(texts) > MAX_ITEMS or size > MAX_LIST:
            reason = "its cursors repeat" if cursor in cursors else f"it has more than {MAX_ITEMS} {kind.name}s"
            reason = f"it has more than {MAX_LIST >> 20} MiB" if size > MAX_LIST else reason
            unusable.append(Unusable(kind.name, "", f"the list was cut after {len(texts)} {kind.name}s: {reason}"))
            break
        cursors.add(cursor)
        params = dumps({"cursor": cursor})
    else:
        unusable.append(Unusable(kind.name, "", f"the list was cut after {MAX_PAGES} pages"))
    items = [read_item(kind, text) for text in texts[:MAX_ITEMS]]
    unusable += [item for item in items if isinstance(item, Unusable)]
    return tuple(item for item in items if isinstance(item, Item))
