"""Serves an ASGI application with hypercorn's Trio worker, and mends three of its faults.

- A client that stops reading would block its task for ever. Here every write has a deadline,
  which is short at shutdown.
- A kept-alive connection could close just when its client sends the next request. Here clients
  are warned first.
- Hypercorn's `serve` opens the sockets itself and cannot say which option was wrong. Here the
  caller opens the listener.
"""

from __future__ import annotations

import fcntl
import logging
import ssl
import termios
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.methods import LISTEN
from mcpgw_sidecar.runtime.listeners import wait_accepting
from mcpgw_sidecar.runtime.work import Work

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

WRITE_TIMEOUT = 20.0  # seconds for a client to accept one write, else its connection is closed
LAST_WRITE_TIMEOUT = 1.0  # the same once the process drains
_READ_SIZE = 65536
# Seconds after the stop in which connections are still served, each answer with `connection:
# close`.
LAST_REQUESTS = 0.5
LAST_STREAMS = 1.0  # seconds before the end of the drain in which streams end, whatever else goes on


class _BoundedTCPServer(TCPServer):
    """A connection whose writes have an end, and whose reads keep no memory.

    A write ends with the client, with its deadline, or with the process.
    """

    _is_idle = True

    async def _read_data(self) -> None:
        """Hypercorn's method without its timeout (we set none) or a reference to old data.

        The reference would cost an idle stream 2 kB.
        """
        while True:
            try:
                data = await self.stream.receive_some(_READ_SIZE)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            event = RawData(bytes(data))
            del data
            await self.protocol.handle(event)
            if not event.data:
                break
            del event
        await self.protocol.handle(Closed())

    async def _initiate_server_close(self) -> None:
        """Hypercorn's method, unless a request has arrived meanwhile: it gets the last answer."""
        if self._is_idle and not self._has_arrived():
            await super()._initiate_server_close()

    def _has_arrived(self) -> bool:
        plain = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        try:
            fcntl.ioctl(plain.socket.fileno(), termios.FIONREAD, arrived := bytearray(4))
        except OSError:  # it is closed
            return False
        return any(arrived)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._is_idle = event.idle
        if not isinstance(event, RawData):
            # An application that ends itself because its client has all it wanted must not take
            # along what hypercorn begins for the idle connection: nobody would close that one.
            with trio.CancelScope(shield=True):
                await super().protocol_send(event)
            return
        async with self.send_lock:
            limit = LAST_WRITE_TIMEOUT if self.context.terminated.is_set() else WRITE_TIMEOUT
            with trio.move_on_after(limit) as scope:
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.protocol.handle(Closed())
            if scope.cancelled_caught:
                await trio.aclose_forcefully(self.stream)
                await self.protocol.handle(Closed())


class _Config(Config):
    """Hypercorn's configuration.

    While `draining`, answers tell the client to send no more on the connection.
    """

    draining = False

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """The headers of every response."""
        close_headers = [(b"connection", b"close")] if self.draining else []
        return super().response_headers(protocol) + close_headers


def _config() -> _Config:
    config = _Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    # Seconds; Envoy keeps its connections, and closes them first (cluster idle_timeout).
    config.keep_alive_timeout = 120.0
    # Hypercorn's 1,000 would mean a reset now and then under load.
    config.keep_alive_max_requests = 1_000_000_000
    return config


async def wait_gone(receive: Receive) -> None:
    """Wait until a client is gone whose request was read to its end."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def wait_left(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel a scope when the client is gone."""
    await wait_gone(receive)
    scope.cancel()


async def wait_body(receive: Receive, limit: int) -> bytes | None:
    """The body of a request, None when it is larger than `limit` bytes.

    An application has to read each body, even one that it ignores: an unread body blocks its
    connection.
    """
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return bytes(body)
        body += event.get("body", b"")
        if len(body) > limit:
            return None
        if not event.get("more_body"):
            return bytes(body)


@attrs.frozen
class Drain:
    """How a server ends: requests in flight have as long as `seconds` says.

    Streams end last, because their clients come back as soon as they end, and the next process
    should be there by then: `streams` returns how many are open, `end_streams` ends them. They wait
    until `others_ended`, too.
    """

    seconds: Callable[[], float]
    streams: Callable[[], int] = lambda: 0
    end_streams: Callable[[], None] = lambda: None
    others_ended: Callable[[], bool] = lambda: True


async def serve(
    app: App,
    listener: trio.SocketListener,
    stop: trio.Event,
    *,
    drain: Drain,
    tls: Callable[[], ssl.SSLContext] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set, then let requests in flight end as `drain` says.

    With `tls` it serves HTTPS; each connection uses the context of its start.
    """
    config = _config()
    context = WorkerContext(None)
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]

    async def handle(plain: trio.SocketStream) -> None:
        stream = plain if tls is None else trio.SSLStream(plain, tls(), server_side=True, https_compatible=True)
        # hypercorn raises for some input of peers (odd upgrades, bytes in a path): only this
        # connection ends.
        try:
            await _BoundedTCPServer(wrapped, config, context, ConnectionState({}), stream).run()  # type: ignore[arg-type]
        except* Exception as group:
            log.debug("HTTP connection failed", exc_info=group)
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as connections:
        task_status.started()
        await wait_accepting(listener, handle, connections, stop)
        seconds = drain.seconds()
        connections.cancel_scope.deadline = trio.current_time() + seconds
        config.draining = True
        with trio.move_on_after(min(LAST_REQUESTS, seconds / 2)):
            while connections.child_tasks:  # noqa: ASYNC110  # a nursery has no event for its last task
                await trio.sleep(0.02)
        await context.terminated.set()
        with trio.move_on_at(connections.cancel_scope.deadline - min(LAST_STREAMS, seconds / 2)):
            while len(connections.child_tasks) > drain.streams() or not drain.others_ended():  # noqa: ASYNC110  # as above
                await trio.sleep(0.02)
        drain.end_streams()


_LISTENS = (h.MCP_METHOD.encode(), LISTEN.encode())
"""The header of a request whose answer lasts until the process drains."""


def counted(app: App, work: Work) -> App:
    """The application, whose requests `work` knows; but not those whose answers are streams."""

    async def wait_counted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "GET" or _LISTENS in scope.get("headers", ()):
            await app(scope, receive, send)
            return
        with work.doing():
            await app(scope, receive, send)

    return wait_counted
