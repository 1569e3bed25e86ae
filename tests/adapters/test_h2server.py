"""grpclib on Trio, in memory: a call, what is unknown, what a peer may do, and the drain."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mcpgw_sidecar.extproc.h2server import GrpcServer, bidirectional
from mcpgw_sidecar.extproc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from mcpgw_sidecar.runtime.work import Work

PATH = "/x.Y/Z"
LARGE = 1 << 20  # bytes of an answer: more than a socket holds


@attrs.define
class Peer:
    """Envoy's side of a connection, by h2."""

    stream: trio.SocketStream
    h2: h2.connection.H2Connection = attrs.field(factory=h2.connection.H2Connection)
    events: list[Any] = attrs.field(factory=list)

    async def start(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def ask(self, path: str = PATH, *messages: ProcessingRequest, end: bool = True) -> int:
        number = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "router")]
        self.h2.send_headers(number, [*head, ("content-type", "application/grpc"), ("te", "trailers")])
        for message in messages:
            body = message.SerializeToString()
            self.h2.send_data(number, struct.pack("!?I", False, len(body)) + body)
        if end:
            self.h2.end_stream(number)
        await self.flush()
        return number

    async def wait_for(self, found: Callable[[Any], bool]) -> Any:
        with trio.fail_after(10):
            while True:
                for event in self.events:
                    if found(event):
                        self.events.remove(event)
                        return event
                data = await self.stream.receive_some(65536)
                assert data, "the connection has ended"
                self.events += self.h2.receive_data(bytes(data))
                await self.flush()

    async def wait_trailers(self, number: int) -> dict[str, str]:
        event = await self.wait_for(
            lambda each: (
                isinstance(each, h2.events.TrailersReceived | h2.events.ResponseReceived)
                and each.stream_id == number
                and any(name == b"grpc-status" for name, _ in each.headers)
            )
        )
        return {name.decode(): value.decode() for name, value in event.headers}


async def wait_echo(stream: Any) -> None:
    while (message := await stream.recv_message()) is not None:
        if message.HasField("request_body"):
            raise ZeroDivisionError
        await stream.send_message(ProcessingResponse(request_headers={}))


@asynccontextmanager
async def connected(method: Callable[[Any], Awaitable[None]] = wait_echo) -> AsyncIterator[tuple[GrpcServer, Peer]]:
    ours, theirs = trio.socket.socketpair()
    server = GrpcServer(bidirectional(PATH, method, ProcessingRequest, ProcessingResponse))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._wait_connection, trio.SocketStream(ours))
        peer = Peer(trio.SocketStream(theirs))
        await peer.start()
        yield server, peer
        nursery.cancel_scope.cancel()


async def test_messages_are_answered_one_by_one() -> None:
    async with connected() as (server, peer):
        number = await peer.ask(PATH, ProcessingRequest(request_headers={}), ProcessingRequest(request_headers={}))
        assert (await peer.wait_trailers(number))["grpc-status"] == "0"
        data = b"".join(event.data for event in peer.events if isinstance(event, h2.events.DataReceived))
        assert data.count(ProcessingResponse(request_headers={}).SerializeToString()) == 2
        assert server.streams == 0


async def test_a_method_that_is_unknown_is_unimplemented() -> None:
    async with connected() as (_, peer):
        assert (await peer.wait_trailers(await peer.ask("/other")))["grpc-status"] == "12"
        number = await peer.ask(PATH, ProcessingRequest(request_headers={}))
        assert (await peer.wait_trailers(number))["grpc-status"] == "0"


async def test_a_bug_ends_its_own_stream_alone() -> None:
    async with connected() as (_, peer):
        bad = await peer.ask(PATH, ProcessingRequest(request_body={}), end=False)
        assert (await peer.wait_trailers(bad))["grpc-status"] == "2"
        number = await peer.ask(PATH, ProcessingRequest(request_headers={}))
        assert (await peer.wait_trailers(number))["grpc-status"] == "0"


async def test_a_stream_that_its_peer_resets_is_over() -> None:
    async with connected() as (server, peer):
        number = await peer.ask(PATH, ProcessingRequest(request_headers={}), end=False)
        await peer.wait_for(lambda each: isinstance(each, h2.events.DataReceived))
        assert server.streams == 1
        peer.h2.reset_stream(number)
        await peer.flush()
        with trio.fail_after(10):
            while server.streams:  # noqa: ASYNC110  # a counter has no event
                await trio.sleep(0.01)


async def wait_large(stream: Any) -> None:
    while await stream.recv_message() is not None:
        await stream.send_message(ProcessingResponse(request_headers={}, dynamic_metadata={"x": "y" * LARGE}))


async def test_many_large_answers_reach_a_peer_that_reads_late() -> None:
    """The socket is full, then the windows of HTTP/2: what waits goes on as soon as it can."""
    async with connected(wait_large) as (server, peer):
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: LARGE // 2})
        peer.h2.increment_flow_control_window(100 * LARGE)
        numbers = [await peer.ask(PATH, ProcessingRequest(request_headers={})) for _ in range(5)]
        await wait_all_tasks_blocked(0.05)
        sizes = dict.fromkeys(numbers, 0)
        with trio.fail_after(30):
            while server.streams or not all(size > LARGE for size in sizes.values()):
                for event in peer.h2.receive_data(bytes(await peer.stream.receive_some(65536))):
                    if isinstance(event, h2.events.DataReceived):
                        sizes[event.stream_id] += len(event.data)
                        if event.flow_controlled_length:
                            peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                await peer.flush()


@pytest.mark.parametrize("frame", [b"\x00\x00\x04\x20\x00\x00\x00\x00\x00abcd", b"\x00\x00\x02\xff\x00\x00\x00\x00\x01xy"])
async def test_frames_of_extensions_are_ignored(frame: bytes) -> None:
    """RFC 9113, 5.5."""
    async with connected() as (_, peer):
        await peer.stream.send_all(frame)
        number = await peer.ask(PATH, ProcessingRequest(request_headers={}))
        assert (await peer.wait_trailers(number))["grpc-status"] == "0"


async def test_a_drain_refuses_no_stream_that_is_on_its_way() -> None:
    server = GrpcServer(bidirectional(PATH, wait_echo, ProcessingRequest, ProcessingResponse))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    stop, over = trio.Event(), trio.Event()

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await server.serve(listeners[0], stop, work=Work(), task_status=task_status)
        over.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        peer = Peer(await trio.open_tcp_stream(*address))
        await peer.start()
        number = await peer.ask(PATH, ProcessingRequest(request_headers={}), end=False)
        await peer.wait_for(lambda each: isinstance(each, h2.events.DataReceived))
        stop.set()
        # h2 takes a GOAWAY for the end of the connection; Envoy goes on with its streams.
        goaway = _frame(7, 0, 0, ((1 << 31) - 1).to_bytes(4, "big") + bytes(4))
        received = b""
        with trio.fail_after(10):
            while goaway not in received or b"draining" not in received:
                received += await peer.stream.receive_some(65536)
        assert not over.is_set(), "its stream goes on"
        body = ProcessingRequest(request_headers={}).SerializeToString()
        await peer.stream.send_all(_frame(0, 1, number, struct.pack("!?I", False, len(body)) + body))
        await peer.stream.send_all(_frame(6, 1, 0, b"draining"))
        with trio.fail_after(10):
            await over.wait()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
