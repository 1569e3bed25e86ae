"""What the adapters ask of one another, so that none has to import the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState

NOT_STARTED = Reject(status=503, code=-32000, message="The gateway has no configuration yet: try again")
"""What clients are told that waited long enough for a start to be over."""


class Started(Protocol):
    """The first look at the servers: before it is over, what the catalog does not hold may yet come, and session keys, too."""

    def is_over(self) -> bool:
        """Every server was tried, or patience is over."""

    async def wait_over(self) -> None:
        """Wait for that."""


class Stamps(Protocol):
    """How long a decision holds that Envoy remembers."""

    def of(self, session_key: str) -> tuple[int, str] | None:
        """A slot, and what stands there as long as decisions for this session hold; None: not to be remembered."""


class SessionDirectory(Protocol):
    """Who a session id belongs to; shared by router and broker."""

    def lookup(self, token: str | None) -> SessionState | SessionFault:
        """Verify a session id and give what is known of it."""

    def subscribed(self, session: Session, server: Server, uri: str, *, wanted: bool) -> None:
        """A client's subscription to a resource (or its end) is on its way to the server."""

    async def wait_open(self, session: Session, server: Server, headers: Mapping[str, str]) -> Reject | None:
        """Open this session's session with a server, once however many ask; None when it is open.

        `headers` are those of the client's request: the server is to see the client, not the gateway.
        """
