"""Whether the process is ready, and whether its start is over."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

START_PATIENCE = 1.0  # seconds after a start that clients wait for servers that have not answered yet
DRAINING = "the end: draining"  # what /readyz says of a sidecar that is about to end
CONFIGURATION, ANSWERS = "the configuration", "the first answers of the servers"
READY_PATIENCE = 2.0  # seconds that readiness waits for servers that have not answered yet (interface.md)


class Readiness:
    """The readiness of the process, and the `Started` of router and broker.

    `waiting_for` says why the process is not ready, None when it is.
    """

    def __init__(self, all_tried: trio.Event) -> None:
        self.waiting_for: str | None = CONFIGURATION
        self._all_tried = all_tried
        self._over = trio.Event()

    def is_over(self) -> bool:
        """Whether every server was tried, or the time for that is over."""
        return self._over.is_set()

    async def wait_over(self) -> None:
        """Wait for the end of the start."""
        await self._over.wait()

    def is_tried(self) -> bool:
        """Whether every server was tried."""
        return self._over.is_set() and self._all_tried.is_set()

    async def wait_tried(self) -> None:
        """Wait until every server was tried."""
        await self._over.wait()
        await self._all_tried.wait()

    async def wait_started(self, desired: Watched[Desired], loaded: Iterable[trio.Event]) -> None:
        """Wait for the configuration, and for a first try of each server; then set readiness.

        After START_PATIENCE and READY_PATIENCE it waits no longer for servers.
        """
        for event in loaded:
            await event.wait()
        if self.waiting_for == CONFIGURATION:
            self.waiting_for = ANSWERS
        with trio.move_on_after(START_PATIENCE):
            await self._all_tried.wait()
        self._over.set()
        with trio.move_on_after(READY_PATIENCE - START_PATIENCE):
            await self._all_tried.wait()
        if self.waiting_for == ANSWERS:
            self.waiting_for = None
            log.info("Ready", servers=len(desired.value.enabled), config=desired.value.source)

    def reason(self, *, incomplete: str | None, files: str | None, refusal: str | None, keys: str | None) -> str | None:
        """Why requests should go elsewhere, None if they need not.

        `incomplete` is what was never listed, `files` why Envoy's files cannot be written,
        `refusal` why Envoy does not take them, `keys` why no session key is valid.
        """
        reasons = (
            self.waiting_for,
            incomplete,
            files and f"Envoy's files: {files}",
            refusal and f"Envoy to accept its files: {refusal}",
            keys and f"a valid session key: {keys}",
        )
        return next((reason for reason in reasons if reason), None)

    def drain(self) -> None:
        """Report from now on that the process drains, so that new requests go elsewhere."""
        self.waiting_for = DRAINING
        self._over.set()
