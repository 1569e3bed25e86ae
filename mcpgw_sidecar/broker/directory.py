"""Sessions as the router and the broker use them: sealed ids in, upstream sessions opened once, everything closed at the end."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

import attrs
import trio

from mcpgw_sidecar.broker.client import UpstreamClient
from mcpgw_sidecar.broker.opensessions import OpenSessions
from mcpgw_sidecar.broker.relay import Relay
from mcpgw_sidecar.broker.store import Listener, SessionStore
from mcpgw_sidecar.broker.streams import Streams, read_hearing
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import JsonText, ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState, UpstreamSession, Wishes
from mcpgw_sidecar.observability.logs import get_logger, short
from mcpgw_sidecar.protocol.headers import LAST_EVENT, for_upstream
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR, SERVER_ERROR, Notification
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps, parse_object
from mcpgw_sidecar.protocol.owners import read_owner
from mcpgw_sidecar.sessions.table import Closing, SessionCounts
from mcpgw_sidecar.sessions.tokens import RANDOM_BYTES, SessionKeys

log = get_logger(__name__)

SWEEP = 10.0  # seconds between two looks for sessions whose time has come
LISTEN_PATIENCE = 1.0  # seconds that a session's first call waits until its server can ask the client something
_PROGRESS = "notifications/progress"
_ASKABLE = ("roots", "sampling", "elicitation")  # capabilities of clients that servers may send requests to
_STATUS = {"Unreachable": 503, "Timeout": 504}
_BAD_GATEWAY = 502


@attrs.define
class _Opening:
    done: trio.Event = attrs.field(factory=trio.Event)
    failed: Reject | None = None


class Directory:
    """The `SessionDirectory` of the process. `keys` gives the keys of the moment; `nursery` holds work that outlives a request.

    `ended` is told of each session that is over, before anybody else is.
    """

    def __init__(
        self,
        *,
        client: UpstreamClient,
        keys: Callable[[], SessionKeys],
        lifetime: float,
        nursery: trio.Nursery,
        servers: Callable[[], Mapping[ServerName, Server]],
        relay: Relay,
        streams: Streams,
        store: SessionStore,
    ) -> None:
        self._client = client
        self._keys = keys
        self._lifetime = lifetime
        self._nursery = nursery
        self._servers = servers
        self._open = OpenSessions(store, keys, servers)
        self._table = self._open.table
        self._relay = relay
        relay.heal = self._wait_heard_again
        self._streams = streams
        self._store = store
        self.ended: Callable[[str], None] = lambda _key: None
        self._outgoing: deque[tuple[str, bytes]] = deque()  # short: a store that does not answer is asked once a second
        if store.shared:
            streams.post = self._post
        self._opening: dict[tuple[str, ServerName], _Opening] = {}

    def create(
        self,
        *,
        protocol_version: str,
        client_info: JsonText,
        capabilities: JsonText,
        virtual: VirtualName | None = None,
    ) -> tuple[str, Session]:
        """A new session's id, and the session."""
        session = Session(
            key=secrets.token_urlsafe(RANDOM_BYTES),
            expires=int(time.time() + self._lifetime),
            protocol_version=protocol_version,
            client_info=client_info,
            capabilities=capabilities,
        )
        self._table.see(session)
        self._streams.greet(session.key, virtual)
        return self._keys().seal(session), session

    def lookup(self, token: str | None) -> SessionState | SessionFault:
        """Verify a session id and give what is known of it."""
        session = self._keys().verify(token, time.time())
        if isinstance(session, SessionFault):
            return session
        upstreams = self._table.see(session)
        if upstreams is None:
            return SessionFault.UNKNOWN
        return SessionState(
            session=session,
            upstreams=upstreams,
            opens=partial(self._open.unseal, session),
        )

    async def wait_open(
        self, session: Session, server: Server, headers: Mapping[str, str], dead: UpstreamSession | None = None
    ) -> Reject | None:
        """Open this session's session with a server, once however many ask; None when it is open. It is not `dead`."""
        if self._open.find(session, server) is not None:
            return None
        key = (session.key, server.name)
        opening = self._opening.get(key)
        if opening is None:
            opening = self._opening[key] = _Opening()
            # In a task of its own: the client that asked first may go away, the others still wait.
            self._nursery.start_soon(self._wait_opening, opening, session, server, headers, dead)
        await opening.done.wait()
        return opening.failed

    async def wait_healed(self, key: str, server: Server, dead: str, headers: Mapping[str, str]) -> UpstreamSession | None:
        """The session that lives in place of `dead`, for the session of `key`; None when there is none to be had.

        A 404 alone does not make a session dead (a server may answer so for reasons of its own): the server is asked.
        """
        session = self._table.find(key)
        if session is None:
            return None
        upstream = self._open.find(session, server)
        if upstream is not None and upstream.id == dead:
            try:
                if await self._client.wait_alive(server, upstream, headers):
                    return None
            except UpstreamError as error:
                log.debug("Session not healed", server=server.name, error=str(error))
                return None
            self._table.forget(session, server.name, upstream)
            log.info("Server forgot a session, opening another", server=server.name, session=short(key))
        if await self.wait_open(session, server, headers, upstream) is not None:
            return None
        return self._open.find(session, server)

    def relay(self, state: SessionState, told: Notification, headers: Mapping[str, str]) -> None:
        """Send a client's notification on: progress to the server that asked for it, anything else to all that it has a session with.

        Which of them a cancellation is meant for cannot be told (it names a request id, nothing else), and need not: the ids of one
        client are unique in its session, so a server that does not know the id ignores it, as the specification asks.
        """
        own = for_upstream(headers)
        if told.method == _PROGRESS:
            self._relay_progress(state, told, own)
        else:
            self._nursery.start_soon(self._wait_told_all, state.session, told.text.encode(), own)

    async def _wait_told_all(self, session: Session, message: bytes, headers: Mapping[str, str]) -> None:
        async with trio.open_nursery() as nursery:
            for server, upstream in await self._open.wait_everywhere(session, headers.get("authorization")):
                nursery.start_soon(self._wait_relayed, server, upstream, message, headers)

    def _relay_progress(self, state: SessionState, told: Notification, headers: Mapping[str, str]) -> None:
        token = next((member for member in told.params or [] if member.key == "progressToken"), None)
        owner = read_owner(token.value) if token is not None else None
        server = self._servers().get(owner.server) if owner is not None else None
        upstream = state.opens(server, owner.ticket) if owner is not None and server is not None else None
        if token is None or owner is None or server is None or upstream is None:
            log.debug("Progress not relayed: no server asked for it", session=short(state.session.key))
            return
        text = f"{told.text[: token.start]}{owner.id}{told.text[token.end :]}"
        self._nursery.start_soon(self._wait_relayed, server, upstream, text.encode(), headers)

    async def _wait_relayed(
        self, server: Server, upstream: UpstreamSession, message: bytes, headers: Mapping[str, str]
    ) -> None:
        try:
            await self._client.wait_posted(server, upstream, message, headers)
        except UpstreamError as error:
            log.debug("Notification not relayed", server=server.name, reason=error.reason, error=str(error))

    async def _wait_heard_again(self, key: str, server: Server, upstream: UpstreamSession) -> None:
        if upstream.id is not None:
            await self.wait_healed(key, server, upstream.id, upstream.headers)

    def end(self, session: Session, headers: Mapping[str, str]) -> None:
        """End a session for good (DELETE), at every replica."""
        closing = self._table.end(session.key, session.expires)
        self._over(session.key)
        self._nursery.start_soon(self._wait_ended, session, closing, headers.get("authorization"))

    async def _wait_ended(self, session: Session, closing: list[Closing], authorization: str | None) -> None:
        row, servers = await self._store.wait_end(session), self._servers()
        here = {gone.server for gone in closing}
        for name, ticket in row.tickets.items():
            elsewhere = self._open.unseal(session, servers[name], ticket) if name in servers else None
            if elsewhere is not None and name not in here:
                closing.append(Closing(name, attrs.evolve(elsewhere, authorization=authorization)))
        self._close(closing)

    def listened(self, session: Session, headers: Mapping[str, str]) -> None:
        """The client's stream is here now: so is what waits for it, and what other replicas heard for it until now."""
        servers, authorization = self._servers(), headers.get("authorization")
        for name, ticket in read_hearing(headers.get(LAST_EVENT, "")):
            server = servers.get(name)
            if server is not None and self._open.find(session, server) is None:  # heard by a process that is gone
                adopted = self._open.adopt(session, server, ticket, authorization)
                if adopted is not None:
                    self._listen(session, server, adopted)
        if self._store.shared:
            self._nursery.start_soon(self._wait_listened, session, authorization)

    async def _wait_listened(self, session: Session, authorization: str | None) -> None:
        self._streams.deliver(session.key, await self._store.wait_mail(session.key))
        row, servers = await self._open.wait_adopted(session, authorization), self._servers()
        for name, upstream in list((self._table.see(session) or {}).items()):
            server = servers.get(name)
            if server is None:
                continue
            if row.level is not None or row.resources.get(server.name) or _can_be_asked(session):
                self._listen(session, server, upstream)

    async def wait_sharing(self) -> None:
        """Follow what other replicas do with sessions, for ever."""

        def ended(key: str, expires: int) -> None:
            if self._table.has_ended(key):
                return  # told again, after the store was away
            self._table.end(key, expires)
            self._over(key)

        def mail(key: str) -> None:
            if self._streams.has(key):
                self._nursery.start_soon(self._wait_mail, key)

        def changed(key: str) -> None:
            session = self._table.find(key)
            if session is not None and self._streams.has(key):
                self.listened(session, {})

        await self._store.wait_following(Listener(ended=ended, mail=mail, changed=changed))

    def _post(self, key: str, message: bytes) -> bool:
        """Leave a server's message where the replica finds it that has the client's stream; all of them in their order."""
        if not self._outgoing:
            self._nursery.start_soon(self._wait_posted)
        self._outgoing.append((key, message))
        return True

    async def _wait_posted(self) -> None:
        while self._outgoing:
            key, message = self._outgoing[0]
            if not await self._store.wait_post(key, message):
                self._streams.hold(key, message)
            self._outgoing.popleft()

    async def _wait_mail(self, key: str) -> None:
        self._streams.deliver(key, await self._store.wait_mail(key))

    def forget_server(self, server: ServerName) -> None:
        """The server has gone or lives elsewhere: sessions with it are opened anew when they are needed.

        Not closed here: calls in flight on them end where they are.
        """
        self._table.forget_server(server)
        self._relay.stop_server(server)

    async def wait_sweeping(self) -> None:
        """Expire sessions for ever."""
        while True:
            await trio.sleep(SWEEP)
            due, closing = self._table.expire(time.time())
            self._close(closing)
            for key in due:
                self._over(key)

    def _over(self, key: str) -> None:
        self.ended(key)
        self._relay.stop_session(key)
        self._streams.end_session(key)

    def set_level(self, session: Session, level: str, headers: Mapping[str, str]) -> None:
        """Have every server that this session knows, now or later, log at a level."""
        self._table.wish_level(session, level)
        self._nursery.start_soon(self._wait_level, session, level, headers.get("authorization"))

    async def _wait_level(self, session: Session, level: str, authorization: str | None) -> None:
        everywhere = await self._open.wait_everywhere(session, authorization)
        self._table.wish_level(session, level)  # the newest, whatever the store said
        await self._store.wait_wish(session, None, level)
        async with trio.open_nursery() as nursery:
            for server, upstream in everywhere:
                nursery.start_soon(self._wait_told, session, server, upstream, Wishes(level=level))

    def subscribed(self, session: Session, server: Server, uri: str, *, wanted: bool) -> None:
        """A client's subscription is on its way to its server: hear what comes of it, and repeat it after a heal."""
        self._table.wish_resource(session, server.name, uri, wanted=wanted)
        if self._store.shared:
            self._nursery.start_soon(self._store.wait_wish, session, (server.name, uri), "1" if wanted else None)
        upstream = self._open.find(session, server)
        if wanted and upstream is not None:
            self._listen(session, server, upstream)

    async def _wait_told(self, session: Session, server: Server, upstream: UpstreamSession, wishes: Wishes) -> None:
        """Tell a server what its client wants to hear of, and listen. A server that refuses is none that would tell."""
        asked = [("logging/setLevel", {"level": wishes.level})] if wishes.level else []
        asked += [("resources/subscribe", {"uri": uri}) for uri in sorted(wishes.resources)]
        for method, params in asked:
            try:
                await self._client.wait_result(server, upstream, method, dumps(params), upstream.headers)
            except UpstreamError as error:
                log.debug("Server not told", server=server.name, method=method, reason=error.reason, error=str(error))
                continue
            self._listen(session, server, upstream)

    def _listen(self, session: Session, server: Server, upstream: UpstreamSession) -> None:
        """Hear what a server says in a session, unless that has ended or was replaced meanwhile."""
        if self._open.find(session, server) == upstream:
            self._relay.listen(session.key, server, upstream)

    def statistics(self) -> SessionCounts:
        """Counts for `/status` and metrics."""
        return self._table.statistics()

    async def _wait_opening(
        self,
        opening: _Opening,
        session: Session,
        server: Server,
        headers: Mapping[str, str],
        dead: UpstreamSession | None,
    ) -> None:
        try:
            ticket = await self._store.wait_ticket(session, server.name)
            if ticket and (dead is None or ticket != dead.ticket):
                adopted = self._open.adopt(session, server, ticket, headers.get("authorization"))
                if adopted is not None:
                    await self._wait_audible(session, server, adopted)
                    return
            shake = await self._client.wait_initialized(
                server, client_info=session.client_info, capabilities=session.capabilities, headers=headers
            )
        except UpstreamError as error:
            log.warning("Upstream session not opened", server=server.name, reason=error.reason, error=str(error))
            opening.failed = rejection(server, error)
        except Exception:  # a bug of ours costs this call, not the process
            log.exception("Opening a session failed", server=server.name)
            message = "Internal error of the gateway"
            opening.failed = Reject(status=500, code=INTERNAL_ERROR, message=message)
        else:
            log.debug("Upstream session opened", server=server.name, session=short(session.key))
            opened = attrs.evolve(shake.session, authorization=headers.get("authorization"))
            await self._wait_kept(session, server, opened, dead)
        finally:
            del self._opening[session.key, server.name]
            opening.done.set()

    async def _wait_kept(
        self, session: Session, server: Server, upstream: UpstreamSession, dead: UpstreamSession | None
    ) -> None:
        """Keep a session, unless its client has gone or its server has moved while it was being opened, or another replica was first."""
        upstream = self._open.seal(session, server, upstream)
        replaced = dead.ticket if dead else None
        counts = await self._store.wait_keep(session, server.name, upstream.ticket, instead_of=replaced)
        if counts != upstream.ticket:
            adopted = self._open.adopt(session, server, counts, upstream.authorization)
            if adopted is not None:
                self._nursery.start_soon(self._client.wait_closed, server, upstream, upstream.headers)
                await self._wait_audible(session, server, adopted)
                return
        now = self._servers().get(server.name)
        if now is None or now.moved_from(server) or not self._table.opened(session, server.name, upstream):
            self._nursery.start_soon(self._client.wait_closed, server, upstream, upstream.headers)
            return
        wishes = self._table.wishes(session, server.name)
        if wishes != Wishes():
            self._nursery.start_soon(self._wait_told, session, server, upstream, wishes)
        await self._wait_audible(session, server, upstream)

    async def _wait_audible(self, session: Session, server: Server, upstream: UpstreamSession) -> None:
        if _can_be_asked(session):
            # Before the call goes out: a server that asks on this stream drops what nobody hears.
            with trio.move_on_after(LISTEN_PATIENCE):
                await self._relay.listen(session.key, server, upstream).wait()

    def _close(self, closing: list[Closing]) -> None:
        servers = self._servers()
        for gone in closing:
            server = servers.get(gone.server)
            if server is not None:
                self._nursery.start_soon(self._client.wait_closed, server, gone.upstream, gone.upstream.headers)


def _can_be_asked(session: Session) -> bool:
    try:
        declared = {member.key for member in parse_object(session.capabilities)}
    except JsonTextError:
        return False
    return not declared.isdisjoint(_ASKABLE)


def rejection(server: Server, error: UpstreamError) -> Reject:
    """What a client is told of a server's failure."""
    status = _STATUS.get(error.reason) or (error.status if error.reason == "Unauthorized" else None) or _BAD_GATEWAY
    message = f"MCP server {server.name} {error}"
    if error.reason == "Unreachable":
        message = f"MCP server {server.name} is unreachable: {str(error).removeprefix('cannot be reached: ')}"
    if error.reason == "Unauthorized":
        message = f"MCP server {server.name} refused this client's credentials: send the Authorization that it asks for"
    return Reject(status=status, code=SERVER_ERROR, message=message, data={"server": server.name, "reason": error.reason})
