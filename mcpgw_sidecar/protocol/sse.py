"""Reads and writes server-sent events, sans-IO (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import attrs

MAX_RETRY_DIGITS = 9  # of the milliseconds that a server asks to wait before a reconnect
KEEP_ALIVE = b": keep-alive\n\n"


class SseError(ValueError):
    """The rest of the stream cannot be read, because a line is not UTF-8."""


class SseTooLargeError(SseError):
    """The rest of the stream cannot be read, because an event is larger than the limit."""


@attrs.frozen(slots=True)
class Event:
    """One dispatched event."""

    data: str
    name: str = "message"
    id: str | None = None
    """The last id of the stream, from this event or an earlier one."""


@attrs.define
class SseParser:
    """Feed bytes, and get the events that they complete.

    `limit` is the largest size of an event in bytes; a larger one raises SseTooLargeError. `retry`
    is the time that the stream asked to wait before a reconnect, in seconds. An unfinished line is
    kept as a list of chunks: joining it with each new chunk would cost the square of its size.
    """

    limit: int
    _chunks: list[bytes] = attrs.field(factory=list)
    _data: list[str] = attrs.field(factory=list)
    _size: int = 0
    _name: str = ""
    _id: str | None = None
    retry: float | None = None
    _after_cr: bool = False
    _bom_checked: bool = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that end within `chunk`."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk, self._after_cr = chunk[1:], False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        first_part, *parts = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._chunks.append(first_part)
        self._count(len(first_part))
        events: list[Event] = []
        for part in parts:
            line, self._chunks = b"".join(self._chunks), [part]
            event = self._line(line)
            if event is not None:
                events.append(event)
            self._count(len(part))
        return events

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self.limit:
            msg = f"an event is larger than {self.limit} bytes"
            raise SseTooLargeError(msg)

    def _line(self, line: bytes) -> Event | None:
        if not self._bom_checked:
            self._bom_checked, line = True, line.removeprefix(_BOM)
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
    """A JSON message without line breaks.

    JSON has them only between tokens, where a space does as well. Some clients end lines also at
    characters that JSON may have in strings; these are escaped.
    """
    text = message.replace("\r", " ").replace("\n", " ")
    if not text.isascii():
        for char in "\x85\u2028\u2029":
            text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


def event_bytes(message: bytes, ident: str = "", *, retry: int | None = None) -> bytes:
    """The bytes of an event with a JSON-RPC message (one line).

    An empty message makes an event that only sets the id. `retry` asks the client to wait that long
    before it connects again, in milliseconds.
    """
    id_line = f"id: {ident}\n".encode() if ident else b""
    id_line += f"retry: {retry}\n".encode() if retry is not None else b""
    return id_line + (b"event: message\ndata: " + message if message else b"data: ") + b"\n\n"
