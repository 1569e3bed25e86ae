"""What a client tells its servers: its notifications go to the servers that they may be meant for."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import trio

from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.sharing import Sharing
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.sessions import Session, SessionState
from mcpgw_sidecar.observability.logs import get_logger, short
from mcpgw_sidecar.protocol.headers import for_upstream
from mcpgw_sidecar.protocol.jsonrpc import Notification
from mcpgw_sidecar.protocol.jsontext import Member, only
from mcpgw_sidecar.protocol.methods import PROGRESS
from mcpgw_sidecar.protocol.owners import read_owner
from mcpgw_sidecar.sessions.hub import SessionHub
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient

log = get_logger(__name__)


@attrs.frozen(kw_only=True)
class Teller:
    """Sends clients' notifications on, in tasks of its own."""

    hub: SessionHub
    sessions: OpenSessions
    sharing: Sharing
    client: UpstreamClient
    nursery: trio.Nursery

    def tell(self, state: SessionState, notification: Notification, headers: Mapping[str, str]) -> None:
        """Send progress to the server that asked for it, anything else to all that the session is open with.

        Which of them a cancellation is meant for cannot be told (it names a request id, nothing else),
        and need not: the ids of one client are unique in its session, so a server that does not know
        the id ignores it, as the specification asks.
        """
        own = for_upstream(headers)
        if notification.method == PROGRESS:
            self._tell_progress(state, notification, own)
        else:
            self.nursery.start_soon(self._wait_told_all, state.session, notification.text.encode(), own)

    async def _wait_told_all(self, session: Session, message: bytes, headers: Mapping[str, str]) -> None:
        if self.sharing.store.shared:
            await self.sharing.wait_adopted(session, headers.get("authorization"))
        servers = self.sessions.servers()
        async with trio.open_nursery() as nursery:
            for name, upstream in list((self.hub.upstreams(session.key) or {}).items()):
                if name in servers:
                    nursery.start_soon(self._wait_told, Upstream(servers[name], upstream, headers), message)

    def _tell_progress(self, state: SessionState, notification: Notification, headers: Mapping[str, str]) -> None:
        token: Member | None = only(notification.params or [], "progressToken")
        owner = read_owner(token.value) if token is not None else None
        server = self.sessions.servers().get(owner.server) if owner is not None else None
        session = state.opens(server, owner.ticket) if owner is not None and server is not None else None
        if token is None or owner is None or server is None or session is None:
            log.debug("Progress not relayed: no server asked for it", session=short(state.session.key))
            return
        text = f"{notification.text[: token.start]}{owner.id}{notification.text[token.end :]}"
        self.nursery.start_soon(self._wait_told, Upstream(server, session, headers), text.encode())

    async def _wait_told(self, upstream: Upstream, message: bytes) -> None:
        try:
            await self.client.wait_posted(upstream, message)
        except UpstreamError as error:
            name = upstream.server.name
            log.debug("Notification not relayed", server=name, reason=error.reason, error=str(error))
