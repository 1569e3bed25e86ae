"""Opens the session store of the settings, or the journal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from mcpgw_sidecar.app.settings import Settings, journal_file
from mcpgw_sidecar.directory import redisurl
from mcpgw_sidecar.directory.journalfile import Journal
from mcpgw_sidecar.directory.store import SessionStore, Unshared
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.sessions.tokens import SessionKeys

log = get_logger(__name__)


@contextlib.asynccontextmanager
async def opened_store(settings: Settings, keys: Callable[[], SessionKeys]) -> AsyncIterator[SessionStore]:
    """The store, or the journal, or the stand-in. Raises UnavailableError."""
    if settings.session_store is None:
        path = journal_file(settings)
        if path is None:
            yield Unshared()
            return
        with contextlib.closing(Journal(path, keys)) as journal:
            yield journal
        return
    async with redisurl.opened(settings.session_store) as store:
        log.info("Sessions are shared with other replicas", store=store.name)
        yield store
