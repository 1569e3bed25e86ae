"""Connections of the broker's HTTP server: few writes, bounded memory, and an end."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mcpgw_sidecar.front.answers import wait_cancelled
from mcpgw_sidecar.runtime import http
from mcpgw_sidecar.runtime.httpconnection import WRITE_TIMEOUT
from mcpgw_sidecar.runtime.listeners import Address, open_listener
from mcpgw_sidecar.runtime.sockets import wait_read, written

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
LARGE = 8 << 20  # bytes: more than both sides of a socket hold


@asynccontextmanager
async def served(app: http.App) -> AsyncIterator[trio.SocketStream]:
    """A client of a server with an application."""
    listener, address = await open_listener(Address("127.0.0.1", 0), "--x")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(http.serve, app, listener, stop, drain=http.Drain(lambda: 0.0)))
        async with await trio.open_tcp_stream("127.0.0.1", address.port) as client:
            yield client
        stop.set()


def answering(*pieces: bytes) -> http.App:
    """An application that answers with these pieces of body."""

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await http.wait_body(receive, 1 << 30)
        size = str(sum(map(len, pieces))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_an_answer_is_one_write() -> None:
    async with served(answering(b"whole")) as client:
        await client.send_all(REQUEST % 0)
        answer = await client.receive_some(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"whole")


async def test_a_body_may_look_like_the_head_of_an_answer() -> None:
    async with served(answering(b"HTTP/1.1 200 ", b"HTTP/1.1 404 ")) as client:
        await client.send_all(REQUEST % 0)
        answer = b""
        while not answer.endswith(b"\r\n\r\nHTTP/1.1 200 HTTP/1.1 404 "):
            more = await client.receive_some(65536)
            assert more, answer
            answer += more


async def test_a_client_that_expects_it_is_told_to_continue() -> None:
    async with served(answering(b"ok")) as client:
        await client.send_all(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
        assert (await client.receive_some(65536)).startswith(b"HTTP/1.1 100")
        await client.send_all(b"1")
        assert (await client.receive_some(65536)).startswith(b"HTTP/1.1 200")


async def test_a_large_body_waits_for_its_application_and_an_answer_for_its_client() -> None:
    sizes: list[int] = []
    may_read = trio.Event()

    async def echoed(_scope: Any, receive: Any, send: Any) -> None:
        await may_read.wait()
        body = await http.wait_body(receive, LARGE) or b""
        sizes.append(len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
        await send({"type": "http.response.body", "body": body})

    async with served(echoed) as client:
        sent = 0

        async def wait_sent() -> None:
            nonlocal sent
            await client.send_all(REQUEST % LARGE)
            for _ in range(LARGE >> 16):
                await client.send_all(b"x" * 65536)
                sent += 65536

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_sent)
            await wait_all_tasks_blocked(0.05)
            assert sent < LARGE  # nobody reads it yet
            may_read.set()
            size = 0
            while size < LARGE:
                size += len(await client.receive_some(65536))
                if size < 200_000:
                    await trio.sleep(0.01)
    assert sizes == [LARGE]


async def test_a_piece_is_sent_at_once_where_that_can_be() -> None:
    said: list[bool] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await http.wait_body(receive, 100)
        said.append(http.sent_at_once(send, b"early"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        said.append(http.sent_at_once(send, b"early"))
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        said.append(http.sent_at_once(send, b"now"))
        while said[-1]:
            said.append(http.sent_at_once(send, b"x" * LARGE))
        said.append(http.sent_at_once(send, b"never"))
        await send({"type": "http.response.body", "body": b"last"})
        said.append(http.sent_at_once(send, b"late"))

    async with served(app) as client:
        await client.send_all(REQUEST % 0)
        answer = b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            more = await client.receive_some(1 << 20)
            assert more
            answer += more
    assert said == [False, False, True, False, False, False]
    body = answer.partition(b"\r\n\r\n")[2]
    assert body == b"5\r\nfirst\r\n3\r\nnow\r\n%x\r\n%b\r\n4\r\nlast\r\n0\r\n\r\n" % (LARGE, b"x" * LARGE)
    assert not http.sent_at_once(wait_nothing, b"")


async def wait_nothing(_message: dict[str, Any]) -> None:
    """Another `send` than the server's."""


async def test_a_client_that_stops_reading_is_left(autojump_clock: MockClock) -> None:
    del autojump_clock
    async with served(answering(b"z" * LARGE)) as client:
        await client.send_all(REQUEST % 0)
        await trio.sleep(WRITE_TIMEOUT + 1)
        size, more = 0, b"z"
        while more:
            try:
                more = await client.receive_some(65536)
            except trio.BrokenResourceError:
                break
            size += len(more)
    assert 0 < size < LARGE


async def test_an_idle_connection_is_closed(autojump_clock: MockClock) -> None:
    del autojump_clock
    async with served(answering(b"ok")) as client:
        await trio.sleep(http.KEEP_ALIVE / 2)
        await client.send_all(REQUEST % 0)
        assert (await client.receive_some(65536)).endswith(b"ok")
        await trio.sleep(http.KEEP_ALIVE - 1)
        await client.send_all(REQUEST % 0)
        assert (await client.receive_some(65536)).endswith(b"ok")
        start = trio.current_time()
        assert await client.receive_some(65536) == b""
        assert http.KEEP_ALIVE <= trio.current_time() - start <= http.KEEP_ALIVE + 10


async def test_an_application_that_fails_has_said_its_head() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await http.wait_body(receive, 100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async with served(app) as client:
        await client.send_all(REQUEST % 0)
        assert (await client.receive_some(65536)).startswith(b"HTTP/1.1 200")
        assert await client.receive_some(65536) == b""


async def test_a_connection_ends_though_its_application_ends_itself() -> None:
    """As batches do: they stop when their client has all it wanted, or is gone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            await http.wait_body(receive, 100)
            nursery.start_soon(wait_cancelled, receive, None, nursery.cancel_scope)
            await answering(b"ok")(scope, partial(wait_nothing_more, {"type": "http.request"}), send)
            nursery.cancel_scope.cancel()

    for _ in range(10):
        async with served(app) as client:
            await client.send_all(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            with trio.fail_after(5):
                while await client.receive_some(65536):
                    pass


async def wait_nothing_more(message: dict[str, Any]) -> dict[str, Any]:
    """A `receive` whose body is read."""
    return message


async def test_connections_that_close_by_themselves_at_a_drain_harm_no_other() -> None:
    may_answer = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await may_answer.wait()
        await answering(b"ok")(scope, receive, send)

    listener, address = await open_listener(Address("127.0.0.1", 0), "--x")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(http.serve, app, listener, stop, drain=http.Drain(lambda: 5.0)))
        slow = await trio.open_tcp_stream("127.0.0.1", address.port)
        await slow.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        others = [await trio.open_tcp_stream("127.0.0.1", address.port) for _ in range(40)]
        for other in others:
            await other.send_all(REQUEST % 0)
            assert (await other.receive_some(65536)).endswith(b"ok")
        stop.set()
        for other in others:
            await trio.sleep(http.LAST_REQUESTS / 30)
            await other.aclose()
        may_answer.set()
        assert (await slow.receive_some(65536)).endswith(b"ok")
        await slow.aclose()


async def test_who_closed_meanwhile_reads_nothing_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection may have got the number of its descriptor."""
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)

    async def wait_closed(_number: int) -> None:
        await stream.aclose()
        monkeypatch.undo()

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_closed)
    with pytest.raises(trio.ClosedResourceError):
        await wait_read(stream, 10)
    theirs.close()


async def test_what_the_system_does_not_take_is_left_to_the_caller() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    with theirs:
        assert written(stream, b"") == 0
        assert 0 < written(stream, b"x" * LARGE) < LARGE
        assert written(stream, b"x") == 0
        theirs.sendall(b"there")
        assert await wait_read(stream, 3) == b"the"
        theirs.shutdown(socket.SHUT_WR)
        assert await wait_read(stream, 10) == b"re"
        assert await wait_read(stream, 10) == b""
    await stream.aclose()
    assert written(stream, b"x") == 0
    with pytest.raises(trio.ClosedResourceError):
        await wait_read(stream, 1)
