"""A session store in memory, for replicas in one process: the fake of directory/redisstore.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from mcpgw_sidecar.directory import store as stores
from mcpgw_sidecar.directory.store import MAX_KEPT, MAX_SAID, ReplicaNews, SharedRow
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import Session


@attrs.define
class Shared:
    """What all replicas see."""

    tickets: dict[str, dict[ServerName, str]] = attrs.field(factory=dict)
    levels: dict[str, str] = attrs.field(factory=dict)
    resources: dict[str, set[tuple[ServerName, str]]] = attrs.field(factory=dict)
    mail: dict[str, list[bytes]] = attrs.field(factory=dict)
    said: dict[str, list[bytes]] = attrs.field(factory=dict)
    tokens: dict[str, tuple[str, float]] = attrs.field(factory=dict)
    leases: dict[tuple[str, ServerName], tuple[object, float]] = attrs.field(factory=dict)
    ended: dict[str, int] = attrs.field(factory=dict)
    replicas: list[tuple[int, ReplicaNews]] = attrs.field(factory=list)


@attrs.define
class MemoryStore:
    """One replica's store. `pause` is how long each operation takes, in seconds."""

    all: Shared
    pause: float = 0.0
    shared: bool = True
    error: str | None = None
    name: str = "memory"

    async def wait_ticket(self, session: Session, server: ServerName) -> str | None:
        await trio.sleep(self.pause)
        return self.all.tickets.get(session.key, {}).get(server)

    async def wait_keep(self, session: Session, server: ServerName, ticket: str, *, instead_of: str | None) -> str:
        await trio.sleep(self.pause)
        tickets = self.all.tickets.setdefault(session.key, {})
        if tickets.get(server) in {None, instead_of}:
            tickets[server] = ticket
        return tickets[server]

    async def wait_row(self, session: Session) -> SharedRow:
        await trio.sleep(self.pause)
        resources: dict[ServerName, set[str]] = {}
        for server, uri in self.all.resources.get(session.key, ()):
            resources.setdefault(server, set()).add(uri)
        return SharedRow(
            tickets=dict(self.all.tickets.get(session.key, {})),
            level=self.all.levels.get(session.key),
            resources={server: frozenset(uris) for server, uris in resources.items()},
        )

    async def wait_wish(self, session: Session, field: tuple[ServerName, str] | None, value: str | None) -> None:
        await trio.sleep(self.pause)
        if field is None and value is not None:
            self.all.levels[session.key] = value
        elif field is not None and value is None:
            self.all.resources.get(session.key, set()).discard(field)
        elif field is not None:
            self.all.resources.setdefault(session.key, set()).add(field)
        for replica, listener in self.all.replicas:
            if replica != id(self):
                listener.changed(session.key)

    async def wait_end(self, session: Session) -> SharedRow:
        row = await self.wait_row(session)
        for table in (self.all.tickets, self.all.levels, self.all.resources, self.all.mail):
            table.pop(session.key, None)
        self.all.ended[session.key] = session.expires
        for replica, listener in self.all.replicas:
            if replica != id(self):
                listener.ended(session.key, session.expires)
        return row

    async def wait_post(self, session_key: str, message: bytes) -> bool:
        await trio.sleep(self.pause)
        self.all.mail[session_key] = [*self.all.mail.get(session_key, []), message][-MAX_KEPT:]
        for _, listener in self.all.replicas:
            listener.mail(session_key)
        return True

    async def wait_client_message(self, session_key: str, message: bytes) -> bool:
        await trio.sleep(self.pause)
        self.all.said[session_key] = [*self.all.said.get(session_key, []), message][-MAX_SAID:]
        for replica, listener in self.all.replicas:
            if replica != id(self):
                listener.client_message(session_key)
        return True

    async def wait_client_messages(self, session_key: str) -> list[bytes] | None:
        await trio.sleep(self.pause)
        return list(self.all.said.get(session_key, ()))

    async def wait_client_message_taken(self, session_key: str, message: bytes) -> None:
        await trio.sleep(self.pause)
        self.all.said[session_key].remove(message)

    async def wait_token(self, key: str) -> str | None:
        sealed, until = self.all.tokens.get(key, (None, 0.0))
        return sealed if trio.current_time() < until else None

    async def wait_token_kept(self, key: str, sealed: str, seconds: int) -> None:
        self.all.tokens[key] = (sealed, trio.current_time() + seconds)

    async def wait_mail(self, session_key: str) -> list[bytes]:
        await trio.sleep(self.pause)
        return self.all.mail.pop(session_key, [])

    async def wait_lease(self, session_key: str, server: ServerName, waiting: Callable[[], None]) -> bool:
        had_to_wait = False
        while True:
            await trio.sleep(self.pause)
            holder, until = self.all.leases.get((session_key, server), (self, -math.inf))
            if holder is self or until <= trio.current_time():
                self.all.leases[session_key, server] = (self, math.inf)
                return had_to_wait
            had_to_wait = True
            waiting()
            await trio.sleep(0.01)

    async def wait_lease_lost(self, session_key: str, server: ServerName) -> None:
        while self.all.leases.get((session_key, server), (self, 0.0))[0] is self:  # noqa: ASYNC110  # a fake
            await trio.sleep(0.01)

    def release(self, session_key: str, server: ServerName) -> None:
        if self.all.leases.get((session_key, server), (None, 0.0))[0] is self:
            del self.all.leases[session_key, server]

    async def wait_left(self) -> None:
        await self.wait_gone(0.0)

    async def wait_gone(self, seconds: float) -> None:
        """This replica has ended; the others see it after some seconds."""
        self.all.replicas = [(replica, news) for replica, news in self.all.replicas if replica != id(self)]
        await trio.sleep(seconds)
        self.all.leases = {place: lease for place, lease in self.all.leases.items() if lease[0] is not self}
        for _, news in self.all.replicas:
            news.gone()

    async def wait_following(self, listener: ReplicaNews) -> None:
        self.all.replicas.append((id(self), listener))
        for key, expires in self.all.ended.items():
            listener.ended(key, expires)
        try:
            await trio.sleep_forever()
        finally:  # it was killed
            with trio.CancelScope(shield=True):
                await self.wait_gone(stores.LEASE)
