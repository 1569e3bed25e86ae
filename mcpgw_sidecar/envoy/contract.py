"""The names, fields and limits that Python and the Lua filters share, and DEPENDS.

They are defined only here. `prelude` writes them as the first lines of each Lua filter
(`local NAME = value`); the filters in envoy/lua use only the names, and tests/core/test_contract.py
refuses a filter that contains a value of this module.

Entries of the memo, which memo.lua reads by the names of their fields, are in entries.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.kinds import KINDS
from mcpgw_sidecar.model.names import BROKER, ENDPOINT, ENVOY
from mcpgw_sidecar.model.reasons import BAD_ANSWER, BROKEN_OFF, OUTCOMES, REDIRECT, RPC_ERROR, UNAUTHORIZED
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.envelope import META_CAPABILITIES, META_CLIENT, META_LEVEL
from mcpgw_sidecar.protocol.extensions import UI
from mcpgw_sidecar.protocol.gzipped import MAX_AROUND, WORTH
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR, SERVER_ERROR
from mcpgw_sidecar.protocol.methods import BROKERS, CALL, DISCOVER, INITIALIZE, INITIALIZED, LEVELS, LISTS
from mcpgw_sidecar.protocol.owners import PREFIX
from mcpgw_sidecar.protocol.passing import KEPT, PARAMS
from mcpgw_sidecar.protocol.versions import META_VERSION, STATEFUL, STATELESS

DEPENDS: Final = (":authority", ":path", "origin", h.X_VIRTUAL, "content-type", "content-encoding")
"""The request headers that every decision depends on.

Envoy repeats a decision only for a request with the same values of these headers, or without the
same ones. A decision also depends on the session id, which is the key of the memo, and on ACCEPTED.
"""

AUTHORIZATION: Final = "authorization"
PERSONAL: Final = (AUTHORIZATION, "accept")
"""Request headers that the decisions of a session depend on, too, and what it sees does not.

The router has to learn the newest Authorization, because streams of the session are opened with it,
and decides what a server may answer with. In the stateless era only a verified one counts.
"""

ACCEPTED: Final = h.VERSION
"""A header that decisions depend on, but all accepted values give the same decision."""

SMALL: Final = 65536
"""Bytes of a JSON answer that events.lua holds until it is there as a whole."""

REMOVED: Final = ("accept-encoding", "origin", h.X_VIRTUAL)
"""Request headers that no server gets.

The gateway has checked the Origin, and a server, which knows only its own name, would refuse it.
With Accept-Encoding, event streams would be compressed, and the owner could not be written into
the ids of servers' requests.
"""

PASSES: Final = (
    *KEPT,
    *(":method", ":path", ":authority", ":scheme"),
    *("x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-retriable-status-codes"),  # istio.lua
    *("x-envoy-peer-metadata", "x-envoy-peer-metadata-id"),  # Istio
)
"""The request headers that passed.lua leaves: for servers, Envoy and Istio."""

HIDDEN: Final = (
    "set-cookie",
    "set-cookie2",
    "location",
    "www-authenticate",
    "proxy-authenticate",
    "authentication-info",
    "clear-site-data",
    "alt-svc",
    "strict-transport-security",
    "x-envoy-overloaded",
    "x-envoy-ratelimited",
    "x-envoy-immediate-health-check-fail",
    *(f"access-control-{name}" for name in ("allow-origin", "allow-credentials", "allow-methods", "allow-headers")),
    *(f"access-control-{name}" for name in ("expose-headers", "max-age", "allow-private-network")),
    h.SESSION,
)
"""Response headers of servers that no client gets (interface.md, What passes).

A cookie of one server would go to the others, for a client knows one host alone; what a server says
of origins and credentials is not the gateway's word.
"""

METADATA: Final = "mcpgw"
"""Namespace of the dynamic metadata, and of the metadata of routes."""

ID, WHAT, OWNER, ANSWERED, LOOKUP, ASKED, REFUSED, HEALED, FAILED, PLAIN, TRUSTED, MEMO, REFUSAL, WHO = (
    "id",
    "what",
    "session",
    "answered",
    "lookup",
    "asked",
    "refused",
    "healed",
    "failed",
    "plain",
    "trusted",
    "memo",
    "refusal",
    "who",
)
"""Members of the metadata.

ID is the id of the request (JSON), WHAT its key (for Envoy's own answers), OWNER the id of the
client's session and the owner for the ids of server requests (`TOKEN OWNER`), ANSWERED "1" if the
answer is already JSON-RPC, LOOKUP the result of the memo's lookup, ASKED the values that a list
depended on, REFUSED what a server gave instead of an answer (`status`, `body`), HEALED the session
that was replaced, FAILED the reason why a server's answer became an error, PLAIN "1" for
a client that takes no event stream, TRUSTED "1" for a server that is, MEMO a MemoEntry, and REFUSAL
what has been refused, for the access log: REFUSAL_MEMBERS. WHO is for that
log, too: session, client_name, client_version, host, virtual_server; of a hit it has the owner.
"""

REFUSAL_MEMBERS: Final = ("outcome", "code", "method", "server", "tool")

ANSWER: Final = "answer"
"""A tag of the counters: HTTP status, Envoy's flags and FAILED, each "-" for none."""

DECLINED, MISS = "declined", "miss"
"""Values of LOOKUP; a hit sets none."""

BROKER_CLUSTER, ROUTER_CLUSTER = "mcpgw_broker", "mcpgw_router"
HEAL_PATH: Final = "/heal"
"""Path of the broker's answer to heal.lua; Envoy routes no client there.

A secret follows it, if Envoy's files hold one: other processes of the machine cannot ask then.
"""

CHANGED_PATH: Final = "/changed"
"""Path at which events.lua says that a server's lists changed; Envoy routes no client there."""

JWKS_PATH: Final = "/jwks"
"""Path of the issuers' public keys, for Envoy; with a secret of its own, and the issuer's mark."""
FORGOTTEN: Final = (400, 401, 403, 404, 410)
"""The statuses of servers that do not know a session (any more).

The specification says 404 (basic/transports, Session Management); the others were seen in the
field. A server has other reasons for each of them, so a ping decides whether the session is over.
"""

RETRY_ON: Final = "connect-failure,refused-stream,reset-before-request,retriable-status-codes"
"""Envoy sends a request once more only if the server has certainly not run it.

The connection was refused, the request was never written to it, or the server does not know the
session: then refused.lua gives the answer the status AGAIN, as it does where heal.lua is to answer.
"""

RESTART: Final = {
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 60,
    "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.3s"},
}
"""Envoy waits nine seconds in the mean for a sidecar that restarts.

Many clients take a 503 for the end of their session, and never open their stream again. There are
many short intervals, each with a random part: the sum of few ones differs too much.
"""

AGAIN: Final = 599
"""The status, which no standard has, of an answer after which Envoy sends a call once more."""

ATTEMPTS: Final = 3
"""Further attempts: for a broken connection, a forgotten session, and heal.lua's own answer."""

SLOTS: Final = 4096
"""Slots of the stamps' file; the end of a session is a miss for all sessions of its slot."""
STAMP: Final = 16
"""Characters of a stamp.

The first half is the hash of what all decisions depend on, the second half changes when a session
of the slot ends.
"""
PARTS: Final = 1024
"""Parts of the catalog: a server is in one of them, by its name; the one behind them is for lists.

Behind the stamps the file has a mark of each part, half as long as a stamp: the hash of what
decisions about its servers depend on. A change of one server leaves those of others valid.
"""
TURNS: Final = 1 << 20
"""Lengths of the stamps' file before they repeat; Envoy relies on a length for one second."""
MARKS: Final = SLOTS * STAMP
"""The place of the marks in the file, in bytes."""
LENGTHS: Final = MARKS + (PARTS + 1) * STAMP // 2 + TURNS + 2
"""The number of lengths, including the -1 of a missing file."""

CHANGES: Final = tuple(dict.fromkeys(kind.changed for kind in KINDS))
"""Notifications of servers about their lists, which the gateway does not pass on."""

_Value = str | int | tuple[str, ...] | Mapping[str, str]
_SHARED: Final[Mapping[str, _Value]] = {
    "METADATA": METADATA,
    "ID": ID,
    "OWNER": OWNER,
    "ANSWERED": ANSWERED,
    "LOOKUP": LOOKUP,
    "DECLINED": DECLINED,
    "MISS": MISS,
    "ASKED": ASKED,
    "REFUSED": REFUSED,
    "HEALED": HEALED,
    "FAILED": FAILED,
    "PLAIN": PLAIN,
    "TRUSTED": TRUSTED,
    "MEMO": MEMO,
    "PREFIX": PREFIX,
    "SESSION": h.SESSION,
    "ACCEPTED": ACCEPTED,
    **{f"X_{name}": getattr(h, f"X_{name}") for name in ("METHOD", "TOOL", "SERVER", "MEMO", "SESSION", "OWNER", "PASSED")},
    **{f"X_{name}": getattr(h, f"X_{name}") for name in ("SIZE", "ID", "CLAIMS", "SUBJECT", "CARRIED", "VIRTUAL")},
    "ENDPOINT": ENDPOINT,
    "PASSES": PASSES,
    "PARAMS": PARAMS,
    "ATTEMPT": h.ATTEMPT,
    "KEPT": h.KEPT,
    "SMALL": SMALL,
    "JSON": h.JSON,
    "EVENT_STREAM": h.EVENT_STREAM,
    "BROKER": BROKER,
    "ENVOY": ENVOY,
    "BROKER_CLUSTER": BROKER_CLUSTER,
    "CHANGED": 1000,
    "CHANGES": CHANGES,
    "FORGOTTEN": tuple(map(str, FORGOTTEN)),
    "RETRY_ON": RETRY_ON,
    "AGAIN": str(AGAIN),
    "ATTEMPTS": ATTEMPTS,
    "UNAUTHORIZED": UNAUTHORIZED,
    "REDIRECT": REDIRECT,
    "BAD_ANSWER": BAD_ANSWER,
    "BROKEN_OFF": BROKEN_OFF,
    "RPC_ERROR": RPC_ERROR,
    "SERVER_ERROR": SERVER_ERROR,
    "INTERNAL_ERROR": INTERNAL_ERROR,
    "INITIALIZE": INITIALIZE,
    "DISCOVER": DISCOVER,
    "AUTHORIZATION": AUTHORIZATION,
    "MCP_METHOD": h.MCP_METHOD,
    "MCP_NAME": h.MCP_NAME,
    "LAST_EVENT": h.LAST_EVENT,
    "LISTING": h.LISTING,
    "REFUSAL": REFUSAL,
    "OUTCOMES": OUTCOMES,
    "REFUSAL_MEMBERS": " ".join(REFUSAL_MEMBERS),
    "WHO": WHO,
    "STATEFUL": ("", *STATEFUL),
    "STATELESS": STATELESS,
    "META_VERSION": META_VERSION,
    "META_CAPABILITIES": META_CAPABILITIES,
    "META_CLIENT": META_CLIENT,
    "META_LEVEL": META_LEVEL,
    "LEVELS": LEVELS,
    "UI": UI,
    "INITIALIZED": INITIALIZED,
    "CALL": CALL,
    "STAMP": STAMP,
    "LENGTHS": LENGTHS,
    "PARTS": PARTS,
    "MARKS": MARKS,
    "WORTH": WORTH,
    "MAX_AROUND": MAX_AROUND,
    "MAX_TOKEN": h.MAX_TOKEN,
    "LISTS": LISTS,
    "BROKERS": BROKERS,
    "REMOVED": REMOVED,
    "HIDDEN": HIDDEN,
}


def prelude(stamps: str = "", *, request: float = timeouts.REQUEST, secret: str = "") -> str:
    """The first lines of a Lua filter.

    `stamps` is the path of the stamps' file, "" for none; `request` the longest time of one of the
    gateway's own requests to a server, in seconds. `secret` follows the paths of the filters' own
    questions.
    """
    # DEPENDS is read at each call, so that a test may add a header to it.
    limit = int(timeouts.healing(request) * 1000)
    names = {**_SHARED, "HEALING": limit, "DEPENDS": DEPENDS, "PERSONAL": PERSONAL, "STAMPS": stamps}
    names |= {"HEAL_PATH": HEAL_PATH + secret, "CHANGED_PATH": CHANGED_PATH + secret}
    lines = (f"local {name} = {_lua(value)}\n" for name, value in names.items())
    return "-- Written by mcpgw_sidecar/envoy/contract.py: what the sidecar knows, too.\n" + "".join(lines)


def _lua(value: _Value) -> str:
    """A value in the syntax of Lua."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_lua(text)}" for name, text in value.items()) + "}"
    if isinstance(value, tuple):
        return "{" + ", ".join(_lua(text) for text in value) + "}"
    if isinstance(value, int):
        return str(value)
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'
