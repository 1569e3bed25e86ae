"""What the adapters ask of one another, so that none has to import the other."""

from __future__ import annotations

from typing import Protocol

from mcpgw_sidecar.model.decisions import Reject

NOT_STARTED = Reject(status=503, code=-32000, message="The gateway has no configuration yet: try again")
"""What clients are told that waited long enough for a start to be over."""


class Started(Protocol):
    """The first look at the servers: before it is over, servers that the catalog lacks, and session keys, may yet come."""

    def is_over(self) -> bool:
        """Every server was tried, or patience is over."""

    async def wait_over(self) -> None:
        """Wait for that."""


class Stamps(Protocol):
    """How long a decision holds that Envoy remembers."""

    def of(self, session_key: str) -> tuple[int, str] | None:
        """A slot, and the stamp that stands there as long as decisions for this session hold; None: not to be remembered."""


class ClientStreams(Protocol):
    """The streams of clients in this process; `key` is a session's."""

    def send(self, key: str, message: bytes) -> None:
        """Send a message on the newest stream of a session, or keep it until there is one."""

    def hold(self, key: str, message: bytes) -> None:
        """Keep a message until the session has a stream here."""

    def mark(self, key: str) -> None:
        """Let the session's stream say at once what is heard for it."""

    def end_session(self, key: str) -> None:
        """The session is over: its streams end."""
