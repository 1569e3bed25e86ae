"""Sends calls to servers when Envoy cannot do it: today the messages of a batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs

from mcpgw_sidecar.envoy.contract import CHANGES, FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.decisions import Forward
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, UpstreamSession
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request
from mcpgw_sidecar.protocol.owners import name_owner, owner_text
from mcpgw_sidecar.protocol.sse import one_line
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient

Heal = Callable[[Session, Server, UpstreamSession, Mapping[str, str]], Awaitable[UpstreamSession | None]]
"""Takes session, server, the dead session with it, headers; returns the session in its place."""
WaitText = Callable[[bytes], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Carrier:
    """Sends calls to servers.

    `silence` is the longest pause of a server during a call, in seconds; 0 means no limit. `stale`
    is called with a server that says that its lists changed, which no client is told before they
    are read.
    """

    client: UpstreamClient
    heal: Heal
    silence: float
    stale: Callable[[ServerName], None]

    async def wait_carried(self, call: Forward, headers: Mapping[str, str], wait_heard: WaitText) -> bytes | None:
        """Send a call to its server, and return the answer; None for a message without an answer.

        `wait_heard` gets the server's messages before the answer, with the owner in their ids. A
        session that the server has forgotten is healed once. Raises UpstreamError.
        """
        session = UpstreamSession(id=call.session_id, protocol_version=call.protocol_version)
        upstream = Upstream(call.server, session, headers)
        if call.kind is None:
            await self.client.wait_posted(upstream, call.body)
            return None
        try:
            return await self._wait_answer(call, upstream, call.owner, wait_heard)
        except UpstreamError as error:
            if error.status not in FORGOTTEN or call.session_id is None:
                raise
            new_session = await self.heal(call.session, call.server, session, headers)
            if new_session is None:
                raise
        owner = owner_text(call.server.name, new_session.ticket)
        return await self._wait_answer(call, attrs.evolve(upstream, session=new_session), owner, wait_heard)

    async def _wait_answer(self, call: Forward, upstream: Upstream, owner: str, wait_heard: WaitText) -> bytes:
        async def wait_with_owner(message: Request | Notification) -> None:
            if message.method in CHANGES:
                self.stale(call.server.name)
            else:
                await wait_heard(one_line(name_owner(message, owner)))

        silence = self.silence if call.server.call_timeout is None else call.server.call_timeout
        return await self.client.wait_forwarded(upstream, call.body, wait_with_owner, silence=silence or None)
