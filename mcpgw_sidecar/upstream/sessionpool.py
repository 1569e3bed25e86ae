"""Sessions with servers for clients that have none: those of the stateless era.

A client is named by who it is and what it says of itself; its calls share sessions, and nobody
else's calls use them. A call of a client that a server may ask something is alone in its session
meanwhile, so what the server asks there belongs to it. A session that nobody uses for a while is
closed.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

import attrs
import trio

from mcpgw_sidecar.envoy.contract import FORGOTTEN
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient
from mcpgw_sidecar.upstream.words import ClientWords

IDLE: Final = 600.0  # seconds after which a session that nobody uses is closed
SWEEP: Final = 30.0  # seconds between two looks for those
MOST: Final = 1000  # sessions; beyond it the one that was not used for longest is closed
OF_ONE: Final = 60  # of one client, whatever names it gives itself


_Key = tuple[str, str, str, ServerName]
"""Who a client is, its name and capabilities as JSON, and the server."""


@attrs.define(eq=False)
class Pooled:
    """A session of the pool, and how many calls use it; `since` is when it was last used.

    `level` is from where on the server sends its log.
    """

    upstream: Upstream
    words: ClientWords
    since: float
    users: int = 0
    level: str | None = None
    replacing: trio.Lock = attrs.field(factory=trio.Lock)


@attrs.define(kw_only=True, eq=False)
class SessionPool:
    """The sessions. `nursery` holds their closing; `servers` returns those of now."""

    client: UpstreamClient
    nursery: trio.Nursery
    servers: Callable[[], Mapping[ServerName, Server]]
    _sessions: dict[_Key, list[Pooled]] = attrs.field(factory=dict, init=False)
    _opening: dict[_Key, trio.Lock] = attrs.field(factory=dict, init=False)
    _closing: int = attrs.field(default=0, init=False)

    def counts(self) -> Counter[ServerName]:
        """How many sessions there are, by server."""
        return Counter(key[-1] for key, _ in self._all())

    @contextlib.asynccontextmanager
    async def leased(
        self, who: str, server: Server, words: ClientWords, headers: Mapping[str, str], *, alone: bool
    ) -> AsyncIterator[Pooled]:
        """A session of a client with a server; nobody else uses it meanwhile if it is `alone`.

        `who` is "" for a client that nobody knows again: its session ends with the call. `headers`
        are those of each request in a session that has to be opened. Raises UpstreamError.
        """
        key = (who or secrets.token_hex(16), words.info, words.capabilities, server.name)
        pooled = await self._wait_leased(key, server, words, headers, alone=alone)
        try:
            yield pooled
        finally:
            pooled.users -= 1
            pooled.since = trio.current_time()
            if not who:
                self._drop(key, pooled)

    async def wait_replaced(self, pooled: Pooled, used: Upstream, status: int | None) -> bool:
        """Put another session in place of one that its server may have forgotten.

        `used` is the one in which it answered with this status. False if that one lives: the status
        has another reason. Raises UpstreamError.
        """
        if status not in FORGOTTEN or used.session.id is None:
            return False
        async with pooled.replacing:
            if pooled.upstream.session.id == used.session.id:  # else another call was first
                if await self.client.wait_alive(used, pooled.words):
                    return False
                pooled.upstream = await self._wait_opened(used.server, pooled.words, used.headers)
                pooled.level = None
        return True

    async def wait_sweeping(self) -> None:
        """Close what nobody uses any more, for ever."""
        while True:
            await trio.sleep(SWEEP)
            now, servers = trio.current_time(), self.servers()
            for key, pooled in list(self._all()):
                server = servers.get(key[-1])
                is_gone = server is None or server.moved_from(pooled.upstream.server)
                if not pooled.users and (is_gone or now - pooled.since > IDLE):
                    self._drop(key, pooled)

    async def wait_all_closed(self) -> None:
        """Close all sessions, for a moment at most: the process ends."""
        for key, pooled in list(self._all()):
            self._drop(key, pooled)
        with trio.move_on_after(timeouts.CLOSE):
            while self._closing:  # noqa: ASYNC110  # a few requests, at the end
                await trio.sleep(0.01)

    async def _wait_leased(
        self, key: _Key, server: Server, words: ClientWords, headers: Mapping[str, str], *, alone: bool
    ) -> Pooled:
        lock = self._opening.setdefault(key, trio.Lock())
        try:
            async with lock if not alone else contextlib.nullcontext():  # calls that share a session wait for its opening
                pooled = self._free(key, server, alone=alone)
                if pooled is None:
                    self._make_room(key[0])
                    upstream = await self._wait_opened(server, words, headers)
                    pooled = Pooled(upstream, words, trio.current_time())
                    self._sessions.setdefault(key, []).append(pooled)
                pooled.users += 1
        finally:
            if not lock.locked():
                self._opening.pop(key, None)
        return pooled

    def _free(self, key: _Key, server: Server, *, alone: bool) -> Pooled | None:
        """A session that is open already."""
        return next(
            (
                pooled
                for pooled in self._sessions.get(key, ())
                if not (alone and pooled.users) and not server.moved_from(pooled.upstream.server)
            ),
            None,
        )

    async def _wait_opened(self, server: Server, words: ClientWords, headers: Mapping[str, str]) -> Upstream:
        def left(session: UpstreamSession) -> None:
            self._close(Upstream(server, session, headers))

        shake = await self.client.wait_initialized(server, client=words, headers=headers, left=left)
        return Upstream(server, shake.session, headers)

    def _make_room(self, who: str) -> None:
        """Close the session that was not used for longest: of this client, if it has many.

        Raises UpstreamError if all are used.
        """
        everybodys = list(self._all())
        own = [(key, pooled) for key, pooled in everybodys if key[0] == who]
        if len(everybodys) < MOST and len(own) < OF_ONE:
            return
        candidates = own if len(own) >= OF_ONE else everybodys
        idle = [(pooled.since, key, pooled) for key, pooled in candidates if not pooled.users]
        if not idle:
            raise UpstreamError("Busy", "was not asked: too many clients use it at the moment")
        _, key, pooled = min(idle, key=lambda each: each[0])
        self._drop(key, pooled)

    def _all(self) -> Iterator[tuple[_Key, Pooled]]:
        return ((key, pooled) for key, sessions in self._sessions.items() for pooled in sessions)

    def _drop(self, key: _Key, pooled: Pooled) -> None:
        sessions = self._sessions.get(key, [])
        if pooled in sessions:
            sessions.remove(pooled)
            server = self.servers().get(key[-1], pooled.upstream.server)  # whose credential may be another now
            is_there = not server.moved_from(pooled.upstream.server)
            self._close(attrs.evolve(pooled.upstream, server=server) if is_there else pooled.upstream)
        if not sessions:
            self._sessions.pop(key, None)

    def _close(self, upstream: Upstream) -> None:
        self._closing += 1
        self.nursery.start_soon(self._wait_closed, upstream)

    async def _wait_closed(self, upstream: Upstream) -> None:
        try:
            await self.client.wait_closed(upstream)
        finally:
            self._closing -= 1
