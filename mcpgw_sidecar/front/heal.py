"""The broker's answer to heal.lua: a new session in place of one that its server has forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.front.answers import OK, wait_sent
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.owners import owner_text
from mcpgw_sidecar.runtime.http import Send


@attrs.frozen
class Healer:
    """Answers heal.lua. No other program asks, because Envoy routes no client here."""

    directory: Directory
    servers: Callable[[], Mapping[ServerName, Server]]

    async def wait_answered(self, headers: Mapping[str, str], send: Send) -> None:
        """Answer 200 with the id and the owner of the new session, or 404 without a session."""
        server = self.servers().get(ServerName(headers.get(h.X_SERVER, "")))
        session = None
        if server is not None:
            key, dead_id = headers.get(h.X_SESSION, ""), headers.get(h.SESSION, "")
            session = await self.directory.wait_healed(key, server, dead_id, h.for_upstream(headers))
        if server is None or session is None or session.id is None:
            await wait_sent(send, 404, b"")
        else:
            owner = owner_text(server.name, session.ticket).encode()
            await wait_sent(send, OK, session.id.encode(), [(h.X_OWNER.encode(), owner)])
