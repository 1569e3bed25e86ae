"""The interfaces between adapters, so that no adapter has to import another."""

from __future__ import annotations

from typing import Protocol

import attrs

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ServerName

NOT_STARTED = Reject(status=503, code=-32000, message="The gateway has no configuration yet: try again")
"""The answer to a client that has waited too long for the end of the start."""


class Started(Protocol):
    """The start: until it is over, servers may be missing in the catalog, and session keys."""

    def is_over(self) -> bool:
        """Whether every server was tried, or the time for that is over."""

    async def wait_over(self) -> None:
        """Wait for the end of the start."""

    def is_tried(self) -> bool:
        """Whether every server was tried, so that the catalog has all that there is."""

    async def wait_tried(self) -> None:
        """Wait until every server was tried, which takes as long as the slowest."""


@attrs.frozen
class Stamp:
    """How long a decision, or a list, is valid.

    It is as long as `text` is the stamp of its session's slot, and `mark` that of its part of the
    catalog (envoy/contract.py).
    """

    slot: int
    text: str
    part: int
    mark: str


class Stamps(Protocol):
    """The stamps that say how long a decision in Envoy's route memo is valid."""

    def of(self, session_key: str, server: ServerName | None) -> Stamp | None:
        """The stamp of a decision about a server, in a session; with None that of a list.

        None means that Envoy must not remember it.
        """


class ClientStreams(Protocol):
    """The streams of clients in this process; `key` is a session's."""

    def send(self, key: str, message: bytes) -> None:
        """Send a message on the newest stream of a session, or keep it until there is one."""

    def hold(self, key: str, message: bytes) -> None:
        """Keep a message until the session has a stream here."""

    def mark(self, key: str) -> None:
        """Send at once, on the session's stream, the id with the upstream streams that it has."""

    def end_session(self, key: str) -> None:
        """End the streams of a session that is over."""
