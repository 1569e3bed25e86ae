"""grpclib's HTTP/2 and gRPC classes driven by Trio, without an asyncio loop.

grpclib separates protocol and loop well enough that only its waiting has to be exchanged: events
and queues by Trio's, the transport by a writer task that coalesces (waiting.py). Everything else
(framing, flow control, codec, status trailers) is grpclib's own.

What is different on purpose:

- an event that grpclib does not know (extension frames) is ignored, RFC 9113 section 5.5; grpclib
  ends the process
- each connection is its own failure domain: whatever a peer sends, only its connection ends
- drain: GOAWAY, then streams in flight end, then connections close
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import h2.config
import h2.exceptions
import trio
from grpclib import const, protocol, server
from grpclib.config import Configuration
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchServerEvents
from h2.connection import H2Connection
from h2.events import PingAckReceived
from h2.settings import SettingCodes
from hyperframe.frame import Frame

from mcpgw_sidecar.extproc.waiting import Event, Queue, Transport
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.listeners import wait_accepting
from mcpgw_sidecar.runtime.sockets import wait_read
from mcpgw_sidecar.runtime.work import Work

log = get_logger(__name__)

READ_SIZE = 65536
GOAWAY_READ = 1.0  # seconds that a peer may take to read that it has to go elsewhere
_MAX_STREAM_ID = (1 << 31) - 1
_DRAINING = b"draining"  # eight bytes of our own, which the peer sends back


# h2 writes each frame into a log that nobody reads: the text is a twentieth of what a call costs.
Frame.__repr__ = object.__repr__  # type: ignore[method-assign]


class _Http2(H2Connection):
    """Keeps fewer closed streams: h2 keeps 65,536, which is 7 MB in each connection.

    A frame that crosses the close of its stream belongs to one of the last.
    """

    MAX_CLOSED_STREAMS = 1024


class _Buffer(protocol.Buffer):
    def __init__(self, ack_callback: Callable[[int], None], flush: Callable[[], None]) -> None:
        super().__init__(ack_callback)
        self._unacked = Queue(flush)  # type: ignore[assignment]


class _Stream(protocol.Stream):
    _transport: Transport  # type: ignore[assignment]
    scope: trio.CancelScope | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # grpclib's own signature
        super().__init__(*args, **kwargs)
        self.window_updated = Event(self._transport.flush)  # type: ignore[assignment]

    def init_stream(self, stream_id: int, connection: protocol.Connection) -> None:
        super().init_stream(stream_id, connection)
        self.buffer = _Buffer(partial(connection.ack, stream_id), self._transport.flush)

    def __terminated__(self, reason: str) -> None:
        if self.scope is not None:
            self.scope.cancel()


class _Connection(protocol.Connection):
    def __init__(self, connection: H2Connection, transport: Any, *, config: Configuration) -> None:  # noqa: ANN401
        super().__init__(connection, transport, config=config)
        self.write_ready = Event(transport.flush)  # type: ignore[assignment]
        self.write_ready.set()
        self.stream_close_waiter = Event()  # type: ignore[assignment]
        self.goaway_read = False

    def create_stream(self, *, stream_id: int | None = None, wrapper: Any = None) -> protocol.Stream:  # noqa: ANN401
        return _Stream(self, self._connection, self._transport, stream_id=stream_id, wrapper=wrapper)


class _EventsProcessor(protocol.EventsProcessor):
    connection: _Connection
    changed: Event

    def process(self, event: Any) -> None:  # noqa: ANN401  # any of h2's events
        if isinstance(event, PingAckReceived) and event.ping_data == _DRAINING:
            self.connection.goaway_read = True
            self.changed.set()
        handler = getattr(self, "processors", {}).get(event.__class__)
        if handler is not None:
            handler(event)


class _Protocol(protocol.H2Protocol):
    connection: _Connection
    processor: _EventsProcessor

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401  # our Transport, which is no asyncio one
        sock = transport.get_extra_info("socket")
        if sock.family != trio.socket.AF_UNIX:
            sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        connection = _Http2(config=self.h2_config)
        connection.initiate_connection()
        initial = connection.local_settings.initial_window_size
        connection.increment_flow_control_window(self.config.http2_connection_window_size - initial)
        connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self.config.http2_stream_window_size})
        self.connection = _Connection(connection, transport, config=self.config)
        self.connection.flush()
        self.processor = _EventsProcessor(self.handler, self.connection)

    def send_goaway(self) -> None:
        """Tell the peer to open no more streams here; those that are open, or on their way, go on.

        The highest stream id there is refuses none (RFC 9113 section 6.8), and the answer to the
        ping says that the peer has read it. Written by hand: h2's own close_connection() forbids
        every further send.
        """
        payload = _MAX_STREAM_ID.to_bytes(4, "big") + bytes(4)
        self.connection._transport.write(len(payload).to_bytes(3, "big") + b"\x07\x00" + bytes(4) + payload)  # noqa: SLF001
        self.connection._connection.ping(_DRAINING)  # noqa: SLF001  # h2's public method
        self.connection.flush()
        self.connection._transport.flush()  # type: ignore[attr-defined]  # noqa: SLF001


class _Acceptor(protocol.AbstractHandler):
    def __init__(self, grpc: GrpcServer, nursery: trio.Nursery) -> None:
        self._grpc = grpc
        self._nursery = nursery

    def accept(self, stream: Any, headers: Any, release_stream: Callable[[], None]) -> None:  # noqa: ANN401
        self._grpc.streams += 1
        stream._transport.streams += 1  # noqa: SLF001  # our Transport
        self._nursery.start_soon(self._grpc._wait_handled, stream, headers, release_stream)  # noqa: SLF001

    def cancel(self, stream: protocol.Stream) -> None:
        """The stream's own scope was cancelled in `_Stream.__terminated__`."""

    def close(self) -> None:
        """The connection's nursery ends with it."""


class GrpcServer:
    """Serves gRPC methods on Trio. `methods` is grpclib's mapping of path to Handler."""

    def __init__(self, methods: dict[str, const.Handler]) -> None:
        self._methods = methods
        self._codec = ProtoCodec()
        self._dispatch = _DispatchServerEvents()
        self._config = Configuration().__for_server__()
        # The peer is our own Envoy: h2's header checks would cost a third of a stream, and grpclib
        # leaves them out as well.
        self._h2_config = h2.config.H2Configuration(
            client_side=False,
            header_encoding="latin-1",  # any byte can be read: a strange header ends no connection
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._connections: set[_Protocol] = set()
        self.streams = 0
        self._changed = Event()
        self._draining = False
        self._work = Work()
        self.is_drained = False

    async def serve(
        self,
        listener: trio.SocketListener,
        stop: trio.Event,
        *,
        work: Work,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `stop` is set; then streams in flight have the time that `work` has left."""
        self._work = work
        async with trio.open_nursery() as connections:
            task_status.started()
            await wait_accepting(listener, self._wait_connection, connections, stop)
            self._draining = True
            for peer in self._connections:
                peer.send_goaway()
            await trio.lowlevel.checkpoint()  # what was accepted last begins, and is told
            with trio.move_on_after(work.seconds_left()):
                with trio.move_on_after(GOAWAY_READ):
                    await self._wait_until(lambda: all(peer.connection.goaway_read for peer in self._connections))
                await self._wait_until(lambda: not self.streams)
                await trio.sleep(0.02)  # what the last stream wrote leaves the process
            self.is_drained = True
            connections.cancel_scope.cancel()

    async def _wait_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._changed.clear()
            await self._changed.wait()

    async def _wait_handled(self, stream: _Stream, headers: Any, release: Callable[[], None]) -> None:  # noqa: ANN401
        try:
            with self._work.doing():
                await self._wait_method(stream, dict(headers))
        except h2.exceptions.H2Error:
            log.debug("ext_proc stream ended early")
        finally:
            release()
            transport = stream._transport  # noqa: SLF001
            transport.flush()  # its answer
            transport.streams -= 1
            self.streams -= 1
            self._changed.set()

    async def _wait_method(self, stream: _Stream, headers: dict[str, str]) -> None:
        # grpclib's own request_handler is bound to asyncio tasks; it does this for a plain call.
        path = headers.get(":path", "")
        method = self._methods.get(path)
        if method is None:
            await server._abort(stream, 200, const.Status.UNIMPLEMENTED, "Method not found")  # noqa: SLF001
            return
        async with server.Stream(
            stream,
            path,
            method.cardinality,
            method.request_type,
            method.reply_type,
            codec=self._codec,
            status_details_codec=None,
            dispatch=self._dispatch,
        ) as messages:
            with trio.CancelScope() as stream.scope:
                try:
                    await method.func(messages)
                except Exception:  # grpclib turns it into a status for the peer and says nothing
                    log.exception("ext_proc failed on a request; only this request ends")
                    raise
            if stream.scope.cancelled_caught:
                messages._cancel_done = True  # noqa: SLF001  # the peer has reset the stream: send nothing more

    async def _wait_connection(self, stream: trio.SocketStream) -> None:
        try:
            await self._wait_frames(stream)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("ext_proc connection lost")
        except* Exception:
            log.exception("ext_proc connection failed; only this connection ends")

    async def _wait_frames(self, stream: trio.SocketStream) -> None:
        async with stream, trio.open_nursery() as nursery:
            transport = Transport(stream)
            peer = _Protocol(_Acceptor(self, nursery), self._config, self._h2_config)
            transport.protocol = peer
            peer.connection_made(transport)
            peer.processor.changed = self._changed
            self._connections.add(peer)
            if self._draining:
                peer.send_goaway()
            nursery.start_soon(transport.wait_written)
            try:
                transport.flush()
                while data := await wait_read(stream, READ_SIZE):
                    peer.data_received(data)
                    transport.flush()
                    if transport.closing:
                        break
            finally:
                self._connections.discard(peer)
                self._changed.set()
                peer.processor.close("Connection lost")
                nursery.cancel_scope.cancel()


Process = Callable[[Any], Awaitable[None]]


def bidirectional(path: str, process: Process, request: type, response: type) -> dict[str, const.Handler]:
    """The mapping of one method that streams both ways."""
    return {path: const.Handler(process, const.Cardinality.STREAM_STREAM, request, response)}
