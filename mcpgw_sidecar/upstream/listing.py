"""Reads all pages of all lists of a server, within limits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import attrs

from mcpgw_sidecar.catalog.items import Item, Unusable, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.envoy.contract import FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.kinds import KINDS, TOOL, Kind
from mcpgw_sidecar.protocol.jsonrpc import METHOD_NOT_FOUND
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, parse_array
from mcpgw_sidecar.protocol.versions import STATELESS
from mcpgw_sidecar.upstream.stateful import Handshake, Upstream

_NOT_FOUND = 404
MAX_PAGES = 1000  # pages of one list; beyond it the list is cut
MAX_ITEMS = 10_000  # items of one list; beyond it the list is cut
# Bytes of all lists of a server, and of all servers. In memory they take nearly three times as
# much, and a pod of the sidecar has 512 MiB.
MAX_SERVER, MAX_ALL = 24 << 20, 80 << 20


class ListBudget:
    """How much room the lists of all servers take, in bytes."""

    def __init__(self) -> None:
        self.size = 0

    @contextlib.contextmanager
    def room(self) -> Iterator[Room]:
        """The room of a server, as long as somebody is connected with it."""
        room = Room(self)
        try:
            yield room
        finally:
            room.close()


@attrs.define(eq=False)
class Room:
    """The room of one server's lists."""

    budget: ListBudget
    size: int = 0
    is_closed: bool = False

    def fault(self, size: int) -> str | None:
        """Take so many bytes in all; why they do not fit, or None. Then the room is as before."""
        if size > MAX_SERVER:
            return f"its lists have more than {MAX_SERVER >> 20} MiB"
        if self.is_closed or self.budget.size - self.size + size > MAX_ALL:
            return f"the lists of all servers have more than {MAX_ALL >> 20} MiB"
        self.budget.size += size - self.size
        self.size = size
        return None

    def close(self) -> None:
        """The lists are gone for good."""
        self.empty()
        self.is_closed = True

    def empty(self) -> None:
        """The lists are gone."""
        self.budget.size -= self.size
        self.size = 0


class Asks(Protocol):
    """Asks a server in the words of an era."""

    async def wait_result(self, upstream: Upstream, method: str, params: str) -> tuple[str, list[Member]]:
        """Send a request; returns the text of the answer and the members of its result."""


async def wait_discovered(
    client: Asks, upstream: Upstream, shake: Handshake, room: Room, *, lives: bool = False
) -> Discovered:
    """Read the lists of a server, as far as there is room. Raises UpstreamError.

    Tools are requested in any case, because not every server declares its capabilities. `lives`
    says that a refused list is not to be taken for the end of the session.
    """
    items: dict[str, tuple[Item, ...]] = {}
    taken = _Taken(room, room.size)
    unusable: list[Unusable] = []
    for kind in KINDS:
        if kind is TOOL or kind.capability in shake.capabilities:
            try:
                items[kind.name] = await _wait_list(client, kind, upstream, taken, unusable)
            except UpstreamError as error:
                if not _costs_its_list_alone(kind, error):
                    raise
                if error.status in FORGOTTEN and not lives and await _wait_over(client, upstream):
                    raise
                unusable.append(Unusable(kind.name, "", f"{kind.list_method}: {error}"))
    room.fault(taken.size)  # not more than it has
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


async def _wait_over(client: Asks, upstream: Upstream) -> bool:
    """Whether the session is over: a server that forgets it while it is listed would lose lists.

    Unlike `wait_alive`, whatever else is wrong with the ping costs a server nothing.
    """
    try:
        await client.wait_result(upstream, "ping", "{}")
    except UpstreamError as error:
        return error.status in FORGOTTEN
    return False


@attrs.define
class _Taken:
    """The room that a server takes while it is listed.

    It keeps at least what it had before, which nobody else gets meanwhile.
    """

    room: Room
    before: int
    size: int = 0

    def fault(self, text: str) -> str | None:
        """Take another page; why it does not fit, or None."""
        size = self.size + (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))
        fault = self.room.fault(max(self.before, size))
        if fault is None:
            self.size = size
        return fault


async def _wait_list(
    client: Asks, kind: Kind, upstream: Upstream, taken: _Taken, unusable: list[Unusable]
) -> tuple[Item, ...]:
    """Read all pages of one list.

    A list with repeated cursors, or without an end, is cut, and `unusable` says so.
    """
    texts: list[str] = []
    cursors: set[str] = set()
    params = "{}"
    for _ in range(MAX_PAGES):
        text, members = await client.wait_result(upstream, kind.list_method, params)
        values = {member.key: member for member in members}
        fault = taken.fault(text)
        if fault is not None:
            unusable.append(Unusable(kind.name, "", f"the list was cut after {len(texts)} {kind.name}s: {fault}"))
            break
        try:
            texts += parse_array(text[values[kind.member].start : values[kind.member].end])
        except (KeyError, JsonTextError):
            message = f'answered {kind.list_method} without an array "{kind.member}"'
            raise UpstreamError("BadAnswer", message) from None
        cursor: Any = values["nextCursor"].value if "nextCursor" in values else None
        if not isinstance(cursor, str) or not cursor:
            break
        if cursor in cursors or len(texts) > MAX_ITEMS:
            reason = "its cursors repeat" if cursor in cursors else f"it has more than {MAX_ITEMS} {kind.name}s"
            unusable.append(Unusable(kind.name, "", f"the list was cut after {len(texts)} {kind.name}s: {reason}"))
            break
        cursors.add(cursor)
        params = dumps({"cursor": cursor})
    else:
        unusable.append(Unusable(kind.name, "", f"the list was cut after {MAX_PAGES} pages"))
    is_stateless = upstream.session.protocol_version in STATELESS
    items = [read_item(kind, text, stateless=is_stateless) for text in texts[:MAX_ITEMS]]
    unusable += [item for item in items if isinstance(item, Unusable)]
    return tuple(item for item in items if isinstance(item, Item))
