"""The broker's answer to heal.lua: a new session in place of one that its server has forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs

from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.front.answers import OK, wait_sent
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import SessionFault, SessionState, UpstreamSession
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.owners import owner_text
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.runtime.http import Send
from mcpgw_sidecar.runtime.work import Work


@attrs.frozen
class Healer:
    """Answers heal.lua. No other program asks, because Envoy routes no client here.

    `work` ends what waits for a server during a drain. `wait_started` waits for the end of the
    start, so many seconds: before that servers are missing, and keys of sessions.
    """

    directory: Directory
    servers: Callable[[], Mapping[ServerName, Server]]
    work: Work
    wait_started: Callable[[float], Awaitable[bool]]

    async def wait_answered(self, headers: Mapping[str, str], send: Send, *, proven: bool) -> None:
        """Answer 200 with the id and the owner of the new session, or 404 without a session.

        `proven` says that Envoy asks, by its secret. Where its files can hold none (Istio), who
        asks shows a ticket of the dead session, which the gateway made for Envoy and the client.
        """
        server, state = self._found(headers)
        if server is None or not isinstance(state, SessionState):
            await self.wait_started(timeouts.START_AT_BROKER)
            server, state = self._found(headers)
        upstream, ticket = None, headers.get(h.X_OWNER, "").rpartition(":")[2]
        if server is not None and isinstance(state, SessionState) and (proven or state.opens(server, ticket) is not None):
            dead = UpstreamSession(
                id=headers.get(h.SESSION),
                protocol_version=headers.get(h.VERSION, state.session.protocol_version),
                ticket=ticket,
            )
            # passed.lua has taken away and renamed what this server does not get as it was.
            brought = {each.name: headers[each.sent] for each in server.wanted if each.sent in headers}
            self.directory.bring(state.session, brought)
            passed = for_server({**headers, **brought}, server.wanted)
            with self.work.waiting():
                upstream = await self.directory.wait_healed(state.session, server, dead, passed)
        if server is None or upstream is None or upstream.id is None:
            await wait_sent(send, 404, b"")
        else:
            owner = owner_text(server.name, upstream.ticket).encode()
            await wait_sent(send, OK, upstream.id.encode(), [(h.X_OWNER.encode(), owner)])

    def _found(self, headers: Mapping[str, str]) -> tuple[Server | None, SessionState | SessionFault]:
        """The server and the session that Envoy names."""
        server = self.servers().get(ServerName(headers.get(h.X_SERVER, "")))
        return server, self.directory.lookup(headers.get(h.X_SESSION))
