"""One HTTP connection of hypercorn's Trio worker, with fewer turns of the loop for each request.

Hypercorn sends the head and the body of an answer on their own, starts a task for each pause
between two requests, and hands on what it has read through channels: 18 turns of Trio's loop for
one translated call, each with a system call. Here an answer is written once, who looks for idle
connections looks at all of them, and what was read is handed on without a pause.
"""

from __future__ import annotations

import fcntl
import logging
import termios
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.task_group import _handle
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from mcpgw_sidecar.runtime.sockets import wait_read, written

log = logging.getLogger(__name__)

WRITE_TIMEOUT = 20.0  # seconds for a client to accept one write, else its connection is closed
LAST_WRITE_TIMEOUT = 1.0  # the same once the process drains
HANDSHAKE_TIMEOUT = 60.0  # seconds for a client's part of a TLS handshake
_READ_SIZE = 65536
_HEAD = b"HTTP/1.1 "


class _Inbox:
    """What was read for one request, until its application asks for it."""

    __slots__ = ("_events", "_most", "_room", "_wake")

    def __init__(self, most: int) -> None:
        self._events: deque[Any] = deque()
        self._most = most
        self._wake = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def put(self, event: Any) -> None:  # noqa: ANN401  # a message of ASGI
        """Keep a message; waits while there are too many, but not with the last one."""
        while len(self._events) >= self._most and event["type"] != "http.disconnect":
            await self._room.park()
        self._events.append(event)
        self._wake.unpark()

    async def get(self) -> Any:  # noqa: ANN401  # as above
        """The next message."""
        while not self._events:
            await self._wake.park()
        self._room.unpark()
        return self._events.popleft()


class Sender:
    """ASGI's `send` for one request, which can also send a piece of a body without waiting."""

    __slots__ = ("_connection", "_send")

    def __init__(self, connection: HttpConnection, send: Callable[[Any], Awaitable[None]]) -> None:
        self._connection = connection
        self._send = send

    def __call__(self, message: Any) -> Awaitable[None]:  # noqa: ANN401  # a message of ASGI
        """Send a message."""
        return self._send(message)

    def at_once(self, body: bytes) -> bool:
        """Whether a piece of the body of the answer was sent at once; else `send` can."""
        return self._connection.at_once(body)


class _Requests:
    """What hypercorn takes for its group of tasks: those of one connection."""

    __slots__ = ("_connection", "_nursery")

    def __init__(self, connection: HttpConnection, nursery: trio.Nursery) -> None:
        self._connection = connection
        self._nursery = nursery

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Any,  # noqa: ANN401  # ASGI's dictionary
        send: Callable[[Any], Awaitable[None]],
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application for a request; returns where its messages go."""
        inbox = _Inbox(config.max_app_queue_size)
        threads = trio.to_thread.run_sync, trio.from_thread.run
        self._nursery.start_soon(_handle, app, config, scope, inbox.get, Sender(self._connection, send), *threads)
        return inbox.put

    def spawn(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:  # noqa: ANN401
        """Start another task."""
        self._nursery.start_soon(work, *args)


class HttpConnection(TCPServer):
    """A connection whose writes have an end, and whose reads keep no memory.

    A write ends with the client, with its deadline, or with the process. `idle_since` is when it
    began to wait for a request, in Trio's seconds; None while there is one.
    """

    stream: Any  # plain or TLS

    def __init__(self, app: AppWrapper, config: Config, context: WorkerContext, stream: Any) -> None:  # noqa: ANN401  # plain or TLS
        super().__init__(app, config, context, ConnectionState({}), stream)
        del self.idle_task  # hypercorn's: nothing uses it here
        self.idle_since: float | None = None
        self._before = b""  # what goes out with the next write

    async def run(self) -> None:
        """Serve the connection until one of its ends closes it."""
        is_tls = isinstance(self.stream, trio.SSLStream)
        try:
            if is_tls:
                with trio.fail_after(HANDSHAKE_TIMEOUT):
                    await self.stream.do_handshake()
            client = parse_socket_addr(self._socket.family, self._socket.getpeername())
            server = parse_socket_addr(self._socket.family, self._socket.getsockname())
            async with trio.open_nursery() as nursery:
                self.protocol = ProtocolWrapper(
                    self.app, self.config, self.context, _Requests(self, nursery), self.state,  # type: ignore[arg-type]
                    is_tls, client, server, self.protocol_send, "http/1.1",
                )  # fmt: skip
                self.idle_since = trio.current_time()
                await self._read_data()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            pass
        finally:
            await self._close()

    async def wait_idle_closed(self) -> None:
        """Close it, unless a request has arrived meanwhile: it gets an answer.

        Whatever happens to it, others go on.
        """
        if self.idle_since is None or self._has_arrived():
            return
        try:
            await self._initiate_server_close()
        except Exception:
            log.debug("Idle HTTP connection failed", exc_info=True)
            await trio.aclose_forcefully(self.stream)

    def at_once(self, body: bytes) -> bool:
        """Whether a piece of the body of the answer was sent without waiting."""
        http = getattr(self.protocol.protocol, "connection", None)
        if not isinstance(http, h11.Connection) or http.our_state is not h11.SEND_BODY:
            return False
        if self._before or self.send_lock.locked() or not isinstance(self.stream, trio.SocketStream):
            return False
        data = http.send(h11.Data(data=body)) or b""
        self._before = data[written(self.stream, data) :]
        return not self._before

    async def protocol_send(self, event: Event) -> None:
        """Send what hypercorn has made, and learn whether a request is at work."""
        match event:
            case Updated():
                self.idle_since = trio.current_time() if event.idle else None
            case RawData():
                await self._wait_written(bytes(event.data))
            case _:
                # An application that ends itself because its client has all it wanted must not
                # take along the end of the connection: nobody would close that.
                with trio.CancelScope(shield=True):
                    if self._before:  # of an application that failed
                        await self._wait_written(b"")
                    await super().protocol_send(event)

    async def _wait_written(self, data: bytes) -> None:
        """Send bytes, the head of an answer with what follows it.

        An application that begins an answer has its first bytes at hand (ASGI, Response Start).
        """
        if data.startswith(_HEAD) and not data.startswith(b"1", len(_HEAD)) and not self._before:
            self._before = data
            return
        data, self._before = self._before + data, b""
        if not data:
            return
        if self.send_lock.locked():
            await self.send_lock.acquire()
        else:
            self.send_lock.acquire_nowait()  # without a turn of the loop
        try:
            await self._wait_whole(data)
        finally:
            self.send_lock.release()

    async def _wait_whole(self, data: bytes) -> None:
        done = written(self.stream, data)
        if done == len(data):
            return
        limit = LAST_WRITE_TIMEOUT if self.context.terminated.is_set() else WRITE_TIMEOUT
        with trio.move_on_after(limit) as scope:
            try:
                await self.stream.send_all(memoryview(data)[done:])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
        if scope.cancelled_caught:
            await trio.aclose_forcefully(self.stream)
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        """Hypercorn's method without its timeout (we set none) or a reference to old data.

        The reference would cost an idle stream 2 kB.
        """
        while True:
            try:
                event = RawData(await wait_read(self.stream, _READ_SIZE))
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            await self.protocol.handle(event)
            if not event.data:
                break
            del event
        await self.protocol.handle(Closed())

    @property
    def _socket(self) -> trio.socket.SocketType:
        plain: trio.SocketStream = getattr(self.stream, "transport_stream", self.stream)
        return plain.socket

    def _has_arrived(self) -> bool:
        """Whether bytes wait to be read, or the end: it is closed already."""
        try:
            fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, arrived := bytearray(4))
        except (OSError, ValueError):
            return True
        return any(arrived)
