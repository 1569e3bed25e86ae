"""Sessions of clients with the gateway, and of the gateway, for a client, with an MCP server."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

import attrs

from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server


@attrs.frozen(kw_only=True)
class Session:
    """What a sealed session id says. `key` names the session inside the process; `expires` is in epoch seconds.

    `client_info` and `capabilities` are the client's own, as it wrote them in initialize: upstream sessions repeat them.
    """

    key: str
    expires: int
    protocol_version: str
    client_info: JsonText
    capabilities: JsonText


class SessionFault(enum.Enum):
    """Why there is no session: the status and the words that the client gets."""

    MISSING = (400, "No session ID found: send initialize first, then its Mcp-Session-Id with every request")
    UNKNOWN = (404, "Session not found: it is unknown, was ended or was not issued here; send initialize again")
    EXPIRED = (404, "Session expired: send initialize again")

    @property
    def status(self) -> int:
        """HTTP status (specification, basic/transports, session management)."""
        return self.value[0]

    @property
    def message(self) -> str:
        """What the client is told."""
        return self.value[1]


@attrs.frozen(kw_only=True)
class UpstreamSession:
    """A session with an MCP server. `id` is None for a server that keeps none.

    `authorization` is the client's when it was opened: whoever closes it has to show it again. `ticket` is the session, sealed for
    its client (sessions/tickets.py).
    """

    id: str | None = attrs.field(repr=False)
    protocol_version: str
    ticket: str = attrs.field(default="", repr=False, eq=False)
    authorization: str | None = attrs.field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What a request in this session shows besides its id, where the client's own headers are not at hand."""
        return {"authorization": self.authorization} if self.authorization else {}


@attrs.frozen(kw_only=True)
class Wishes:
    """What a client asked to be told of: a log level, and resources of a server. A new session with the server repeats them."""

    level: str | None = None
    resources: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class SessionState:
    """A verified session with the upstream sessions that are open for it. `opens` gives the one that a ticket holds."""

    session: Session
    upstreams: Mapping[ServerName, UpstreamSession]
    opens: Callable[[Server, str], UpstreamSession | None] = attrs.field(default=lambda _server, _ticket: None, eq=False)
