"""Subscriptions of clients with sessions to resources of servers that have none.

Such a server is followed (following.py) for as long as the session lives and something of it is
wanted. They are kept in this process: after a restart a client has to subscribe again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import trio

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.sight import Sight
from mcpgw_sidecar.front.following import MOST, Followed, Follower
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol.jsonrpc import notification_text
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.methods import UPDATED
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.stateful import UpstreamClient


@attrs.define
class _Wanted:
    """The URIs, at one server, that a session wants to hear of, and the task that follows them.

    `replaces` ends the task of before, once this one follows them.
    """

    uris: frozenset[str] = frozenset()
    replaces: Callable[[], object] = lambda: None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@attrs.define(kw_only=True, eq=False)
class Subscriber:
    """The subscriptions. `said` takes a message for the client of a session, by its key."""

    client: UpstreamClient
    live: Watched[Snapshot]
    sight: Sight
    said: Callable[[str, bytes], None]
    nursery: trio.Nursery
    _wanted: dict[str, dict[ServerName, _Wanted]] = attrs.field(factory=dict, init=False)

    def subscribe(self, session: Session, server: Server, uri: str, headers: Mapping[str, str], *, wanted: bool) -> bool:
        """Take a subscription of a session, or its end; False if it has too many.

        `uri` is the server's, `headers` are the client's.
        """
        by_server = self._wanted.get(session.key, {})
        before = by_server.get(server.name, _Wanted())
        uris = before.uris | {uri} if wanted else before.uris - {uri}
        if uris == before.uris:
            return True
        if wanted and sum(len(each.uris) for each in by_server.values()) >= MOST:
            return False
        if not uris:
            before.scope.cancel()
            del by_server[server.name]
            if not by_server:
                del self._wanted[session.key]
            return True
        now = _Wanted(uris, before.scope.cancel)
        self._wanted.setdefault(session.key, {})[server.name] = now
        self.nursery.start_soon(self._wait_following, session, server, now, dict(headers))
        return True

    def end(self, key: str) -> None:
        """A session is over."""
        for each in self._wanted.pop(key, {}).values():
            each.replaces()
            each.scope.cancel()

    async def _wait_following(self, session: Session, server: Server, wanted: _Wanted, headers: Mapping[str, str]) -> None:
        def updated(server: Server, uri: str) -> None:
            if self.sight.sees(session.key, server.name):
                shown = self.live.value.shown_uri(server.name, uri)
                self.said(session.key, notification_text(UPDATED, dumps({"uri": shown})))

        follower = Follower(
            client=self.client,
            live=self.live,
            info=session.client_info,
            headers=headers,
            updated=updated,
            sees=lambda name: self.sight.sees(session.key, name),
        )
        with wanted.scope:
            group = Followed(server, tuple(sorted(wanted.uris)), is_stateless=True)
            await follower.wait_following(group, wanted.replaces)
        wanted.replaces()
