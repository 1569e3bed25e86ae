"""The messages in an answer over HTTP, JSON or an event stream."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Protocol

import attrs

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.protocol.jsonrpc import SPACES, Malformed, Message, is_batch, parse_message
from mcpgw_sidecar.protocol.jsontext import JsonTextError, parse_array
from mcpgw_sidecar.protocol.sse import SseError, SseParser, SseTooLargeError

BOM = b"\xef\xbb\xbf"
MAX_ANSWER = 16 << 20  # bytes of one answer, decompressed: a list of 10,000 large tools


class HttpAnswer(Protocol):
    """What is read of an answer over HTTP: of a server's, or of Envoy's (front/batches.py)."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names in lower case find them."""

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body, decompressed."""


@attrs.define
class Position:
    """The position in a stream: the id of its last event.

    `retry` is the pause before a reconnect that the server asked for, in seconds.
    """

    last_id: str | None = None
    retry: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request to resume the stream here (basic/transports, Resumability)."""
        is_usable = self.last_id is not None and is_header_value(self.last_id)
        return {h.LAST_EVENT: self.last_id} if is_usable and self.last_id is not None else {}


def media_type(answer: HttpAnswer) -> str:
    """The content type of an answer, without parameters."""
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


async def messages_of(answer: HttpAnswer, take: Callable[[int], None]) -> AsyncGenerator[Message, None]:
    """The messages of an answer, JSON or events; none in an empty one. Raises UpstreamError.

    `take` is told how many bytes are held until they are messages, and may raise UpstreamError.
    """
    parser, body, held = SseParser(MAX_ANSWER), bytearray(), 0
    is_stream = media_type(answer) == h.EVENT_STREAM
    try:
        async for chunk in answer.aiter_bytes():
            take(len(chunk))
            held += len(chunk)
            if not is_stream:
                body += chunk
                continue
            for message in _messages_in(parser, chunk):
                yield message
                take(-held)
                held = 0
        for text in _texts(bytes(body).removeprefix(BOM).decode("utf-8", "replace")) if body else ():
            yield _parsed(text, "is no JSON-RPC")
    finally:
        take(-held)


def _messages_in(parser: SseParser, chunk: bytes, position: Position | None = None) -> Iterator[Message]:
    """The messages of the events that a chunk completes. Raises UpstreamError."""
    try:
        events = parser.feed(chunk)
    except SseTooLargeError:
        raise UpstreamError("TooLarge", f"sent an event of more than {MAX_ANSWER >> 20} MiB") from None
    except SseError as error:
        raise UpstreamError("BadAnswer", f"sent an event stream that cannot be read: {error}") from None
    for event in events:
        if position is not None:
            position.last_id, position.retry = event.id or position.last_id, parser.retry
        if not event.data or event.name != "message":
            continue  # a priming event only carries an id; an event of another name is no message
        for text in _texts(event.data):
            yield _parsed(text, "sent an event that is no message")


def _parsed(text: str, fault: str) -> Message:
    message = parse_message(text)
    if isinstance(message, Malformed):
        raise UpstreamError("BadAnswer", f"{fault}: {message.message}")
    return message


async def events_of(
    answer: HttpAnswer, position: Position | None = None, *, largest: int = MAX_ANSWER
) -> AsyncGenerator[Message, None]:
    """The messages of an event stream, of `largest` bytes at most. Raises UpstreamError.

    `position` is updated after each event.
    """
    parser = SseParser(largest)
    async for chunk in answer.aiter_bytes():
        for message in _messages_in(parser, chunk, position):
            yield message


def _texts(data: str) -> list[str]:
    """The messages of an event: one, or an array of them as servers of 2025-03-26 may send."""
    if is_batch(data[:SPACES].encode()):
        with contextlib.suppress(JsonTextError):
            return parse_array(data)
    return [data]
