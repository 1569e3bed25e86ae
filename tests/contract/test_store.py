"""What every session store does: one suite over the one in memory and over a real Redis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from mcpgw_sidecar.directory import leases, redislink, redisurl, store as stores
from mcpgw_sidecar.directory.store import MAX_KEPT, MAX_SAID, ReplicaNews, SessionStore, SharedRow, Unshared
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.sessions import Session
from tests.contract.memory import MemoryStore, Shared
from tests.e2e.stack import free_ports
from tests.e2e.test_replicas import redis, redis_process, redis_program

ONE, TWO = ServerName("ns/one"), ServerName("ns/two")
SHORT_LEASE = 0.5  # seconds
Pair = tuple[SessionStore, SessionStore]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if redis_program() is None:
        pytest.skip("no redis-server: install redis or valkey for this Python")
    (port,) = free_ports(1)
    with redis(tmp_path_factory.mktemp("redis"), port):
        yield f"redis://:s3cret@127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def two_replicas(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    if kind == "memory":
        shared = Shared()
        yield MemoryStore(shared), MemoryStore(shared)
        return
    url = request.getfixturevalue("redis_url")
    async with redisurl.opened(url) as first, redisurl.opened(url) as second:
        yield first, second


@pytest.fixture(params=["memory", "redis"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with two_replicas(request.param, request) as stores_of_two:
        yield stores_of_two


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    """Each test has one of its own."""
    return Session(
        key=request.node.name,
        expires=int(time.time()) + 1000,
        protocol_version="2025-11-25",
        client_info=JsonText("{}"),
        capabilities=JsonText("{}"),
    )


class News:
    """What a replica hears of the others."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, int]] = []
        self.mail: list[str] = []
        self.changed: list[str] = []
        self.spoken: list[str] = []
        self.gone = 0
        self.missed: list[None] = []

    def _gone(self) -> None:
        self.gone += 1

    def listener(self) -> ReplicaNews:
        return ReplicaNews(
            ended=lambda key, expires: self.ended.append((key, expires)),
            ended_before=lambda _key, _expires: None,
            mail=self.mail.append,
            changed=self.changed.append,
            client_message=self.spoken.append,
            expired=lambda _key, _tickets: None,
            gone=self._gone,
            missed=lambda: self.missed.append(None),
        )


async def wait_for(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # another process sets it
            await trio.sleep(0.01)


async def test_the_first_ticket_counts_for_all(pair: Pair, session: Session) -> None:
    first, second = pair
    assert await first.wait_ticket(session, ONE) is None
    assert await first.wait_keep(session, ONE, "a", instead_of=None) == "a"
    assert await second.wait_keep(session, ONE, "b", instead_of=None) == "a"
    assert await second.wait_ticket(session, ONE) == "a"
    assert await second.wait_keep(session, ONE, "c", instead_of="another dead one") == "a"
    assert await second.wait_keep(session, ONE, "d", instead_of="a") == "d"
    assert await first.wait_keep(session, ONE, "e", instead_of="a") == "d", "two healed at once: the first counts"
    assert await first.wait_ticket(session, TWO) is None


async def test_a_row_holds_everything_of_a_session(pair: Pair, session: Session) -> None:
    first, second = pair
    assert await first.wait_row(session) == SharedRow()
    await first.wait_keep(session, ONE, "a", instead_of=None)
    await second.wait_wish(session, None, "info")
    await first.wait_wish(session, None, "debug")
    for uri in ("x:a", "x:b"):
        await first.wait_wish(session, (ONE, uri), "1")
    await second.wait_wish(session, (ONE, "x:a"), None)
    row = SharedRow(tickets={ONE: "a"}, level="debug", resources={ONE: frozenset({"x:b"})})
    assert await second.wait_row(session) == row
    assert await second.wait_end(session) == row
    assert await first.wait_row(session) == SharedRow()


async def test_mail_is_taken_once_in_its_order_and_bounded(pair: Pair, session: Session) -> None:
    first, second = pair
    assert await second.wait_mail(session.key) == []
    for number in range(MAX_KEPT + 2):
        assert await first.wait_post(session.key, b"%d" % number)
    assert await second.wait_mail(session.key) == [b"%d" % number for number in range(2, MAX_KEPT + 2)]
    assert await first.wait_mail(session.key) == []


class Waiting:
    """A replica that listens as long as it has the lease."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.has_it = self.waits = self.was_elsewhere = False

    def _wait(self) -> None:
        self.waits = True

    async def wait_listening(self, key: str) -> None:
        while True:
            self.was_elsewhere = await self.store.wait_lease(key, ONE, self._wait)
            self.has_it = True
            await self.store.wait_lease_lost(key, ONE)
            self.has_it = False


@contextlib.asynccontextmanager
async def following(store: SessionStore, news: News) -> AsyncIterator[trio.CancelScope]:
    """A replica that is alive until the scope is cancelled."""
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def follow() -> None:
            with scope:
                await store.wait_following(news.listener())

        nursery.start_soon(follow)
        await trio.sleep(0.05)
        yield scope
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["released", "left", "killed"])
async def test_one_replica_has_a_lease_until_it_gives_it_back_or_is_gone(
    pair: Pair, session: Session, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(stores, "LEASE", SHORT_LEASE)
    first, second = (Waiting(store) for store in pair)
    news = News()
    async with following(pair[0], News()) as life, following(pair[1], news), trio.open_nursery() as nursery:
        await wait_for_replicas(*pair)
        nursery.start_soon(first.wait_listening, session.key)
        await wait_for(lambda: first.has_it)
        nursery.start_soon(second.wait_listening, session.key)
        await wait_for(lambda: second.waits)
        await trio.sleep(3 * SHORT_LEASE)
        assert (first.has_it, first.waits, second.has_it) == (True, False, False)
        assert not await pair[1].wait_lease(session.key, TWO, lambda: None), "of another server"
        if way == "released":
            pair[0].release(session.key, ONE)
        elif way == "left":
            await pair[0].wait_left()
        else:
            life.cancel()
        await wait_for(lambda: second.has_it)
        assert second.was_elsewhere
        assert bool(news.gone) == (way != "released")
        nursery.cancel_scope.cancel()


async def test_a_replica_that_seemed_to_be_gone_loses_its_leases(
    pair: Pair, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LEASE", SHORT_LEASE)
    monkeypatch.setattr(leases, "RENEWED", SHORT_LEASE)
    first, second = (Waiting(store) for store in pair)
    async with following(pair[1], News()), trio.open_nursery() as nursery:
        async with following(pair[0], News()):
            await wait_for_replicas(*pair)
            nursery.start_soon(first.wait_listening, session.key)
            await wait_for(lambda: first.has_it)
            nursery.start_soon(second.wait_listening, session.key)
            await wait_for(lambda: second.waits)
        await wait_for(lambda: second.has_it)
        async with following(pair[0], News()):
            await wait_for(lambda: not first.has_it)
            assert second.has_it
        nursery.cancel_scope.cancel()


async def wait_for_replicas(*replicas: SessionStore) -> None:
    """Wait until each has said that it is alive, and knows the other."""
    del replicas
    await trio.sleep(SHORT_LEASE)


async def test_replicas_hear_of_one_another_and_not_of_themselves(pair: Pair, session: Session) -> None:
    first, second = pair
    ours, theirs = News(), News()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.wait_following, ours.listener())
        nursery.start_soon(second.wait_following, theirs.listener())
        await wait_for_followers(first, session, ours, theirs)
        await first.wait_wish(session, None, "debug")
        await wait_for(lambda: session.key in theirs.changed)
        await first.wait_end(session)
        await wait_for(lambda: (session.key, session.expires) in theirs.ended)
        assert await second.wait_client_messages(session.key) == []
        for number in range(MAX_SAID + 1):
            assert await first.wait_client_message(session.key, b"%d" % number)
        await wait_for(lambda: session.key in theirs.spoken)
        await second.wait_client_message_taken(session.key, b"7")
        said = [b"%d" % number for number in range(1, MAX_SAID + 1) if number != 7]
        assert (await second.wait_client_messages(session.key), ours.spoken) == (said, [])
        assert (ours.changed, [key for key, _ in ours.ended if key == session.key]) == ([], [])
        late = News()
        nursery.start_soon(second.wait_following, late.listener())
        await wait_for(lambda: (session.key, session.expires) in late.ended)
        nursery.cancel_scope.cancel()


async def wait_for_followers(store: SessionStore, session: Session, *news: News) -> None:
    """Mail is told to every replica, the one that posts included."""
    with trio.fail_after(10):
        while not all(session.key in each.mail for each in news):
            await store.wait_post(session.key, b"x")
            await trio.sleep(0.02)


async def test_without_a_store_everything_is_as_if_alone(session: Session) -> None:
    store = Unshared()
    assert (store.shared, store.error) == (False, None)
    assert await store.wait_ticket(session, ONE) is None
    assert await store.wait_keep(session, ONE, "a", instead_of=None) == "a"
    await store.wait_wish(session, None, "debug")
    assert not await store.wait_client_message(session.key, b"{}")
    assert await store.wait_client_messages(session.key) == []
    await store.wait_client_message_taken(session.key, b"{}")
    assert await store.wait_row(session) == await store.wait_end(session) == SharedRow()
    assert not await store.wait_post(session.key, b"x")
    assert await store.wait_mail(session.key) == []
    assert not await store.wait_lease(session.key, ONE, lambda: None)
    store.release(session.key, ONE)
    await store.wait_left()
    with trio.move_on_after(0.01) as waiting:
        await store.wait_lease_lost(session.key, ONE)
    assert waiting.cancelled_caught
    await store.wait_following(News().listener())


async def test_a_store_that_is_lost_fails_no_caller(session: Session) -> None:
    (port,) = free_ports(1)
    async with redisurl.opened(f"redis://127.0.0.1:{port}") as store:
        assert await store.wait_ticket(session, ONE) is None
        assert store.error is not None
        assert await store.wait_keep(session, ONE, "a", instead_of=None) == "a"
        assert await store.wait_row(session) == await store.wait_end(session) == SharedRow()
        assert not await store.wait_post(session.key, b"x")
        assert not await store.wait_client_message(session.key, b"x")
        assert await store.wait_client_messages(session.key) is None
        await store.wait_client_message_taken(session.key, b"x")
        assert not await store.wait_lease(session.key, ONE, lambda: None)


@pytest.mark.skipif(redis_program() is None, reason="no redis-server: install redis or valkey for this Python")
async def test_what_a_store_missed_is_told_once_it_is_back(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LEASE", SHORT_LEASE)
    monkeypatch.setattr(redislink, "PAUSE", 0.0)
    (port,) = free_ports(1)
    url, gone = f"redis://:s3cret@127.0.0.1:{port}", attrs.evolve(session, key="gone")
    async with redisurl.opened(url) as first, redisurl.opened(url) as second, trio.open_nursery() as nursery:
        for server, ticket in ((ONE, "a"), (TWO, "b")):
            assert await first.wait_keep(session, server, ticket, instead_of=None) == ticket
        await first.wait_wish(session, None, "debug")
        await first.wait_wish(session, (ONE, "u"), "1")
        await first.wait_wish(session, (TWO, "u"), "1")
        await first.wait_wish(session, (TWO, "u"), None)
        await first.wait_wish(gone, None, "debug")
        await first.wait_end(gone)
        await first.wait_wish(gone, None, "debug")
        wishes = SharedRow(level="debug", resources={ONE: frozenset({"u"})})
        assert await first.wait_row(session) == wishes, "what the store has not been told counts already"
        with redis(tmp_path, port):
            theirs = News()
            nursery.start_soon(second.wait_following, theirs.listener())
            with trio.fail_after(10):
                while (await second.wait_row(session)).tickets != {ONE: "c"}:
                    await second.wait_keep(session, ONE, "c", instead_of=None)
            nursery.start_soon(first.wait_following, News().listener())
            await wait_for(lambda: not first._missed.unsent)
            row = await second.wait_row(session)
            assert row == attrs.evolve(wishes, tickets={ONE: "c", TWO: "b"}, spare=((ONE, "a"),))
            assert await second.wait_row(gone) == SharedRow()
            await wait_for(lambda: (gone.key, gone.expires) in theirs.ended)
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(redis_program() is None, reason="no redis-server: install redis or valkey for this Python")
async def test_what_was_changed_while_a_replica_did_not_listen_is_read_anew(session: Session, tmp_path: Path) -> None:
    """After a restart of the store one replica is back before another, which misses its news."""
    (port,) = free_ports(1)
    url = f"redis://:s3cret@127.0.0.1:{port}"
    store = redis_process(tmp_path, port)
    async with redisurl.opened(url) as first, redisurl.opened(url) as second, trio.open_nursery() as nursery:
        theirs = News()
        nursery.start_soon(second.wait_following, theirs.listener())
        await wait_for_followers(first, session, theirs)
        before = len(theirs.missed)
        store.stop()
        store = redis_process(tmp_path, port)
        await wait_for(lambda: len(theirs.missed) > before)
        nursery.cancel_scope.cancel()
    store.stop()


@pytest.mark.duty("access.exchange")
async def test_a_token_is_everybodys_for_its_time(pair: Pair) -> None:
    first, second = pair
    assert await second.wait_token("k") is None
    await first.wait_token_kept("k", "sealed", 1)
    assert await second.wait_token("k") == "sealed"
    await trio.sleep(1.2)
    assert await second.wait_token("k") is None
    await Unshared().wait_token_kept("k", "sealed", 1)
    assert await Unshared().wait_token("k") is None
