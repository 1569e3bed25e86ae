"""Sessions of clients with the gateway, and of the gateway, for a client, with an MCP server."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class Session:
    """The claims of a sealed session id.

    `key` names the session inside the process; `expires` is in epoch seconds. `client_info` and
    `capabilities` are JSON of the client's initialize, which upstream sessions repeat. `owner` is
    whose session it is (inbound/callers.py), "" for nobody's.
    """

    key: str
    expires: int
    protocol_version: str
    client_info: JsonText
    capabilities: JsonText
    owner: str = ""


def short(key: str) -> str:
    """The mark of a session for a log line: the first 8 characters of the hash of its key."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


class SessionFault(enum.Enum):
    """Why there is no session: the status and the message for the client."""

    MISSING = (400, "No session ID found: send initialize first, then its Mcp-Session-Id with every request")
    UNKNOWN = (404, "Session not found: it is unknown, was ended or was not issued here; send initialize again")
    EXPIRED = (404, "Session expired: send initialize again")

    @property
    def status(self) -> int:
        """HTTP status (specification, basic/transports, session management)."""
        return self.value[0]

    @property
    def message(self) -> str:
        """The message for the client."""
        return self.value[1]


@attrs.frozen(kw_only=True)
class UpstreamSession:
    """A session with an MCP server; `id` is None for a server without sessions.

    `brought` has the newest headers of the client that servers want (`Server.forwarded`), by their
    names at the client: requests of the gateway in this session repeat them. `ticket` is the
    session, sealed for its client (sessions/tickets.py).
    """

    id: str | None = attrs.field(repr=False)
    protocol_version: str
    ticket: str = attrs.field(default="", repr=False, eq=False)
    brought: Mapping[str, str] = attrs.field(default=NOTHING, repr=False, eq=False)


@attrs.frozen(kw_only=True)
class Wishes:
    """The wishes of a client for notifications: a log level, and resources of a server.

    A new session with the server repeats them.
    """

    level: str | None = None
    resources: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class AllWishes:
    """All wishes of a client for notifications: a log level, and resources by server."""

    level: str | None = None
    resources: Mapping[ServerName, frozenset[str]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class SessionState:
    """A verified session with its open upstream sessions.

    `links` has the servers of URIs that no list has, as far as they were found. `opens` gives the
    upstream session that is sealed in a ticket.
    """

    session: Session
    upstreams: Mapping[ServerName, UpstreamSession]
    links: Mapping[str, ServerName] = attrs.field(factory=dict)
    opens: Callable[[Server, str], UpstreamSession | None] = attrs.field(default=lambda _server, _ticket: None, eq=False)
