"""Sessions as the router and the broker use them: sealed ids in, and one way to everything that happens to them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial

import attrs
import trio

from mcpgw_sidecar.directory.driver import Driver
from mcpgw_sidecar.directory.telling import Teller
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState, UpstreamSession
from mcpgw_sidecar.protocol.headers import LAST_EVENT
from mcpgw_sidecar.protocol.jsonrpc import Notification
from mcpgw_sidecar.protocol.owners import read_hearing
from mcpgw_sidecar.sessions import events as e
from mcpgw_sidecar.sessions.hub import SessionCounts, SessionHub
from mcpgw_sidecar.sessions.tokens import RANDOM_BYTES, SessionKeys

SWEEP = 10.0  # seconds between two looks for sessions whose time has come


@attrs.frozen(kw_only=True)
class Directory:
    """The sessions of the process. `keys` gives the keys of the moment, `lifetime` is a session's, in seconds."""

    hub: SessionHub
    driver: Driver
    teller: Teller
    keys: Callable[[], SessionKeys]
    lifetime: float

    def create(self, *, protocol_version: str, client_info: JsonText, capabilities: JsonText) -> tuple[str, Session]:
        """A new session's id, and the session."""
        session = Session(
            key=secrets.token_urlsafe(RANDOM_BYTES),
            expires=int(time.time() + self.lifetime),
            protocol_version=protocol_version,
            client_info=client_info,
            capabilities=capabilities,
        )
        self.driver.feed(e.Seen(session))
        return self.keys().seal(session), session

    def lookup(self, token: str | None) -> SessionState | SessionFault:
        """Verify a session id and give what is known of it."""
        session = self.keys().verify(token, time.time())
        if isinstance(session, SessionFault):
            return session
        upstreams = self.hub.upstreams(session.key)
        if upstreams is None:
            self.driver.feed(e.Seen(session))
            upstreams = self.hub.upstreams(session.key)
        if upstreams is None:
            return SessionFault.UNKNOWN
        opens = partial(self.driver.sessions.unseal, session)
        return SessionState(session=session, upstreams=upstreams, opens=opens)

    async def wait_open(self, session: Session, server: Server, headers: Mapping[str, str]) -> Reject | None:
        """Open this session's session with a server, once however many ask; None when it is open.

        `headers` are those of the client's request: the server is to see the client, not the gateway.
        """
        return await self.driver.opener.wait_open(session, server, headers, None)

    async def wait_healed(self, key: str, server: Server, dead: str, headers: Mapping[str, str]) -> UpstreamSession | None:
        """The session that lives in place of `dead`, for the session of `key`; None when there is none to be had."""
        return await self.driver.wait_healed(key, server, dead, headers)

    def end(self, session: Session, headers: Mapping[str, str]) -> None:
        """End a session for good (DELETE), at every replica."""
        self.driver.feed(e.Ended(session, headers.get("authorization")))

    def tell(self, state: SessionState, notification: Notification, headers: Mapping[str, str]) -> None:
        """Send a client's notification on."""
        self.teller.tell(state, notification, headers)

    def set_level(self, session: Session, level: str, headers: Mapping[str, str]) -> None:
        """Have every server that this session is open with, now or later, log at a level."""
        self.driver.feed(e.LevelSet(session, level, headers.get("authorization")))

    def subscribed(self, session: Session, server: Server, uri: str, *, wanted: bool) -> None:
        """A client's subscription is on its way to its server: hear what comes of it, and repeat it after a heal."""
        self.driver.feed(e.Subscribed(session, server.name, uri, wanted))

    def stream_here(self, session: Session, headers: Mapping[str, str]) -> None:
        """The client's stream is here now: so is what waits for it, and what others heard for it until now."""
        authorization, sessions = headers.get("authorization"), self.driver.sessions
        tickets = dict(read_hearing(headers.get(LAST_EVENT, "")))
        for server, upstream in sessions.unsealed(session, tickets, authorization):
            self.driver.feed(e.Adopted(session, server.name, upstream, heard=True))
        self.driver.feed(e.StreamHere(session, authorization))

    def stream_gone(self, key: str, unsent: list[bytes]) -> None:
        """A stream of the client's is gone; what it did not send any more goes where the session's messages go."""
        self.driver.feed(e.StreamGone(key))
        for message in unsent:
            self.driver.feed(e.Said(key, message))

    def forget_server(self, server: ServerName) -> None:
        """The server has gone or lives elsewhere: sessions with it are opened anew when they are needed.

        They are not closed here: calls in flight on them end where they are.
        """
        self.driver.feed(e.ServerGone(server))

    async def wait_sharing(self) -> None:
        """Follow what replicas do with sessions, for ever."""
        await self.driver.sharing.wait_following()

    async def wait_sweeping(self) -> None:
        """Expire sessions for ever."""
        while True:
            await trio.sleep(SWEEP)
            self.driver.feed(e.Due(time.time()))

    def statistics(self) -> SessionCounts:
        """Counts for `/status` and metrics."""
        return self.hub.statistics()
