"""Server-sent events, sans-IO (WHATWG HTML, section 9.2): bytes in, events out; and the bytes of an event of ours."""

from __future__ import annotations

import attrs

MAX_RETRY_DIGITS = 9  # of the milliseconds that a server asks to wait before its stream is opened again
KEEP_ALIVE = b": keep-alive\n\n"


class SseError(ValueError):
    """The stream cannot be read on: a line is not UTF-8."""


class SseTooLargeError(SseError):
    """The stream cannot be read on: an event is larger than the limit."""


@attrs.frozen(slots=True)
class Event:
    """One dispatched event."""

    data: str
    name: str = "message"
    id: str | None = None
    """The last id that the stream gave, in this event or before it."""


@attrs.define
class SseParser:
    """Feed bytes, get the events that they complete. `retry` is what the stream asked to wait, in seconds. `limit` bounds one event in bytes; beyond it SseTooLargeError is raised.

    What is held of an unfinished line is a list of chunks: joining it anew with each chunk would cost the square of its size.
    """

    limit: int
    _held: list[bytes] = attrs.field(factory=list)
    _data: list[str] = attrs.field(factory=list)
    _size: int = 0
    _name: str = ""
    _id: str | None = None
    retry: float | None = None
    _after_cr: bool = False
    _started: bool = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that end within `chunk`."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk, self._after_cr = chunk[1:], False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        first, *rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._held.append(first)
        self._count(len(first))
        events: list[Event] = []
        for following in rest:
            line, self._held = b"".join(self._held), [following]
            event = self._line(line)
            if event is not None:
                events.append(event)
            self._count(len(following))
        return events

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self.limit:
            msg = f"an event is larger than {self.limit} bytes"
            raise SseTooLargeError(msg)

    def _line(self, line: bytes) -> Event | None:
        if not self._started:
            self._started, line = True, line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        try:
            field, _, value = line.decode("utf-8").partition(":")
        except UnicodeDecodeError:
            msg = "a line is not UTF-8"
            raise SseError(msg) from None
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value[:MAX_RETRY_DIGITS]) / 1000
        return None

    def _dispatch(self) -> Event | None:
        data, name, self._data, self._name, self._size = self._data, self._name, [], "", 0
        if not data:
            return None
        return Event("\n".join(data), name or "message", self._id)


_BOM = b"\xef\xbb\xbf"


def one_line(message: str) -> bytes:
    """A message without line breaks: in JSON one outside of a string is a space, and inside of one it is escaped."""
    return message.replace("\r", " ").replace("\n", " ").encode()


def event_bytes(message: bytes, ident: str = "") -> bytes:
    """One JSON-RPC message (one line) as an event; without a message, one that only gives an id to resume from."""
    named = f"id: {ident}\n".encode() if ident else b""
    return named + (b"event: message\ndata: " + message if message else b"data: ") + b"\n\n"
