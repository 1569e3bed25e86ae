"""The link to a Redis or Valkey, which may be away: nothing that is asked of it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
import trio

from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.observability.logs import get_logger

log = get_logger(__name__)

PAUSE = 1.0  # seconds after a failure without another operation
T = TypeVar("T")


@attrs.define
class RedisLink:
    """A client of coredis. `name` is the URL without a password."""

    name: str
    redis: Any
    error: str | None = None
    _quiet_until: float = 0.0

    async def wait(self, operation: Callable[[], Awaitable[T]], default: T) -> T:
        """The result of an operation, or `default` while the store does not answer."""
        if trio.current_time() < self._quiet_until:
            return default
        try:
            with trio.fail_after(timeouts.STORE):
                result = await operation()
        except Exception as error:  # noqa: BLE001  # no error of the library may fail a call
            self.lost(error)
            return default
        if self.error is not None:
            self.error = None
            log.info("Session store is back", store=self.name)
        return result

    def lost(self, error: Exception) -> None:
        """Ask nothing for a moment, after a failure."""
        self._quiet_until = trio.current_time() + PAUSE
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        words = str(error) or type(error).__name__
        if self.error is None:
            log.warning(
                "Session store lost: sessions of other replicas get new sessions with their servers until it is back",
                store=self.name,
                error=words,
            )
        self.error = words
