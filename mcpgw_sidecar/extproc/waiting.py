"""What grpclib takes from asyncio, on Trio: an event, a queue and a transport."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import trio

from mcpgw_sidecar.runtime.sockets import written

HIGH_WATER = 1 << 18  # bytes waiting for the socket above which streams stop producing
T = TypeVar("T")


class Flow(Protocol):
    """The part of grpclib's protocol that a transport tells of the socket."""

    def pause_writing(self) -> None:
        """Stop producing."""

    def resume_writing(self) -> None:
        """Go on."""


def _nothing() -> None:
    """Do nothing."""


class Event:
    """asyncio.Event's interface: it can be cleared, which Trio's cannot.

    `before` is called by who has to wait.
    """

    __slots__ = ("_before", "_lot", "_set")

    def __init__(self, before: Callable[[], None] = _nothing) -> None:
        self._set = False
        self._before = before
        self._lot = trio.lowlevel.ParkingLot()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._lot.unpark_all()

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> None:
        while not self._set:
            self._before()
            if not self._set:  # what waited may be sent now, and then there is room again
                await self._lot.park()


class Queue(Generic[T]):
    """asyncio.Queue's interface, unbounded: HTTP/2 flow control is the bound.

    `before` is called by who has to wait.
    """

    __slots__ = ("_before", "_items", "_lot")

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._items: deque[T] = deque()
        self._lot = trio.lowlevel.ParkingLot()

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)

    def put_nowait(self, item: T) -> None:
        self._items.append(item)
        self._lot.unpark()

    def get_nowait(self) -> T:
        return self._items.popleft()

    async def get(self) -> T:
        while not self._items:
            self._before()
            await self._lot.park()
        return self._items.popleft()


class Transport:
    """The part of asyncio.Transport that grpclib uses.

    What a task has written leaves when that task waits for the peer or ends: whoever writes calls
    `flush` then. With other `streams` at work a task of its own sends what all of them have written
    in this turn of the loop, in one system call; a single one need not wait for that turn.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._out = bytearray()
        self._wake = Event()
        self._paused = False
        self._is_full = False
        self.streams = 0
        self.closing = False
        self.protocol: Flow | None = None

    def get_extra_info(self, name: str) -> Any:  # noqa: ANN401  # asyncio's own signature
        return self._stream.socket if name == "socket" else None

    def write(self, data: bytes) -> None:
        self._out += data
        if len(self._out) > HIGH_WATER and not self._paused and self.protocol is not None:
            self._paused = True
            self.protocol.pause_writing()

    def flush(self) -> None:
        """Send what was written."""
        if not self._out or self._is_full:
            return
        if self.streams <= 1:
            self._write()
        if self._out:
            self._wake.set()

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self._wake.set()

    async def wait_written(self) -> None:
        """Write until closed (a task of its own)."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._write()
            self._is_full = bool(self._out)
            while self._out:
                out, self._out = self._out, bytearray()
                await self._stream.send_all(out)
                self._resume()
            self._is_full = False
            if self.closing:
                return

    def _write(self) -> None:
        """Write what the system takes at once."""
        del self._out[: written(self._stream, self._out)]
        self._resume()

    def _resume(self) -> None:
        """Let streams go on once there is room again."""
        if self._paused and len(self._out) < HIGH_WATER // 2 and self.protocol is not None:
            self._paused = False
            self.protocol.resume_writing()
