"""Names of HTTP headers that MCP and this gateway give a meaning (lower case), and which of them travel where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

SESSION: Final = "mcp-session-id"
VERSION: Final = "mcp-protocol-version"
X_METHOD: Final = "x-mcp-method"
X_TOOL: Final = "x-mcp-toolname"
X_PROMPT: Final = "x-mcp-promptname"
X_RESOURCE: Final = "x-mcp-resourceuri"
X_SERVER: Final = "x-mcp-servername"

LAST_EVENT: Final = "last-event-id"
JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

X_VIRTUAL: Final = "x-mcp-virtualserver"
"""Names the virtual server that a client wants to see; the client's own, and of no use to servers."""

X_SESSION: Final = "x-mcp-session"
"""The key of the gateway's session, from the healing filter to the broker."""

X_OWNER: Final = "x-mcp-owner"
"""What the server's requests are made to name, from the broker to the healing filter."""

X_MEMO: Final = "x-mcp-memo"
"""For the route memo: how long an answer of the broker holds; KEPT on a call whose answer brings a decision to keep, and on that answer."""

KEPT: Final = "call"

ATTEMPT: Final = "x-envoy-attempt-count"
"""Which attempt at a request this is, from Envoy to its filters."""

OURS: Final = (X_METHOD, X_TOOL, X_PROMPT, X_RESOURCE, X_SERVER, X_SESSION, X_OWNER, X_MEMO)
"""Set by the router, the broker and the filters alone; whatever a client sends under these names is removed before anything reads it."""

HOP_BY_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "expect",
})  # fmt: skip  # RFC 9110 section 7.6.1
_OF_THE_MESSAGE: Final = frozenset({
    "host", "content-length", "content-type", "content-encoding", "accept", "accept-encoding", SESSION, VERSION,
    LAST_EVENT, X_VIRTUAL, "origin",
})  # fmt: skip
_ENVOY: Final = ("x-envoy-", "x-request-id", "x-forwarded-")


MAX_TOKEN: Final = 8192
"""Characters of a session id: what common servers take as a header."""

MAX_VALUE: Final = (
    8192  # characters of a name in a header: the longest URI that is federated; proxies take 60 KiB of headers
)


def is_header_value(text: str) -> bool:
    """Visible ASCII and inner spaces, nothing that a header cannot carry (RFC 9110 section 5.5)."""
    return bool(text) and text.isascii() and text.isprintable() and text == text.strip()


def for_upstream(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a client that a session opened in its name repeats: all but hop-by-hop, message and gateway ones."""
    return {
        name: value.strip(" \t")
        for name, value in headers.items()
        if name not in HOP_BY_HOP
        and name not in _OF_THE_MESSAGE
        and name not in OURS
        and not name.startswith((":", "access-control-", "sec-", *_ENVOY))
    }


def value_of(name: str) -> str:
    """A name as a header value: visible ASCII stays, everything else is percent-encoded UTF-8 (RFC 3986); cut at MAX_VALUE."""
    return quote(name[:MAX_VALUE], errors="replace", safe="!#$&'()*+,/:;=?@[]\"<>\\^`{|}~-._ ")
