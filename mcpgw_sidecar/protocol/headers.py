"""Names of the HTTP headers of MCP and of this gateway, in lower case, and what they may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

SESSION: Final = "mcp-session-id"
VERSION: Final = "mcp-protocol-version"
X_METHOD: Final = "x-mcp-method"
X_TOOL: Final = "x-mcp-toolname"
X_PROMPT: Final = "x-mcp-promptname"
X_RESOURCE: Final = "x-mcp-resourceuri"
X_SERVER: Final = "x-mcp-servername"

MCP_METHOD: Final = "mcp-method"
MCP_NAME: Final = "mcp-name"
LAST_EVENT: Final = "last-event-id"
JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

X_VIRTUAL: Final = "x-mcp-virtualserver"
"""The virtual server that a client names. It comes from the client, and is not for servers."""

X_SESSION: Final = "x-mcp-session"
"""The id of the gateway's session, from the healing filter to the broker."""

X_OWNER: Final = "x-mcp-owner"
"""The owner for the ids of the server's requests, between the healing filter and the broker."""

X_MEMO: Final = "x-mcp-memo"
"""For the route memo.

On an answer of the broker it says how long the answer is valid. It is KEPT on a call whose answer
brings a decision for the memo, and on that answer.
"""

KEPT: Final = "call"

ATTEMPT: Final = "x-envoy-attempt-count"
"""The number of the attempt at a request, from Envoy to its filters."""

X_PASSED: Final = "x-mcp-passed"
X_OWN: Final = "x-mcp-own"  # the secret of a sidecar that asks a server itself, by its gateway (Istio)
"""What a server gets of a client's headers besides PASSED, for passed.lua (passing.py)."""

X_SIZE: Final = "x-mcp-size"
"""How long a client's headers are, from Envoy to memo.lua (envoy/listener.py)."""

X_ID: Final = "x-mcp-id"
"""The id of a call on the answer of a server that is not trusted, for events.lua."""

X_CLIENT: Final = "x-mcp-client"
"""The address of the client, from Envoy to the broker, and back with each message of a batch."""

X_CLAIMS: Final = "x-mcp-claims"
"""The claims of a token that Envoy has verified, in base64url; for router and broker alone."""

X_SUBJECT: Final = "x-mcp-subject"
"""The verified caller, for servers whose forwardHeaders name it."""

X_CARRIED: Final = "x-mcp-carried"
"""The broker carries the call to its server, in the server's words (front/carrying.py)."""

LISTING: Final = "(listing "
"""In the User-Agent of a gateway that lists its servers: the broker answers it, never the memo."""

OURS: Final = (
    X_METHOD,
    X_TOOL,
    X_PROMPT,
    X_RESOURCE,
    X_SERVER,
    X_SESSION,
    X_OWNER,
    X_MEMO,
    X_PASSED,
    X_SIZE,
    X_CLIENT,
    X_CLAIMS,
    X_SUBJECT,
    X_CARRIED,
)
"""Headers that only the router, the broker and the filters set.

A client's headers with these names are removed before anything reads them.
"""

MAX_TOKEN: Final = 8192
"""Characters of a session id: the limit of common servers for a header."""

MAX_VALUE: Final = 8192
"""Characters of a name in a header: the longest URI of the catalog; proxies take 60 KiB in all."""


_NOTHING = re.compile(r"q\s*=\s*0(\.0*)?")  # a weight: nothing of this range
SINGLE: Final = (SESSION, VERSION, X_VIRTUAL)
"""Headers of which a request has one at most: two readers could take different ones."""

_UTF_8 = re.compile(r'charset\s*=\s*"?utf-?8"?', re.IGNORECASE)


def joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name; a repeated one has its values in a list (RFC 9110, section 5.2)."""
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def is_plain_json(headers: Mapping[str, str]) -> bool:
    """Whether a body is JSON in UTF-8, and said to be nothing else.

    A server that obeyed another charset, or an encoding, would read another message.
    """
    if headers.get("content-encoding", "").strip():
        return False
    media_type, *parameters = (part.strip() for part in headers.get("content-type", JSON).split(";"))
    return media_type.lower() == JSON and all(_UTF_8.fullmatch(each) for each in parameters if each)


BOTH: Final = f"{JSON}, {EVENT_STREAM}"
"""What a client has to accept (basic/transports, Sending Messages to the Server)."""


def accepted(value: str | None) -> frozenset[str]:
    """Those of JSON and EVENT_STREAM that an `Accept` takes (RFC 9110, section 12.5.1).

    Without the header, a client takes both.
    """
    if value is None or not value.strip():
        return frozenset({JSON, EVENT_STREAM})
    names = _ranges(value)
    return frozenset(kind for kind in (JSON, EVENT_STREAM) if names & {kind, "*/*", f"{kind.partition('/')[0]}/*"})


def names_both(accept: str) -> bool:
    """Whether an `Accept` names both types, as servers want it."""
    return _ranges(accept) >= {JSON, EVENT_STREAM}


def _ranges(accept: str) -> frozenset[str]:
    """The media ranges of an `Accept`, without those of weight 0."""
    parts = [[text.strip() for text in part.split(";")] for part in accept.lower().split(",")]
    return frozenset(name for name, *parameters in parts if not any(_NOTHING.fullmatch(each) for each in parameters))


def is_header_value(text: str) -> bool:
    """Whether a header can have this value: visible ASCII, inner spaces (RFC 9110 section 5.5)."""
    return bool(text) and text.isascii() and text.isprintable() and text == text.strip()


def value_of(name: str) -> str:
    """A name as a header value, cut at MAX_VALUE.

    Visible ASCII stays, any other character is percent-encoded UTF-8 (RFC 3986).
    """
    return quote(name[:MAX_VALUE], errors="replace", safe="!#$&'()*+,/:;=?@[]\"<>\\^`{|}~-._ ")
