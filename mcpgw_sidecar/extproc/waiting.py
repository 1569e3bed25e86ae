"""What grpclib takes from asyncio, on Trio: an event, a queue and a transport."""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, Protocol, TypeVar

import trio

HIGH_WATER = 1 << 18  # bytes waiting for the socket above which streams stop producing
T = TypeVar("T")


class Flow(Protocol):
    """The part of grpclib's protocol that a transport tells of the socket."""

    def pause_writing(self) -> None:
        """Stop producing."""

    def resume_writing(self) -> None:
        """Go on."""


class Event:
    """asyncio.Event's interface: it can be cleared, which Trio's cannot."""

    __slots__ = ("_lot", "_set")

    def __init__(self) -> None:
        self._set = False
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
            await self._lot.park()


class Queue(Generic[T]):
    """asyncio.Queue's interface, unbounded: HTTP/2 flow control is the bound."""

    __slots__ = ("_items", "_lot")

    def __init__(self) -> None:
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
            await self._lot.park()
        return self._items.popleft()


class Transport:
    """The part of asyncio.Transport that grpclib uses. Writes of one tick are one system call."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._out = bytearray()
        self._wake = Event()
        self._paused = False
        self.closing = False
        self.protocol: Flow | None = None

    def get_extra_info(self, name: str) -> Any:  # noqa: ANN401  # asyncio's own signature
        return self._stream.socket if name == "socket" else None

    def write(self, data: bytes) -> None:
        self._out += data
        self._wake.set()
        if len(self._out) > HIGH_WATER and not self._paused and self.protocol is not None:
            self._paused = True
            self.protocol.pause_writing()

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
            while self._out:
                out, self._out = self._out, bytearray()
                await self._stream.send_all(out)
                if self._paused and len(self._out) < HIGH_WATER // 2 and self.protocol is not None:
                    self._paused = False
                    self.protocol.resume_writing()
            if self.closing:
                return
