"""What `routing.decide` can answer. A closed choice: match it with `assert_never`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from mcpgw_sidecar.model.kinds import Kind
from mcpgw_sidecar.model.names import NULL, JsonText
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session

_OUTCOMES = {
    200: "rpc_error",
    503: "unavailable",
    504: "timeout",
}  # 200: an answer of JSON-RPC, not of HTTP


@attrs.frozen(kw_only=True)
class HttpRequest:
    """A client's request as Envoy saw it. Header names are lower case; `:method`, `:authority` and `:path` are among them."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.headers.get(":method", "POST")

    @property
    def path(self) -> str:
        """The path without its query."""
        return self.headers.get(":path", "").partition("?")[0]


@attrs.frozen(kw_only=True)
class Reject:
    """Answer the client with a JSON-RPC error; nothing reaches a server.

    `method` is the request's, where it could be read; `server` and `tool` are what it is about, where
    that is known: they are for metrics and logs.
    """

    status: int
    code: int
    message: str
    id: JsonText = NULL
    data: Any = None
    method: str = ""
    server: str = ""
    tool: str = ""

    @property
    def outcome(self) -> str:
        """Its word in the metrics."""
        return _OUTCOMES.get(self.status, "rejected")


@attrs.frozen(kw_only=True)
class ToBroker:
    """Let the broker answer. `method` is empty for a client's answer to a server's request."""

    method: str
    id: JsonText = NULL


@attrs.frozen(kw_only=True)
class OpenSession:
    """The call needs a session with this server first; ask again when it is open."""

    server: Server
    session: Session
    id: JsonText
    method: str
    tool: str = ""


@attrs.frozen(kw_only=True)
class Forward:
    """Send the message to its server. `body` is the client's with one key (or an answer's id) exchanged, nothing else.

    `key` is the name or URI as the client wrote it. `kind` is None for an answer to a server's request; `method` and `key`
    are empty then. `owner` is what the server's own requests are made to name. With `last_event_id` it is no message but the stream of
    an earlier one that is resumed (GET, no body). `expires` is when the
    client's session does (epoch seconds). `sent_key` is what stands for `key` in `body`, as JSON; None if it is as it came.
    """

    server: Server
    kind: Kind | None
    key: str
    method: str
    id: JsonText
    session_key: str
    expires: int
    session_id: str | None = attrs.field(repr=False)
    protocol_version: str
    owner: str = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    last_event_id: str | None = attrs.field(default=None, repr=False)
    sent_key: JsonText | None = None


Decision = Reject | ToBroker | OpenSession | Forward
