"""The catalog that router and broker read: the owner of each name, and the lists, serialised."""

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
from mcpgw_sidecar.model.access import OPEN, Access, allowed_text
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
    """An item that clients may ask for.

    `upstream_key` is its key at its server (JSON), `text` its object as clients see it. `for_apps`
    says that pages alone call it (MCP Apps).
    """

    key: str
    server: Server
    upstream_key: JsonText
    text: str = attrs.field(repr=False)
    for_apps: bool = False


@attrs.frozen
class Listing:
    """All items of one kind. `keys` is sorted; `digest` changes when a client's list does."""

    owned: Mapping[str, Owned]
    keys: tuple[str, ...]
    digest: str
    _member: str
    _pages: Mapping[str | None, bytes] = attrs.field(repr=False)
    _packed: dict[bytes, Packed] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def is_prepared(self, cursor: str | None) -> bool:
        """Whether the page after a cursor is already serialised.

        Those are the pages of a client that begins without a cursor.
        """
        last = None if cursor is None else _read_cursor(cursor)
        return last in self._pages and (last is None) == (cursor is None)

    def packed(self, page: bytes) -> Packed:
        """A prepared page, compressed for gzip; each page is compressed once."""
        if page not in self._packed:
            self._packed[page] = packed(page)
        return self._packed[page]

    def page(self, cursor: str | None) -> bytes | None:
        """The result of the list after a cursor, as JSON; None if the cursor is not the gateway's.

        A cursor holds the last key of a page, so it outlives the snapshot, the process and the
        replica. A client that reads pages while the catalog changes gets each item that stayed
        exactly once.
        """
        if cursor is None:
            return self._pages[None]
        last = _read_cursor(cursor)
        if last is None:
            return None
        return self._pages.get(last) or _render(self._member, self.owned, self.keys, bisect.bisect_right(self.keys, last))


@attrs.frozen
class Snapshot:
    """One immutable state of the catalog.

    `offers` are its servers, with their answers about themselves. `capabilities` are those of the
    servers that answer, besides the lists. `virtual_servers` are definitions: catalog/views.py
    makes the view of their clients at its first use, and keeps it in `views`. `access` says who may
    call; views have none of their own. `readable` are the servers of which a client may read what
    no list has; None for all. `stateless` is the catalog of clients of the stateless era.
    """

    offers: Mapping[ServerName, Offer]
    servers: Mapping[ServerName, Server] = attrs.field(eq=False)
    lists: Mapping[str, Listing]
    instructions: str = attrs.field(repr=False)
    capabilities: frozenset[str]
    virtual_servers: Mapping[VirtualName, VirtualServer] = attrs.field(factory=dict)
    has_app_tools: bool = False
    access: Access = OPEN
    readable: frozenset[ServerName] | None = None
    stateless: Snapshot | None = None
    views: dict[Scope, Snapshot] = attrs.field(factory=dict, init=False, repr=False, eq=False)
    brought: frozenset[str] = attrs.field(init=False, repr=False, eq=False)

    @brought.default
    def _brought_for_servers(self) -> frozenset[str]:
        """The headers of clients that at least one server wants, and tokens for them."""
        return frozenset(each.name for server in self.servers.values() for each in server.wanted)

    @property
    def state(self) -> str:
        """A short mark of the lists, for the id of an event; `changes` compares two of them."""
        return "".join(self.of(kind).digest[:_MARK] for kind in KINDS)

    def of(self, kind: Kind) -> Listing:
        """The items of a kind."""
        return self.lists[kind.name]

    def find(self, kind: Kind, key: str) -> Owned | None:
        """The item with a key.

        A URI that no server lists belongs to the template that it matches, an alias to the server
        that it names.
        """
        item = self.of(kind).owned.get(key)
        if item is not None or kind is not RESOURCE or len(key) > MAX_URI:
            return item
        item = self._template_of(key)
        alias = read_alias(key)
        if item is not None or alias is None:
            return item
        item = self.of(kind).owned.get(alias[1]) or self._template_of(alias[1])
        return item if item is not None and item.server.name == alias[0] else None

    def find_bare(self, name: str) -> Owned | None:
        """The tool with this name at its server, if one server alone has it.

        Pages know no prefixes.
        """
        named = [tool for tool in self.of(TOOL).owned.values() if json.loads(tool.upstream_key) == name]
        return named[0] if len(named) == 1 else None

    def _template_of(self, uri: str) -> Owned | None:
        template = templates.match(self.of(TEMPLATE).keys, uri)
        return self.of(TEMPLATE).owned[template] if template is not None else None

    def shown_uri(self, server: ServerName, uri: str) -> str:
        """A server's URI as clients see it: its alias, if another server owns the URI."""
        owner = self.find(RESOURCE, uri)
        return uri if owner is None or owner.server.name == server else write_alias(server, uri)


def changes(old: str | None, new: str) -> list[str]:
    """The notifications for a client that has read the lists in state `old`.

    These are all of them if `old` is no state.
    """
    old_state = old if old is not None and _STATE.fullmatch(old) else " " * len(new)
    marks = zip(KINDS, range(0, len(new), _MARK), strict=True)
    return sorted({kind.changed for kind, at in marks if old_state[at : at + _MARK] != new[at : at + _MARK]})


@attrs.frozen
class Fingerprint:
    """Texts that change when decisions do.

    `servers` has those of decisions about a server's tools, `lists` is that of lists, `all` that of
    everything.
    """

    all: str
    servers: Mapping[ServerName, str]
    lists: str


def fingerprint(snapshot: Snapshot) -> Fingerprint:
    """What lists, and decisions about tools, depend on in a snapshot."""
    other = snapshot.stateless
    eras = [snapshot] if other is None or other.lists is snapshot.lists else [snapshot, other]
    servers = {
        name: [repr((name, server.url, server.hostname, server.path, server.forwarded, server.token_exchange))]
        for name, server in snapshot.servers.items()
    }
    for era in eras:
        for offer in era.offers.values():
            servers[offer.server.name].append(repr(offer.protocol_versions))
        tools = era.of(TOOL)
        for key in tools.keys:
            item = tools.owned[key]
            servers[item.server.name].append(f"{item.key}\t{item.upstream_key}\t{item.for_apps}")
    access = snapshot.access
    virtual = [(name, each.tools, allowed_text(each.allow)) for name, each in sorted(snapshot.virtual_servers.items())]
    return Fingerprint(
        all=repr(
            (virtual, access.authentication, [rule.text for rule in access.rules or ()], access.rules is None, access.bare)
        ),
        servers={name: "\n".join(lines) for name, lines in servers.items()},
        lists="\n".join(
            repr(
                (
                    era.state,
                    era.instructions,
                    sorted(era.capabilities),
                    sorted(offer.protocol_versions for offer in era.offers.values()),
                )
            )
            for era in eras
        ),
    )


def build(
    offers: Mapping[ServerName, Offer],
    owned: Mapping[str, Mapping[str, Owned]],
    *,
    instructions: str = "",
    capabilities: frozenset[str] = frozenset(),
    virtual_servers: Mapping[VirtualName, VirtualServer] | None = None,
    access: Access = OPEN,
) -> Snapshot:
    """Make a snapshot and serialise its lists; `owned` is by kind's name, then by key."""
    lists = {kind.name: _listing(kind, owned.get(kind.name, {})) for kind in KINDS}
    servers = {name: offer.server for name, offer in offers.items()}
    has_app_tools = any(tool.for_apps for tool in lists[TOOL.name].owned.values())
    return Snapshot(offers, servers, lists, instructions, capabilities, virtual_servers or {}, has_app_tools, access)


def _listing(kind: Kind, owned: Mapping[str, Owned]) -> Listing:
    keys = tuple(sorted(owned))
    pages: dict[str | None, bytes] = {None: _render(kind.member, owned, keys, 0)}
    for start in range(PAGE, len(keys), PAGE):
        pages[keys[start - 1]] = _render(kind.member, owned, keys, start)
    digest = hashlib.sha256(b"".join(pages.values())).hexdigest()[:16]
    return Listing(owned, keys, digest, kind.member, pages)


def _render(member: str, owned: Mapping[str, Owned], keys: tuple[str, ...], start: int) -> bytes:
    page_keys = keys[start : start + PAGE]
    body = ",".join(owned[key].text for key in page_keys)
    has_next = start + PAGE < len(keys)
    cursor = f',"nextCursor":{dumps(_write_cursor(page_keys[-1]))}' if has_next else ""
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
