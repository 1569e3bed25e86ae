"""Serves an ASGI application with hypercorn's Trio worker, and mends some of its faults.

- A client that stops reading would block its task for ever. Here every write has a deadline,
  which is short at shutdown.
- A kept-alive connection could close just when its client sends the next request. Here clients
  are warned first.
- Hypercorn's `serve` opens the sockets itself and cannot say which option was wrong. Here the
  caller opens the listener.
- A request cost too much (httpconnection.py).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.methods import LISTEN
from mcpgw_sidecar.runtime.httpconnection import HttpConnection, Sender
from mcpgw_sidecar.runtime.listeners import wait_accepting
from mcpgw_sidecar.runtime.work import Work

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

KEEP_ALIVE = 120.0  # seconds; Envoy keeps its connections, and closes them first (cluster idle_timeout)
_LOOK = 5.0  # seconds between two looks for connections that were idle for longer
# Seconds after the stop in which connections are still served, each answer with `connection:
# close`.
LAST_REQUESTS = 0.5
LAST_STREAMS = 1.0  # seconds before the end of the drain in which streams end, whatever else goes on


class _Config(Config):
    """Hypercorn's configuration.

    Once `stop` is set, answers tell the client to send no more on the connection.
    """

    def __init__(self, stop: trio.Event) -> None:
        super().__init__()
        self._stop = stop

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """The headers of every response."""
        close_headers = [(b"connection", b"close")] if self._stop.is_set() else []
        return super().response_headers(protocol) + close_headers


def _config(stop: trio.Event) -> _Config:
    config = _Config(stop)
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    # Hypercorn's 1,000 would mean a reset now and then under load.
    config.keep_alive_max_requests = 1_000_000_000
    return config


def sent_at_once(send: Send, body: bytes) -> bool:
    """Whether a piece of the body of an answer was sent without waiting; else `send` can."""
    return isinstance(send, Sender) and send.at_once(body)


async def wait_gone(receive: Receive) -> None:
    """Wait until a client is gone whose request was read to its end."""
    while (await receive())["type"] != "http.disconnect":
        pass


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
    config = _config(stop)
    context = WorkerContext(None)
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]

    async def handle(plain: trio.SocketStream) -> None:
        stream = plain if tls is None else trio.SSLStream(plain, tls(), server_side=True, https_compatible=True)
        # hypercorn raises for some input of peers (odd upgrades, bytes in a path): only this
        # connection ends.
        connection = HttpConnection(wrapped, config, context, stream)
        served.add(connection)
        try:
            await connection.run()
        except* Exception as group:
            log.debug("HTTP connection failed", exc_info=group)
            await trio.aclose_forcefully(stream)
        finally:
            served.discard(connection)

    served: set[HttpConnection] = set()
    async with trio.open_nursery() as connections:
        task_status.started()
        async with trio.open_nursery() as looking:
            looking.start_soon(_wait_looking, served, connections)
            await wait_accepting(listener, handle, connections, stop)
            looking.cancel_scope.cancel()
        seconds = drain.seconds()
        connections.cancel_scope.deadline = trio.current_time() + seconds
        with trio.move_on_after(min(LAST_REQUESTS, seconds / 2)):
            while connections.child_tasks:  # noqa: ASYNC110  # a nursery has no event for its last task
                await trio.sleep(0.02)
        await context.terminated.set()
        for connection in served:
            connections.start_soon(connection.wait_idle_closed)
        with trio.move_on_at(connections.cancel_scope.deadline - min(LAST_STREAMS, seconds / 2)):
            while len(connections.child_tasks) > drain.streams() or not drain.others_ended():  # noqa: ASYNC110  # as above
                await trio.sleep(0.02)
        drain.end_streams()


async def _wait_looking(served: set[HttpConnection], connections: trio.Nursery) -> None:
    """Close connections that were idle for too long, for ever."""
    while True:
        await trio.sleep(_LOOK)
        longest = trio.current_time() - KEEP_ALIVE
        for connection in served:
            if connection.idle_since is not None and connection.idle_since < longest:
                connections.start_soon(connection.wait_idle_closed)


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
