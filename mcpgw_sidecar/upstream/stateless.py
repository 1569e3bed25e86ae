"""An MCP client of the stateless era: asks servers what they are, and for their lists."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping

import attrs

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.kinds import Kind
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.envelope import members_text
from mcpgw_sidecar.protocol.jsonrpc import Message, Response, request_text
from mcpgw_sidecar.protocol.jsontext import Member, dumps
from mcpgw_sidecar.protocol.methods import DISCOVER, LISTEN
from mcpgw_sidecar.protocol.versions import LATEST_STATELESS, STATELESS
from mcpgw_sidecar.upstream.exchange import (
    Exchanger,
    WaitHeard,
    own_id,
    wait_checked,
    wait_own_response,
    wait_unheard,
)
from mcpgw_sidecar.upstream.http1 import never
from mcpgw_sidecar.upstream.messages import Position, events_of, media_type
from mcpgw_sidecar.upstream.stateful import Handshake, Upstream, capabilities_of

MAX_CARRIED = 4 << 20  # bytes of an answer that is translated, as of a client's request
_NO_EVENTS = frozenset({400, 404, 405, 406, 501})


@attrs.frozen
class StatelessClient:
    """Sends requests that stand each for itself.

    `info` and `capabilities` are the client's, as JSON.
    """

    http: Exchanger
    info: JsonText
    capabilities: JsonText

    async def wait_discovered(self, server: Server, headers: Mapping[str, str]) -> Handshake:
        """What a server says of itself (server/discover). Raises UpstreamError.

        A server that does not speak a version of this era, or says nothing that can be read, is one
        of the other era: `UnsupportedVersion`.
        """
        session = UpstreamSession(id=None, protocol_version=LATEST_STATELESS)
        _, members = await self.wait_result(Upstream(server, session, headers), DISCOVER, "{}")
        values = {member.key: member.value for member in members}
        versions = values.get("supportedVersions")
        if not isinstance(versions, list) or not set(STATELESS) & set(map(str, versions)):
            raise UpstreamError("UnsupportedVersion", f"speaks none of {', '.join(STATELESS)}")
        instructions = values.get("instructions")
        return Handshake(
            session, instructions if isinstance(instructions, str) else "", capabilities_of(values.get("capabilities"))
        )

    async def wait_result(self, upstream: Upstream, method: str, params: str) -> tuple[str, list[Member]]:
        """Send a request; returns the text of the answer and the members of its result."""
        headers = {**upstream.headers, h.VERSION: LATEST_STATELESS, h.MCP_METHOD: method}
        return await self.http.wait_result(upstream.server, method, self._with_meta(params), headers, wait_unheard)

    async def wait_events(
        self,
        upstream: Upstream,
        handle: Callable[[Message], None],
        *,
        kinds: Iterable[Kind],
        position: Position,
        resources: Collection[str] = (),
        opened: Callable[[], object] = lambda: None,
    ) -> bool:
        """Pass to `handle` what a server says of its lists and resources, until it ends.

        False if the server does not offer that. `position` learns when to come back, `opened` is
        called when the server has accepted. Raises UpstreamError.
        """
        wanted: dict[str, object] = {f"{kind.capability}ListChanged": True for kind in kinds}
        wanted |= {"resourceSubscriptions": list(resources)} if resources else {}
        body = request_text(own_id(), LISTEN, self._with_meta(dumps({"notifications": wanted})))
        headers = {**upstream.headers, h.VERSION: LATEST_STATELESS, h.MCP_METHOD: LISTEN}
        async with self.http.exchange(upstream.server, "POST", body, headers, silence=None) as answer:
            if answer.status_code in _NO_EVENTS:
                return False
            await wait_checked(answer)
            if media_type(answer) != h.EVENT_STREAM:
                return False
            opened()
            async with contextlib.aclosing(events_of(answer, position)) as messages:
                async for message in messages:
                    handle(message)
        return True

    def _with_meta(self, params: str) -> str:
        """JSON of params with the envelope of this era."""
        meta = f'"_meta":{{{members_text(self.info, self.capabilities)}}}'
        return f"{{{meta}}}" if params == "{}" else f"{params[:-1]},{meta}}}"


async def wait_carried(  # noqa: PLR0913  # a request, and how long it may take
    http: Exchanger,
    upstream: Upstream,
    body: bytes,
    ident: object,
    wait_heard: WaitHeard,
    silence: float | None,
    *,
    excused: Callable[[], bool] = never,
) -> Response:
    """Send a request for a client; `ident` is its id, decoded. Raises UpstreamError.

    `upstream` has the headers of the message, too. `silence` is the longest pause of the server,
    None for no limit; it has none while it is `excused`.
    """
    asked = http.exchange(upstream.server, "POST", body, upstream.with_session(), silence=silence, excused=excused)
    async with asked as answer:
        return await wait_own_response(answer, wait_heard, ident, MAX_CARRIED)
