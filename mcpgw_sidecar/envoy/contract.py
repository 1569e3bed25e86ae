"""What Python and the Lua filters both know, in its only place: names, fields, limits, and DEPENDS.

`prelude` writes them as the first lines of each Lua filter (`local NAME = value`); the filters in
envoy/lua use the names alone, and tests/core/test_contract.py refuses a value of this module that
stands in one of them.

`MemoEntry` is what the router leaves for memo.lua beside a decision (dynamic metadata `METADATA`,
member `MEMO`); memo.lua reads its fields by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from mcpgw_sidecar.model.decisions import Forward, HttpRequest
from mcpgw_sidecar.model.names import BROKER, ENVOY
from mcpgw_sidecar.model.timeouts import HEALING
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.gzipped import MAX_AROUND, WORTH, Packed
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.methods import BROKERS, CALL, INITIALIZE, LISTS
from mcpgw_sidecar.protocol.owners import PREFIX

DEPENDS: Final = (":authority", ":path", "origin", h.X_VIRTUAL, "content-type")
"""The request headers on which every decision depends. Envoy repeats a decision only for a request
whose headers of these names are the same as then, or missing as then. Beside them a decision
depends on the session id, which the memo looks the rest up by, and on ACCEPTED."""

ACCEPTED: Final = h.VERSION
"""A header that decisions depend on, but all values that were once accepted alike."""

REMOVED: Final = ("accept-encoding", "origin", h.X_VIRTUAL)
"""Request headers that no server gets. Origin: it was judged here, and the server, which knows its own
name alone, would refuse it. Accept-Encoding: in compressed event streams the requests of servers
could not be made to name their server."""

METADATA: Final = "mcpgw"
"""Namespace of the dynamic metadata, and of the routes' own."""

ID, WHAT, OWNER, ANSWERED, LOOKUP, ASKED, HEALED, MEMO = (
    "id",
    "what",
    "session",
    "answered",
    "lookup",
    "asked",
    "healed",
    "memo",
)
"""Members of the metadata: the request's id (JSON), what it asked for (for Envoy's own answers), the
client's session and the owner of what its server asks (`KEY OWNER`), "1" once the answer is a whole
one of JSON-RPC, what the memo found, what a list depended on, the session that was replaced, and a
MemoEntry."""

DECLINED, MISS = "declined", "miss"
"""Values of LOOKUP; a hit says nothing."""

BROKER_CLUSTER, ROUTER_CLUSTER = "mcpgw_broker", "mcpgw_router"
HEAL_PATH: Final = "/heal"
"""Path of the broker's answer to heal.lua; Envoy routes no client there."""

FORGOTTEN: Final = 404
"""What a server answers that does not know a session (basic/transports, Session Management)."""

RETRY_ON: Final = "connect-failure,refused-stream,reset-before-request,retriable-status-codes"
"""What has certainly not run may be sent once more: the connection was refused, the request was never
written to it, or the server does not know the session (FORGOTTEN)."""

UNREACHABLE: Final = ["UF", "UH", "URX", "UC", "UO", "NC", "UR", "LR"]
"""Envoy's flags of a response that no upstream gave."""

SLOTS: Final = 4096
"""Slots of the stamps' file; sessions that share one are forgotten together: a miss for them."""
STAMP: Final = 16
"""Characters of a stamp: the first half is what all decisions depend on, the second changes when a
session of the slot ends."""
TURNS: Final = 1 << 20
"""Lengths of the stamps' file before they come again: Envoy believes one for a second."""
LENGTHS: Final = SLOTS * STAMP + TURNS + 2
"""How many lengths there are, with the -1 of a file that is not there."""

_Value = str | int | tuple[str, ...]
_SHARED: Final[Mapping[str, _Value]] = {
    "METADATA": METADATA,
    "ID": ID,
    "OWNER": OWNER,
    "ANSWERED": ANSWERED,
    "LOOKUP": LOOKUP,
    "DECLINED": DECLINED,
    "MISS": MISS,
    "ASKED": ASKED,
    "HEALED": HEALED,
    "MEMO": MEMO,
    "PREFIX": PREFIX,
    "SESSION": h.SESSION,
    "ACCEPTED": ACCEPTED,
    "X_METHOD": h.X_METHOD,
    "X_TOOL": h.X_TOOL,
    "X_SERVER": h.X_SERVER,
    "X_MEMO": h.X_MEMO,
    "X_SESSION": h.X_SESSION,
    "X_OWNER": h.X_OWNER,
    "ATTEMPT": h.ATTEMPT,
    "KEPT": h.KEPT,
    "BROKER": BROKER,
    "ENVOY": ENVOY,
    "BROKER_CLUSTER": BROKER_CLUSTER,
    "HEAL_PATH": HEAL_PATH,
    "HEALING": int(HEALING * 1000),
    "FORGOTTEN": str(FORGOTTEN),
    "RETRY_ON": RETRY_ON,
    "INITIALIZE": INITIALIZE,
    "CALL": CALL,
    "STAMP": STAMP,
    "LENGTHS": LENGTHS,
    "WORTH": WORTH,
    "MAX_AROUND": MAX_AROUND,
    "MAX_TOKEN": h.MAX_TOKEN,
    "LISTS": LISTS,
    "BROKERS": BROKERS,
    "REMOVED": REMOVED,
}


def prelude(stamps: str = "") -> str:
    """The first lines of a Lua filter. `stamps` is the path of the stamps' file, "" where there is none."""
    # DEPENDS is looked up here, so that a test may add a header to it.
    names = {**_SHARED, "DEPENDS": DEPENDS, "STAMPS": stamps}
    lines = (f"local {name} = {_lua(value)}\n" for name, value in names.items())
    return "-- Written by mcpgw_sidecar/envoy/contract.py: what the sidecar knows, too.\n" + "".join(lines)


def _lua(value: _Value) -> str:
    """A value as Lua writes it."""
    if isinstance(value, tuple):
        return "{" + ", ".join(_lua(each) for each in value) + "}"
    if isinstance(value, int):
        return str(value)
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'


@attrs.frozen(kw_only=True)
class Keep:
    """What Envoy needs besides a decision to repeat it: the request, and as long as what it holds."""

    request: HttpRequest
    slot: int
    stamp: str


@attrs.frozen(kw_only=True)
class MemoEntry:
    """What memo.lua keeps: what the decision depended on, and what it is.

    `headers` are those of DEPENDS that the request had, `token` its session id, `version` its value of
    ACCEPTED, "" for none. `name` is the tool as the client calls it, `renamed` what stands for that
    in the body (JSON; None: the name itself). The rest is what the request is sent with.
    """

    token: str
    version: str
    headers: Mapping[str, str]
    slot: int
    stamp: str
    expires: int
    name: str
    renamed: str | None
    server: str
    authority: str
    path: str
    speaks: str
    session_id: str | None


MEMO_FIELDS: Final = tuple(field.name for field in attrs.fields(MemoEntry))


def list_mark(slot: int, stamp: str, expires: int, packed: Packed | None) -> str:
    """The value of X_MEMO on a list: how long it holds, and two checksums with which gzip.lua puts it around another id."""
    sums = "" if packed is None else f" {packed.alone:08x}{packed.top:08x}"
    return f"{slot} {stamp} {expires}{sums}"


def memo_entry(decision: Forward, keep: Keep) -> MemoEntry:
    """The entry of a decision about a tools/call."""
    headers, server = keep.request.headers, decision.server
    return MemoEntry(
        token=headers.get(h.SESSION, ""),
        version=headers.get(ACCEPTED, ""),
        headers={name: headers[name] for name in DEPENDS if name in headers},
        slot=keep.slot,
        stamp=keep.stamp,
        expires=decision.expires,
        name=decision.key,
        renamed=decision.sent_key if decision.sent_key != dumps(decision.key) else None,
        server=server.name,
        authority=server.hostname,
        path=server.path,
        speaks=decision.protocol_version,
        session_id=decision.session_id,
    )
