"""Sessions that calls of clients without sessions share, under a clock that jumps."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.upstream import sessionpool
from mcpgw_sidecar.upstream.sessionpool import IDLE, SWEEP, SessionPool
from mcpgw_sidecar.upstream.words import ClientWords
from tests.adapters.replicas import ONE, FakeServer

WORDS = ClientWords(protocol_version="2025-11-25", info="{}", capabilities="{}")


@contextlib.asynccontextmanager
async def pooled(server: FakeServer, servers: dict[Any, Any] | None = None) -> AsyncIterator[SessionPool]:
    client: Any = server
    async with trio.open_nursery() as nursery:
        pool = SessionPool(client=client, nursery=nursery, servers=lambda: {ONE.name: ONE} if servers is None else servers)
        nursery.start_soon(pool.wait_sweeping)
        yield pool
        nursery.cancel_scope.cancel()


async def used(pool: SessionPool, who: str = "a", seconds: float = 1.0, *, alone: bool = False) -> str | None:
    """The session of a call that takes a while."""
    async with pool.leased(who, ONE, WORDS, {}, alone=alone) as lease:
        await trio.sleep(seconds)
        return lease.upstream.session.id


async def at_once(pool: SessionPool, *calls: dict[str, Any]) -> list[str | None]:
    idents: list[str | None] = []

    async def call(more: dict[str, Any]) -> None:
        idents.append(await used(pool, **more))

    async with trio.open_nursery() as nursery:
        for more in calls:
            nursery.start_soon(call, more)
    return sorted(map(str, idents))


async def test_calls_of_one_client_share_a_session_and_one_opening(autojump_clock: MockClock) -> None:
    async with pooled(server := FakeServer()) as pool:
        assert await at_once(pool, {}, {}, {}) == ["u1"] * 3
        assert await at_once(pool, {}, {"who": "b"}) == ["u1", "u2"]
        assert (server.count, pool.counts()) == (2, {ONE.name: 2})
        assert not pool._opening


async def test_who_can_be_asked_is_alone_in_a_session(autojump_clock: MockClock) -> None:
    async with pooled(FakeServer()) as pool:
        assert await at_once(pool, {"alone": True}, {"alone": True}) == ["u1", "u2"]
        assert await used(pool, alone=True) in {"u1", "u2"}, "it is free again"


async def test_nobody_whom_nobody_knows_comes_back(autojump_clock: MockClock) -> None:
    async with pooled(server := FakeServer()) as pool:
        assert await used(pool, "") == "u1"
        assert await at_once(pool, {"who": ""}, {"who": "", "seconds": 3.0}) == ["u2", "u3"], "nor meets another one"
        await trio.sleep(1)
        assert sorted(ident for ident, _ in server.closed) == ["u1", "u2", "u3"]
        assert not pool.counts()


async def test_idle_sessions_are_closed_and_those_of_servers_that_moved(autojump_clock: MockClock) -> None:
    servers = {ONE.name: ONE}
    async with pooled(server := FakeServer(), servers) as pool:
        await used(pool)
        await trio.sleep(IDLE / 2)
        await used(pool)
        await trio.sleep(IDLE / 2 + SWEEP)
        assert not server.closed
        await trio.sleep(IDLE / 2 + SWEEP)
        assert [ident for ident, _ in server.closed] == ["u1"]
        await used(pool)
        servers[ONE.name] = attrs.evolve(ONE, url="http://elsewhere/mcp")
        await trio.sleep(SWEEP + 1)
        assert [ident for ident, _ in server.closed] == ["u1", "u2"]
        await used(pool)
        await pool.wait_all_closed()
        assert len(server.closed) == 3


async def test_there_is_a_limit(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessionpool, "MOST", 2)
    async with pooled(server := FakeServer()) as pool:
        for who in ("a", "b", "c"):
            await used(pool, who)
        await trio.sleep(1)
        assert [ident for ident, _ in server.closed] == ["u1"], "the one that was not used for longest"
        async with pool.leased("b", ONE, WORDS, {}, alone=False), pool.leased("c", ONE, WORDS, {}, alone=False):
            with pytest.raises(UpstreamError, match="too many clients"):
                await used(pool, "d")


async def test_one_client_has_not_all_of_them(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever names it gives itself."""
    monkeypatch.setattr(sessionpool, "OF_ONE", 2)
    async with pooled(server := FakeServer()) as pool:
        for name in ('"a"', '"b"', '"c"'):
            async with pool.leased("one", ONE, attrs.evolve(WORDS, info=name), {}, alone=False):
                pass
        await used(pool, "other")
        await trio.sleep(1)
        assert [ident for ident, _ in server.closed] == ["u1"]
        assert pool.counts() == {ONE.name: 3}


async def test_a_session_that_its_server_forgot_is_replaced_for_all(autojump_clock: MockClock) -> None:
    async with pooled(server := FakeServer()) as pool, pool.leased("a", ONE, WORDS, {}, alone=False) as lease:
        used = lease.upstream
        assert not await pool.wait_replaced(lease, used, 500)
        assert not await pool.wait_replaced(lease, used, 404), "it lives"
        server.open.clear()
        replaced = list[bool]()

        async def replace() -> None:
            replaced.append(await pool.wait_replaced(lease, used, 404))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(replace)
            nursery.start_soon(replace)
        assert replaced == [True, True]
        assert server.count == 2, "once for both"
        assert lease.upstream.session.id == "u2"


async def test_what_a_handshake_leaves_behind_is_closed(autojump_clock: MockClock) -> None:
    async with pooled(server := FakeServer(breaks=UpstreamError("BrokenOff", "broke"))) as pool:
        with pytest.raises(UpstreamError):
            await used(pool)
        await trio.sleep(1)
        assert [ident for ident, _ in server.closed] == ["u1"]
        assert not pool.counts()
        assert not pool._opening
