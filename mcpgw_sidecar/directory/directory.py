"""The sessions, for router and broker: verifies their ids, and passes their events to the hub."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import attrs
import trio

from mcpgw_sidecar.directory.driver import Driver
from mcpgw_sidecar.directory.telling import Teller
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState, UpstreamSession
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsonrpc import Notification, Response
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.methods import READ
from mcpgw_sidecar.protocol.owners import read_hearing
from mcpgw_sidecar.protocol.passing import for_server
from mcpgw_sidecar.sessions import events as e
from mcpgw_sidecar.sessions.hub import SessionCounts, SessionHub
from mcpgw_sidecar.sessions.tokens import RANDOM_BYTES, SessionKeys
from mcpgw_sidecar.upstream.stateful import Upstream

log = get_logger(__name__)

SWEEP = 10.0  # seconds between two checks for sessions that have expired


@attrs.frozen(kw_only=True)
class Directory:
    """The sessions of the process.

    `keys` returns the current keys, `lifetime` is that of a session, in seconds.
    """

    hub: SessionHub
    driver: Driver
    teller: Teller
    keys: Callable[[], SessionKeys]
    lifetime: float

    def create(
        self, *, protocol_version: str, client_info: JsonText, capabilities: JsonText, owner: str = ""
    ) -> tuple[str, Session]:
        """Create a session of a caller; returns its id, and the session."""
        session = Session(
            key=secrets.token_urlsafe(RANDOM_BYTES),
            expires=int(time.time() + self.lifetime),
            protocol_version=protocol_version,
            client_info=client_info,
            capabilities=capabilities,
            owner=owner,
        )
        self.driver.feed(e.Seen(session))
        return self.keys().seal(session), session

    def lookup(self, token: str | None) -> SessionState | SessionFault:
        """Verify a session id, and return the session with its upstream sessions."""
        session = self.keys().verify(token, time.time())
        if isinstance(session, SessionFault):
            return session
        upstreams = self.hub.upstreams(session.key)
        if upstreams is None:
            self.driver.feed(e.Seen(session))
            upstreams = self.hub.upstreams(session.key)
        if upstreams is None:
            return SessionFault.UNKNOWN
        opens = partial(self.driver.sessions.unseal, session.key)
        return SessionState(session=session, upstreams=upstreams, links=self.hub.links(session.key), opens=opens)

    async def wait_found(
        self, session: Session, servers: Iterable[Server], uri: str, headers: Mapping[str, str]
    ) -> Server | None:
        """The first of these servers that can read a URI; None if none can.

        `headers` are the client's. The server is kept for the session. Reading has no effect
        (server/resources), so asking costs time alone.
        """
        for server in servers:
            upstream = self.hub.upstream(session.key, server.name)
            if upstream is None:
                continue
            try:
                await self.driver.client.wait_result(
                    Upstream(server, upstream, for_server({**upstream.brought, **headers}, server.wanted)),
                    READ,
                    dumps({"uri": uri}),
                )
            except UpstreamError as error:
                log.debug("Link not known", server=server.name, reason=error.reason, error=str(error))
                continue
            self.driver.feed(e.LinkFound(session.key, uri, server.name))
            return server
        return None

    def bring(self, session: Session, headers: Mapping[str, str]) -> None:
        """Keep the newest headers of a client that servers want, for requests in its sessions."""
        names = self.driver.live.value.brought
        brought = {name: headers[name] for name in names if name in headers} if names else {}
        if brought:
            self.driver.feed(e.Brought(session.key, brought))

    async def wait_open(self, session: Session, server: Server, headers: Mapping[str, str]) -> Reject | None:
        """Open the upstream session of this session with a server; None when it is open.

        Requests that need it at the same time share one opening. `headers` are the client's,
        because the server should see the client, not the gateway.
        """
        return await self.driver.opener.wait_open(session, server, for_server(headers, server.wanted), None)

    async def wait_healed(
        self, session: Session, server: Server, dead: UpstreamSession, headers: Mapping[str, str]
    ) -> UpstreamSession | None:
        """The session with a server in place of one that may be dead.

        None if that one lives, or if another session cannot be opened.
        """
        return await self.driver.wait_healed(session, server, dead, headers)

    async def wait_ended(self, session: Session) -> None:
        """End a session for good (DELETE), at every replica that the store reaches in its time."""
        self.driver.feed(e.Ended(session))
        await self.driver.sharing.wait_end_shared(session.key)

    def tell(self, state: SessionState, notification: Notification, headers: Mapping[str, str]) -> None:
        """Send a client's notification to its servers."""
        self.teller.tell(state, notification, headers)

    def cancelled(self, session: Session, notification: Notification) -> None:
        """Cancel the call that a client's notification names, carried here or by a replica."""
        self.driver.sharing.cancelled(session.key, notification)

    def answered(self, session: Session, answer: Response) -> bool:
        """Take a client's answer to a question of a call; False if nobody can wait for it."""
        return self.driver.sharing.answered(session.key, answer)

    def set_level(self, session: Session, level: str) -> None:
        """Set the log level at each server that this session is open with, now or later."""
        self.driver.feed(e.LevelSet(session, level))

    def subscribed(self, session: Session, server: Server, uri: str, *, wanted: bool) -> None:
        """Record a subscription, so that its server is listened to, and a heal repeats it."""
        self.driver.feed(e.Subscribed(session, server.name, uri, wanted))

    def stream_here(self, session: Session, last_event_id: str = "") -> None:
        """Record that the client has opened a stream here.

        Its waiting messages, and the upstream streams that other replicas had for it, come here.
        """
        sessions = self.driver.sessions
        tickets, wishes = read_hearing(last_event_id)
        if wishes:
            self.driver.feed(e.WishesRead(session, sessions.unseal_wishes(session.key, wishes), old=True))
        for server, upstream in sessions.unsealed(session.key, tickets.items()):
            self.driver.feed(e.Adopted(session, server.name, upstream, heard=True))
        self.driver.feed(e.StreamHere(session))

    def stream_gone(self, key: str, unsent: list[bytes]) -> None:
        """Record the end of a stream, and send its unsent messages like new ones of the session."""
        self.driver.feed(e.StreamGone(key))
        for message in unsent:
            self.driver.feed(e.Said(key, message))

    def forget_server(self, server: Server) -> None:
        """Forget the sessions with a server that was removed or has another URL.

        The next call opens another. They are closed when their clients' sessions end, because calls
        in flight are not to be cut.
        """
        self.driver.feed(e.ServerGone(server))

    def hearing(self, key: str) -> str:
        """What the id of an event says of a session, for a process that does not know it."""
        return self.hub.hearing(key, partial(self.driver.sessions.seal_wishes, key))

    async def wait_left(self) -> None:
        """Leave what this process hears to replicas, because it ends."""
        await self.driver.wait_left()

    async def wait_all_closed(self) -> None:
        """Wait until the sessions with servers that are to be closed are, for a moment at most."""
        await self.driver.wait_all_closed()

    async def wait_sharing(self) -> None:
        """Follow the news of replicas about sessions, for ever."""
        await self.driver.sharing.wait_following()

    async def wait_sweeping(self) -> None:
        """Remove expired sessions, for ever."""
        while True:
            await trio.sleep(SWEEP)
            self.driver.feed(e.Due(time.time()))

    def statistics(self) -> SessionCounts:
        """Counts for `/status` and metrics."""
        return self.hub.statistics()
