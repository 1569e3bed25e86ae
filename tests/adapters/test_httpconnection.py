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
