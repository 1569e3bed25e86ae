"""The answers to `subscriptions/listen`: clients of the stateless era hear there of changed lists.

The first event says what the client will hear; it has the id of the request in it, as all others
have. Single resources are followed at their servers (following.py). The answer ends with a result
when the process drains, or when the client may see nothing here any more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Final

import attrs
import trio

from mcpgw_sidecar.catalog.rights import sees_server
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot, changes
from mcpgw_sidecar.catalog.views import current, state_of
from mcpgw_sidecar.front.answers import Events
from mcpgw_sidecar.front.following import Followed, Follower, followed
from mcpgw_sidecar.front.keepalive import KeepAlive
from mcpgw_sidecar.front.waking import COALESCE, COLLECT, Sleeper
from mcpgw_sidecar.inbound.classify import Inbound
from mcpgw_sidecar.model.access import Authentication
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.kinds import KINDS
from mcpgw_sidecar.model.names import JsonText, Scope, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import NOTHING
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, Request, result_text
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps, only
from mcpgw_sidecar.protocol.methods import UPDATED
from mcpgw_sidecar.protocol.sessionless import sender_of
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.runtime.http import Receive, Send, wait_gone
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.stateful import UpstreamClient

META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
_FLAGS = {f"{kind.capability}ListChanged": kind.changed for kind in KINDS}
MAX_UPDATED: Final = 1000  # resources that changed and whose client was not told yet
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


@lru_cache  # a thousand clients listen to the same
def _methods(*wanted: bool) -> frozenset[str]:
    return frozenset(method for method, is_wanted in zip(_FLAGS.values(), wanted, strict=True) if is_wanted)


@attrs.define(eq=False)
class Listen(Sleeper):
    """One client that listens: what it wants to hear of, and the lists that it knows.

    `uris` are the resources that it follows, as it wrote them, `groups` those by their servers.
    """

    ident: JsonText
    methods: frozenset[str]
    uris: tuple[str, ...]
    groups: tuple[Followed, ...]
    info: JsonText
    headers: Mapping[str, str]
    scope: Scope
    claims: Mapping[str, Any] | None
    login: Authentication | None
    until: float
    state: str
    _updated: dict[tuple[Server, str], None] = attrs.field(factory=dict, init=False)

    def updated(self, server: Server, uri: str) -> None:
        """A resource of a server has changed."""
        if len(self._updated) < MAX_UPDATED:
            self._updated[server, uri] = None
        self.wake()

    def sees(self, server: ServerName) -> bool:
        """Whether its client may see anything of a server, by the rules of when it last looked."""
        return self.scope.rules is None or sees_server(self.scope.rules, self.scope.virtual, server)

    def news(self, snapshot: Snapshot) -> list[str]:
        """The messages about what has changed; from now on it knows the lists of now.

        It closes where the client has to come back.
        """
        scope = current(self.scope, snapshot, self.claims)
        if scope is None or snapshot.access.authentication != self.login:
            self.closed = True
            return []
        self.scope = scope
        before, self.state = self.state, state_of(snapshot.stateless or EMPTY, self.scope)
        changed = [self.message(method, {}) for method in changes(before, self.state) if method in self.methods]
        updated, self._updated = self._updated, {}
        seen = [each for each in updated if self.sees(each[0].name)]
        catalog = snapshot.stateless or EMPTY
        return changed + [self.message(UPDATED, {"uri": catalog.shown_uri(server.name, uri)}) for server, uri in seen]

    def acknowledgement(self) -> str:
        """What the client hears first: which of its wishes are honoured."""
        honoured: dict[str, object] = {flag: True for flag, method in _FLAGS.items() if method in self.methods}
        honoured |= {"resourceSubscriptions": list(self.uris)} if self.uris else {}
        return self.message(_ACKNOWLEDGED, {"notifications": honoured})

    def message(self, method: str, more: Mapping[str, object]) -> str:
        """A notification to the client."""
        params = "".join(f"{dumps(key)}:{dumps(value)}," for key, value in more.items())
        meta = f'"_meta":{{"{META_SUBSCRIPTION}":{self.ident}}}'
        return f'{{"jsonrpc":"2.0","method":"{method}","params":{{{params}{meta}}}}}'


@attrs.define
class Listens:
    """All clients that listen. `client` asks servers; without it no resource is followed."""

    live: Watched[Snapshot]
    client: UpstreamClient | None
    keep_alive: KeepAlive
    _open: set[Listen] = attrs.field(factory=set)

    def count(self) -> int:
        """How many listen."""
        return len(self._open)

    def close_all(self) -> None:
        """End all answers, because the process drains."""
        for listen in self._open:
            listen.close()

    async def wait_notifying(self) -> None:
        """Wake everybody when the lists, or who may see them, may have changed, for ever."""
        version = self.live.version
        while True:
            await self.live.wait_after(version)
            await trio.sleep(COLLECT)
            version = self.live.version
            for listen in self._open:
                listen.wake()
            await trio.sleep(COALESCE - COLLECT)

    def opened(self, inbound: Inbound, headers: Mapping[str, str]) -> Listen | Reject:
        """What a request asks for."""
        request, snapshot = inbound.message, self.live.value
        assert isinstance(request, Request)  # noqa: S101  # the ladder has seen its method
        if h.EVENT_STREAM not in h.accepted(headers.get("accept")):
            message = "Not acceptable: the answer is text/event-stream"
            return Reject(status=406, code=INVALID_REQUEST, message=message, id=request.id)
        try:
            wanted, sender = only(request.params or [], "notifications"), sender_of(request)
        except JsonTextError as error:
            return refusal(INVALID_REQUEST, f"Invalid Request: {error}", id=request.id)
        if wanted is None or not isinstance(wanted.value, dict):
            return refusal(INVALID_PARAMS, "Invalid params: notifications must be an object", id=request.id)
        caller = inbound.caller
        resources = wanted.value.get("resourceSubscriptions")
        uris, groups = followed(inbound.view, resources if isinstance(resources, list) else ())
        return Listen(
            uris=uris,
            groups=groups,
            info=sender.info if groups else JsonText("{}"),
            headers=dict(headers) if groups else NOTHING,
            ident=request.id,
            methods=_methods(*(wanted.value.get(flag) is True for flag in _FLAGS)),
            scope=inbound.scope,
            claims=caller.claims if caller is not None else None,
            login=snapshot.access.authentication,
            until=caller.until if caller is not None else math.inf,
            state=state_of(snapshot.stateless or EMPTY, inbound.scope),
        )

    async def wait_listened(self, listen: Listen, receive: Receive, send: Send) -> None:
        """Answer a request for as long as its client is there."""
        if not listen.groups or self.client is None:
            await self._wait_listened(listen, receive, send)
            return
        follower = Follower(
            client=self.client,
            live=self.live,
            info=listen.info,
            headers=listen.headers,
            updated=listen.updated,
            sees=listen.sees,
        )
        async with trio.open_nursery() as nursery:
            for group in listen.groups:
                nursery.start_soon(follower.wait_following, group)
            await self._wait_listened(listen, receive, send)
            nursery.cancel_scope.cancel()

    async def _wait_listened(self, listen: Listen, receive: Receive, send: Send) -> None:
        events = Events(send, lock=None)
        self._open.add(listen)
        kept = self.keep_alive.begin(listen, send, listen.until)
        try:
            await events.wait_sent(listen.acknowledgement())
            while not listen.closed and time.time() < listen.until:
                match await listen.wait_news(partial(wait_gone, receive)):
                    case "other":
                        return
                    case "silence":
                        await events.wait_kept_alive()
                    case "news":
                        for message in listen.news(self.live.value):
                            await events.wait_sent(message)
            result = f'{{"resultType":"complete","_meta":{{"{META_SUBSCRIPTION}":{listen.ident}}}}}'
            await events.wait_ended(result_text(listen.ident, result.encode()))
        finally:
            kept.end()
            self._open.discard(listen)
