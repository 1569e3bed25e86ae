"""Opens the session store of the settings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from mcpgw_sidecar.app.settings import Settings
from mcpgw_sidecar.directory import redisstore
from mcpgw_sidecar.directory.store import SessionStore, Unshared
from mcpgw_sidecar.observability.logs import get_logger

log = get_logger(__name__)


@contextlib.asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[SessionStore]:
    """The store, or its stand-in. Raises UnavailableError."""
    if settings.session_store is None:
        yield Unshared()
        return
    async with redisstore.opened(settings.session_store) as store:
        log.info("Sessions are shared with other replicas", store=store.name)
        yield store
