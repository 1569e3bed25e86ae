"""A server that ends answers what has reached it: nothing that is written to it is reset."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import pytest
import trio
from hypercorn.trio.worker_context import EventWrapper, WorkerContext

from mcpgw_sidecar.runtime import http
from mcpgw_sidecar.runtime.listeners import Address, open_listener

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def app(_scope: Any, receive: Any, send: Any) -> None:
    await http.wait_body(receive, 100)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def wait_answer(client: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"ok"):
        more = await trio.to_thread.run_sync(client.recv, 4096)
        if not more:
            break
        answer += more
    return answer


@pytest.mark.duty("drain.calls")
async def test_who_is_not_accepted_yet_is_answered() -> None:
    """The event loop was busy when they came, and then the process was told to end."""
    listener, address = await open_listener(Address("127.0.0.1", 0), "--x")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(http.serve, app, listener, stop, drain=http.Drain(lambda: 5.0)))
        with socket.create_connection(("127.0.0.1", address.port)) as client:
            client.sendall(REQUEST)
            stop.set()
            answer = await wait_answer(client)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", address.port))


@pytest.mark.duty("drain.calls")
async def test_a_request_in_an_idle_connection_that_is_about_to_close_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, address = await open_listener(Address("127.0.0.1", 0), "--x")
    stop = trio.Event()
    with socket.create_connection(("127.0.0.1", address.port)) as client:

        class JustBefore(EventWrapper):
            async def set(self) -> None:
                client.sendall(REQUEST)
                await super().set()

        class Context(WorkerContext):
            def __init__(self, max_requests: int | None) -> None:
                super().__init__(max_requests)
                self.terminated = JustBefore()

        monkeypatch.setattr(http, "WorkerContext", Context)
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(http.serve, app, listener, stop, drain=http.Drain(lambda: 5.0)))
            client.sendall(REQUEST)
            assert (await wait_answer(client)).startswith(b"HTTP/1.1 200")
            stop.set()
            answer = await wait_answer(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
