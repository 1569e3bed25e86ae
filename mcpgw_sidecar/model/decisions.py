"""The answers of `routing.decide`. They are a closed choice: match them with `assert_never`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from mcpgw_sidecar.model.access import Rule
from mcpgw_sidecar.model.exchanges import Given
from mcpgw_sidecar.model.kinds import TOOL, Kind
from mcpgw_sidecar.model.names import NULL, JsonText
from mcpgw_sidecar.model.reasons import OUTCOMES
from mcpgw_sidecar.model.servers import ForwardedHeader, Server
from mcpgw_sidecar.model.sessions import Session

_OUTCOMES = {
    200: "rpc_error",
    503: "unavailable",
    504: "timeout",
}  # 200: an error of JSON-RPC, not of HTTP


@attrs.frozen(kw_only=True)
class HttpRequest:
    """A client's request as Envoy received it.

    Header names are lower case, and include `:method`, `:authority` and `:path`.
    """

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

    `method` is the request's, where it could be read. `server` and `tool` are those of the request,
    where the router found them. `reason` says why its server failed (model/reasons.py), "" if none
    did. `session` is the client's. All five are for metrics and logs. `challenge` is the value of
    WWW-Authenticate, "" for none.
    """

    status: int
    code: int
    message: str
    id: JsonText = NULL
    data: Any = None
    method: str = ""
    server: str = ""
    tool: str = ""
    reason: str = ""
    challenge: str = ""
    session: Session | None = None

    @property
    def outcome(self) -> str:
        """The label of this outcome in the metrics."""
        return OUTCOMES.get(self.reason) or _OUTCOMES.get(self.status, "rejected")


@attrs.frozen(kw_only=True)
class ToBroker:
    """Let the broker answer. `method` is empty for a client's answer to a server's request."""

    method: str
    id: JsonText = NULL


@attrs.frozen(kw_only=True)
class OpenSession:
    """The call needs a session with this server first; decide again when the session is open."""

    server: Server
    session: Session
    id: JsonText
    method: str
    tool: str = ""


@attrs.frozen(kw_only=True)
class FindServer:
    """Several servers may know this URI: ask them in their order, and decide again."""

    servers: tuple[Server, ...]
    uri: str
    session: Session
    id: JsonText
    method: str


@attrs.frozen(kw_only=True)
class Forward:
    """Send the message to its server.

    `body` is the client's, with one key (or the id of an answer) replaced, and nothing else. `key`
    is the name or URI as the client wrote it, `sent_key` the JSON in its place in `body`, or None
    if the key was not replaced. `kind` is None for an answer to a server's request; `method` and
    `key` are empty then. `owner` goes into the ids of the server's own requests
    (protocol/owners.py). `session` is the client's, None in the stateless era, where `name_header`
    is the value of `Mcp-Name`, and `apps` says that the client shows pages.

    `rules` are those that hold for the caller. `given` is what the server gets in place of the
    caller's token, or in Istio the server's credential, which Envoy of ours has by itself.

    With `last_event_id` the request is no message: it resumes the stream of an earlier one (GET, no
    body).
    """

    server: Server
    kind: Kind | None
    key: str
    method: str
    id: JsonText
    session: Session | None
    session_id: str | None = attrs.field(repr=False)
    protocol_version: str
    owner: str = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    last_event_id: str | None = attrs.field(default=None, repr=False)
    sent_key: JsonText | None = None
    name_header: str | None = None
    apps: bool = False
    rules: frozenset[Rule] | None = None
    given: Given | None = None

    @property
    def passed(self) -> tuple[ForwardedHeader, ...]:
        """What the server gets of the request's headers in Istio.

        What it is given travels under a name of the gateway's own, for other filters see it, too.
        """
        if self.given is None:
            return self.server.wanted
        own = ForwardedHeader(self.server.exchanged_header, self.server.given_as)
        return (*(each for each in self.server.forwarded if each.sent != own.sent), own)


@attrs.frozen(kw_only=True)
class Carry:
    """Let the broker carry a request to a server that does not speak the client's era.

    `text` is the client's request with one key replaced; `headers` are those of its message there.
    `session` is the client's, None in the stateless era, where `apps` says that the client shows
    pages. `rules` are those that hold for the caller.
    """

    server: Server
    kind: Kind
    key: str
    method: str
    id: JsonText
    session: Session | None
    text: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    apps: bool = False
    rules: frozenset[Rule] | None = None

    @property
    def tool(self) -> str:
        """The tool that is called; "" for another request."""
        return self.key if self.kind is TOOL else ""


Decision = Reject | ToBroker | OpenSession | FindServer | Forward | Carry
