"""An MCP client of the stateful era (2025-03-26 … 2025-11-25): opens and uses upstream sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import trio

from mcpgw_sidecar.catalog.offers import CAN_SUBSCRIBE
from mcpgw_sidecar.envoy.contract import FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.reasons import UNAUTHORIZED
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.extensions import KNOWN
from mcpgw_sidecar.protocol.jsonrpc import (
    METHOD_NOT_FOUND,
    Message,
    Notification,
    Request,
    error_text,
    notification_text,
    request_text,
    result_text,
)
from mcpgw_sidecar.protocol.jsontext import Member
from mcpgw_sidecar.protocol.methods import INITIALIZE, INITIALIZED
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.protocol.versions import LATEST_STATELESS, OLDER, STATEFUL, next_version
from mcpgw_sidecar.runtime import descriptors
from mcpgw_sidecar.upstream.exchange import (
    Exchanger,
    own_id,
    result_members,
    wait_checked,
    wait_response,
    wait_unheard,
)
from mcpgw_sidecar.upstream.messages import Position, events_of, media_type
from mcpgw_sidecar.upstream.words import ClientWords

log = get_logger(__name__)

_OWN_ANSWERS = {"ping": b"{}", "roots/list": b'{"roots":[]}'}
_BAD_REQUEST = 400
_NO_STREAM = frozenset({405, 501})

Left = Callable[[UpstreamSession], None]


@attrs.frozen
class Handshake:
    """The result of initialize."""

    session: UpstreamSession
    instructions: str
    capabilities: frozenset[str]


@attrs.frozen
class Upstream:
    """A session with a server, and the headers of the requests in it."""

    server: Server
    session: UpstreamSession
    headers: Mapping[str, str] = attrs.field(repr=False)

    @classmethod
    def of(cls, server: Server, session: UpstreamSession) -> Upstream:
        """For requests that no request of the client's has caused."""
        return cls(server, session, for_server(session.brought, server.wanted))

    @classmethod
    def stateless(cls, server: Server, headers: Mapping[str, str]) -> Upstream:
        """For requests that stand each for itself."""
        return cls(server, UpstreamSession(id=None, protocol_version=LATEST_STATELESS), headers)

    def with_session(self) -> dict[str, str]:
        """The headers of a request in this session."""
        headers = {**self.headers, h.VERSION: self.session.protocol_version}
        if self.session.id is not None:
            headers[h.SESSION] = self.session.id
        return headers


@attrs.frozen
class UpstreamClient:
    """Sends messages to servers in sessions. All methods but `wait_closed` raise UpstreamError."""

    http: Exchanger

    async def wait_initialized(
        self, server: Server, *, client: ClientWords, headers: Mapping[str, str], left: Left = lambda _: None
    ) -> Handshake:
        """Open a session in the words of a client; each request has `headers`.

        A server that refuses the client's version is asked for another one. `left` takes a session
        that stands although this fails; the caller closes it.
        """
        versions = [client.protocol_version]
        with self.http.limited(server, INITIALIZE):
            while True:
                try:
                    return await self._wait_handshake(server, client, versions[-1], headers, left)
                except UpstreamError as error:
                    if error.reason != "RpcError" and error.status != _BAD_REQUEST:
                        raise
                    supported = error.data.get("supported") if isinstance(error.data, dict) else None
                    version = next_version(versions, supported)
                    if version is None:
                        raise
                    versions.append(version)

    async def _wait_handshake(
        self, server: Server, client: ClientWords, asked_version: str, headers: Mapping[str, str], left: Left
    ) -> Handshake:
        """initialize, and the notification behind it."""
        ident = own_id()
        body = request_text(ident, INITIALIZE, client.params(asked_version))
        with contextlib.ExitStack() as failing:
            async with self.http.exchange(server, "POST", body, headers) as answer:
                await wait_checked(answer)
                session = UpstreamSession(id=_checked_id(answer.headers.get(h.SESSION)), protocol_version=asked_version)
                failing.callback(left, session)
                result = result_members(await wait_response(answer, wait_unheard, ident))
            values: dict[str, Any] = {member.key: member.value for member in result}
            session = attrs.evolve(session, protocol_version=_checked_version(values.get("protocolVersion")))
            failing.pop_all()
            failing.callback(left, session)
            try:
                await self.wait_posted(Upstream(server, session, headers), notification_text(INITIALIZED))
            except UpstreamError as error:
                if error.reason != "HttpError":
                    raise  # else the session stands: some servers know no notifications
                log.debug("Server refused the notification of initialize", server=server.name, error=str(error))
            failing.pop_all()
        instructions, capabilities = values.get("instructions"), capabilities_of(values.get("capabilities"))
        return Handshake(session, instructions if isinstance(instructions, str) else "", capabilities)

    async def wait_posted(self, upstream: Upstream, message: bytes) -> None:
        """Send a message without an answer, as it is."""
        server = upstream.server
        with self.http.limited(server, "a notification"):
            async with self.http.exchange(server, "POST", message, upstream.with_session()) as answer:
                await wait_checked(answer)

    async def wait_result(self, upstream: Upstream, method: str, params: str) -> tuple[str, list[Member]]:
        """Send a request; returns the text of the answer and the members of its result."""
        heard = partial(self.wait_replied, upstream)
        return await self.http.wait_result(upstream.server, method, params, upstream.with_session(), heard)

    async def wait_events(
        self,
        upstream: Upstream,
        handle: Callable[[Message], None],
        *,
        own: bool,
        position: Position,
        opened: Callable[[], object] = lambda: None,
    ) -> bool:
        """Pass the messages of a session's stream to `handle` until it ends.

        False if the server offers no stream. In the gateway's `own` session this method answers the
        server's requests; in a client's session it passes them to `handle`, too. The stream resumes
        at `position`, which is updated; `opened` is called when the server has accepted.
        """
        if not own and not descriptors.has_room(descriptors.STREAMS_TO_SERVERS):
            raise UpstreamError("Busy", "was not asked for its stream: this process has too many open files")
        headers = {**upstream.with_session(), **position.headers, "accept": h.EVENT_STREAM}
        position.last_id = None  # after a server refuses to resume, the next request asks for a new stream
        async with self.http.exchange(upstream.server, "GET", None, headers, silence=None) as answer:
            if answer.status_code in _NO_STREAM:
                return False
            await wait_checked(answer)
            if media_type(answer) != h.EVENT_STREAM:
                return False
            position.last_id = headers.get(h.LAST_EVENT)
            opened()
            async with contextlib.aclosing(events_of(answer, position)) as messages:
                async for message in messages:
                    if own and isinstance(message, Request):
                        await self.wait_replied(upstream, message)
                    else:
                        handle(message)
            return True

    async def wait_alive(self, upstream: Upstream, client: ClientWords) -> bool:
        """Whether the server still knows this session.

        Some refuse the credentials of a request in a session that they have forgotten. So one that
        refuses those of the ping is pinged in another session, too: if it refuses that as well, the
        credentials are at fault, and this raises UpstreamError.
        """
        try:
            await self.wait_result(upstream, "ping", "{}")
        except UpstreamError as error:
            if error.reason == UNAUTHORIZED:
                with self.http.limited(upstream.server, "initialize after a ping"):
                    shake = await self.wait_initialized(upstream.server, client=client, headers=upstream.headers)
                    other = attrs.evolve(upstream, session=shake.session)
                    try:
                        await self.wait_result(other, "ping", "{}")
                    except UpstreamError as refusal:
                        if refusal.reason == UNAUTHORIZED:
                            raise
                    finally:
                        await self.wait_closed(other)
            if error.status in FORGOTTEN:
                return False
            if error.reason != "RpcError":
                raise
        return True

    async def wait_closed(self, upstream: Upstream) -> None:
        """End a session; if the server does not answer, its session expires there."""
        if upstream.session.id is None:
            return
        with trio.move_on_after(timeouts.CLOSE), contextlib.suppress(UpstreamError):
            async with self.http.exchange(upstream.server, "DELETE", None, upstream.with_session()):
                pass

    async def wait_replied(self, upstream: Upstream, request: Request | Notification) -> None:
        """Answer a server's request in the gateway's own session: a ping, or the (empty) roots."""
        if isinstance(request, Notification):
            return
        result = _OWN_ANSWERS.get(request.method)
        if result is not None:
            reply = result_text(request.id, result)
        else:
            reply = error_text(request.id, METHOD_NOT_FOUND, f"This client does not offer {request.method[:100]}")
        async with self.http.exchange(upstream.server, "POST", reply, upstream.with_session()):
            pass


def capabilities_of(members: object) -> frozenset[str]:
    """The capabilities and known extensions of a server; CAN_SUBSCRIBE if its resources say so."""
    if not isinstance(members, dict):
        return frozenset()
    extensions = members.get("extensions")
    known = frozenset(KNOWN) & frozenset(extensions if isinstance(extensions, dict) else ())
    resources = members.get("resources")
    has_subscribe = isinstance(resources, dict) and resources.get("subscribe") is True
    return frozenset(map(str, members)) | known | (frozenset({CAN_SUBSCRIBE}) if has_subscribe else frozenset())


def _checked_id(session_id: str | None) -> str | None:
    if not session_id:
        return None  # an empty header names no session, as none does
    if any(not "!" <= char <= "~" for char in session_id):
        raise UpstreamError("BadAnswer", "gave a session id that is not visible ASCII")
    return session_id


def _checked_version(version: Any) -> str:  # noqa: ANN401  # the server's word
    version = OLDER.get(version, version) if isinstance(version, str) else version
    if version not in STATEFUL:
        message = f"speaks protocol version {version!r}; this gateway speaks {', '.join(STATEFUL)}"
        raise UpstreamError("UnsupportedVersion", message)
    return str(version)
