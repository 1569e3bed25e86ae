"""What the router and the broker answer from: who owns which name, and the lists, already serialised."""

from __future__ import annotations

import base64
import binascii
import bisect
import hashlib
import json
import re
from collections.abc import Mapping

import attrs

from mcpgw_sidecar.catalog import templates
from mcpgw_sidecar.catalog.aliases import read_alias, write_alias
from mcpgw_sidecar.catalog.items import MAX_URI
from mcpgw_sidecar.catalog.offers import Offer
from mcpgw_sidecar.model.kinds import KINDS, RESOURCE, TEMPLATE, TOOL, Kind
from mcpgw_sidecar.model.names import JsonText, Scope, ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.protocol.gzipped import Packed, packed
from mcpgw_sidecar.protocol.jsontext import dumps

_MARK = 8  # characters of each list in a state
_STATE = re.compile(f"[0-9a-f]{{{_MARK * len(KINDS)}}}")
PAGE = 1000  # items on a page of a list (interface.md)


@attrs.frozen(slots=True)
class Owned:
    """Something that clients may ask for: its server, its key there (JSON), and its object as clients see it."""

    key: str
    server: Server
    upstream_key: JsonText
    text: str = attrs.field(repr=False)


@attrs.frozen
class Listing:
    """All of one kind. `keys` is sorted; `digest` changes when a client's list does."""

    owned: Mapping[str, Owned]
    keys: tuple[str, ...]
    digest: str
    _member: str
    _pages: Mapping[str | None, bytes] = attrs.field(repr=False)
    _packed: dict[bytes, Packed] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def is_prepared(self, cursor: str | None) -> bool:
        """Whether the page after a cursor lies ready: those that a client meets that begins without one."""
        last = None if cursor is None else _read_cursor(cursor)
        return last in self._pages and (last is None) == (cursor is None)

    def packed(self, page: bytes) -> Packed:
        """A prepared page as gzip has it, compressed once."""
        if page not in self._packed:
            self._packed[page] = packed(page)
        return self._packed[page]

    def page(self, cursor: str | None) -> bytes | None:
        """The result of the list after a cursor, as JSON; None for a cursor that was never given out.

        A cursor says which key came last, so it outlives the snapshot, the process and the replica: a client that pages
        while things change sees each that stayed exactly once.
        """
        if cursor is None:
            return self._pages[None]
        last = _read_cursor(cursor)
        if last is None:
            return None
        return self._pages.get(last) or _render(self._member, self.owned, self.keys, bisect.bisect_right(self.keys, last))


@attrs.frozen
class Snapshot:
    """One immutable state of the catalog. `capabilities` are those of the servers that answer, besides the lists.

    `offers` are its servers, with what was discovered of them. `virtual_servers` are definitions: what
    their clients see is made by catalog/views.py when somebody asks, and kept in `views`.
    """

    offers: Mapping[ServerName, Offer]
    servers: Mapping[ServerName, Server] = attrs.field(eq=False)
    lists: Mapping[str, Listing]
    instructions: str = attrs.field(repr=False)
    capabilities: frozenset[str]
    virtual_servers: Mapping[VirtualName, VirtualServer] = attrs.field(factory=dict)
    views: dict[Scope, Snapshot] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    @property
    def state(self) -> str:
        """What the lists are, in a few characters for an event's id: `changes` tells two of them apart."""
        return "".join(self.of(kind).digest[:_MARK] for kind in KINDS)

    def of(self, kind: Kind) -> Listing:
        """Everything of a kind."""
        return self.lists[kind.name]

    def find(self, kind: Kind, key: str) -> Owned | None:
        """Who owns a key; a URI that nobody lists belongs to the template that makes it, an alias to the server that it names."""
        item = self.of(kind).owned.get(key)
        if item is not None or kind is not RESOURCE or len(key) > MAX_URI:
            return item
        item = self._template_of(key)
        alias = read_alias(key)
        if item is not None or alias is None:
            return item
        aliased = self.of(kind).owned.get(alias[1]) or self._template_of(alias[1])
        return aliased if aliased is not None and aliased.server.name == alias[0] else None

    def _template_of(self, uri: str) -> Owned | None:
        template = templates.match(self.of(TEMPLATE).keys, uri)
        return self.of(TEMPLATE).owned[template] if template is not None else None

    def shown_uri(self, server: ServerName, uri: str) -> str:
        """A server's URI as its clients know it."""
        owner = self.find(RESOURCE, uri)
        return uri if owner is None or owner.server.name == server else write_alias(server, uri)


def changes(old: str | None, new: str) -> list[str]:
    """The notifications that lead from one state of the lists to another; all of them from one that nobody knows."""
    before = old if old is not None and _STATE.fullmatch(old) else " " * len(new)
    marks = zip(KINDS, range(0, len(new), _MARK), strict=True)
    return sorted({kind.changed for kind, at in marks if before[at : at + _MARK] != new[at : at + _MARK]})


def fingerprint(snapshot: Snapshot) -> str:
    """A hash of what decisions about tools, and lists, depend on in a snapshot."""
    digest = hashlib.sha256()
    for name, server in sorted(snapshot.servers.items()):
        digest.update(repr((name, server.url, server.hostname, server.path)).encode())
    digest.update(" ".join(snapshot.of(kind).digest for kind in KINDS).encode())
    tools = snapshot.of(TOOL)
    items = (tools.owned[key] for key in tools.keys)
    digest.update("\n".join(f"{item.key}\t{item.server.name}\t{item.upstream_key}" for item in items).encode())
    for _, virtual in sorted(snapshot.virtual_servers.items()):
        digest.update(repr((virtual.name, virtual.tools)).encode())
    return digest.hexdigest()


def build(
    offers: Mapping[ServerName, Offer],
    owned: Mapping[str, Mapping[str, Owned]],
    *,
    instructions: str = "",
    capabilities: frozenset[str] = frozenset(),
    virtual_servers: Mapping[VirtualName, VirtualServer] | None = None,
) -> Snapshot:
    """A snapshot with every page of every list serialised; `owned` is by kind's name, then by key."""
    lists = {kind.name: _listing(kind, owned.get(kind.name, {})) for kind in KINDS}
    servers = {name: offer.server for name, offer in offers.items()}
    return Snapshot(offers, servers, lists, instructions, capabilities, virtual_servers or {})


def _listing(kind: Kind, owned: Mapping[str, Owned]) -> Listing:
    keys = tuple(sorted(owned))
    pages: dict[str | None, bytes] = {None: _render(kind.member, owned, keys, 0)}
    for start in range(PAGE, len(keys), PAGE):
        pages[keys[start - 1]] = _render(kind.member, owned, keys, start)
    digest = hashlib.sha256(b"".join(pages.values())).hexdigest()[:16]
    return Listing(owned, keys, digest, kind.member, pages)


def _render(member: str, owned: Mapping[str, Owned], keys: tuple[str, ...], start: int) -> bytes:
    shown = keys[start : start + PAGE]
    body = ",".join(owned[key].text for key in shown)
    more = start + PAGE < len(keys)
    cursor = f',"nextCursor":{dumps(_write_cursor(shown[-1]))}' if more else ""
    return f'{{"{member}":[{body}]{cursor}}}'.encode()


def _write_cursor(last: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(["after", last]).encode()).decode()


def _read_cursor(cursor: str) -> str | None:
    try:
        match json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True)):
            case ["after", str(last)]:
                return last
    except (binascii.Error, ValueError, RecursionError):
        pass
    return None


EMPTY = build({}, {})
