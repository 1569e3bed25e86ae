"""HTTP/1.1 to MCP servers, on h11 and Trio.

A connection carries one request at a time, and is kept for the next (RFC 9112, section 9.3). There
are no redirects, cookies and proxies. It is our own because the first call of every session waits
for it: a request costs less than half of what it does with a general client.
"""

from __future__ import annotations

import contextlib
import math
import select
import ssl
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

import attrs
import h11
import trio

from mcpgw_sidecar.errors import UpstreamError, first_in, words_of
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.runtime.sockets import wait_read, written

_CHUNK = 64 << 10  # bytes that are read at a time
_MAX_HEAD = 100 << 10  # bytes of the status line and the headers of an answer
_MAX_PIECE = 64 << 10  # bytes that are decompressed at a time
_MAX_EARLY = 10  # informational answers before the answer
_ANY = 47  # zlib's word for: gzip or zlib, whichever its header says
ACCEPT_ENCODING: Final = "identity"
"""Servers may compress all the same, and some do: but not event streams."""


@attrs.frozen
class Place:
    """Where a server is: what to connect to, and with TLS whose certificate it has to show."""

    host: str
    port: int
    name: str | None = None


def never() -> bool:
    """No server is excused."""
    return False


@attrs.define(eq=False)
class Link:
    """A connection to a server. `kept` is when it was last used, in Trio's seconds.

    `excused` says whether the server may be silent at the moment, whatever the limit is.
    """

    stream: trio.abc.Stream
    socket: trio.SocketStream
    http: h11.Connection
    kept: float = 0.0
    excused: Callable[[], bool] = never

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come since the last answer; what comes then is the end."""
        poll = select.poll()
        poll.register(self.socket.socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def begin_again(self) -> bool:
        """Whether another request may follow: both sides are done with the last one.

        What a server has sent beyond its answer would be taken for the answer to the next request.
        """
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        if any(self.http.trailing_data) or self._has_unread_records:
            return False
        self.http.start_next_cycle()
        return True

    @property
    def _has_unread_records(self) -> bool:
        """Whether something of TLS has come that nobody has read; Trio does not say it itself."""
        if not isinstance(self.stream, trio.SSLStream):
            return False
        return bool(self.stream._incoming.pending or self.stream._ssl_object.pending())  # noqa: SLF001

    async def wait_sent(
        self, method: str, target: str, fields: list[tuple[bytes, bytes]], body: bytes | None, seconds: float
    ) -> None:
        """Send a request. Raises UpstreamError, also for headers that cannot be sent."""
        try:
            text = self.http.send(h11.Request(method=method, target=target, headers=fields)) or b""
            text += (self.http.send(h11.Data(data=body)) or b"") if body else b""
            text += self.http.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError:  # the text of the error repeats the header, which may be a credential
            raise UpstreamError("BadRequest", "was not asked: a header of the request cannot be sent") from None
        done = written(self.stream, text)
        if done == len(text):
            return
        try:  # it may answer, and close, before it has read everything
            with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(seconds):
                await self.stream.send_all(memoryview(text)[done:])
        except trio.TooSlowError:
            raise UpstreamError("Timeout", f"did not read the request within {seconds:g} s") from None

    async def wait_event(self, silence: float | None) -> h11.Event | type[h11.PAUSED]:
        """The next event of the answer. Raises UpstreamError."""
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                with trio.move_on_after(math.inf if silence is None else silence) as limit:
                    chunk = await wait_read(self.stream, _CHUNK)
                if limit.cancelled_caught:
                    if self.excused():
                        continue
                    raise UpstreamError("Timeout", f"was silent for {silence:g} s")
                if not chunk and self.http.their_state is h11.SEND_RESPONSE:
                    raise UpstreamError("BrokenOff", "closed the connection before it had answered")
                self.http.receive_data(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, ssl.SSLError) as error:
            raise UpstreamError("BrokenOff", f"broke off or answered no HTTP: {words_of(error)}") from None
        return event  # type: ignore[return-value]  # h11's sentinels are classes


@attrs.define(eq=False)
class Answer:
    """An open answer; the names of its headers are in lower case."""

    link: Link
    silence: float | None
    status_code: int
    headers: Mapping[str, str]

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status_code < 300  # noqa: PLR2004  # RFC 9110, section 15

    @property
    def is_redirect(self) -> bool:
        """Whether the status is 3xx."""
        return 300 <= self.status_code < 400  # noqa: PLR2004  # RFC 9110, section 15

    @property
    def is_whole(self) -> bool:
        """Whether all of it has been read."""
        return self.link.http.their_state is not h11.SEND_BODY

    async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """The body, or what of it was not read yet, decompressed. Raises UpstreamError."""
        if self.is_whole:
            return  # h11 would wait for the next answer
        decoder = _decoder(self.headers)
        while isinstance(event := await self.link.wait_event(self.silence), h11.Data):
            if decoder is None:
                yield bytes(event.data)
                continue
            piece = bytes(event.data)
            while piece:
                try:
                    text, piece = decoder.decompress(piece, _MAX_PIECE), decoder.unconsumed_tail
                except zlib.error:
                    raise UpstreamError("BadAnswer", "answered with a body that cannot be decompressed") from None
                if decoder.unused_data:
                    raise UpstreamError("BadAnswer", "answered with more than its compressed body")
                yield text
                await trio.lowlevel.checkpoint()  # a small piece may become very many: others have their turn
        if isinstance(event, h11.ConnectionClosed) or (decoder is not None and not decoder.eof):
            raise UpstreamError("BrokenOff", "broke off before the end of its answer")


async def wait_connected(place: Place, tls: ssl.SSLContext | None, seconds: float) -> Link:
    """Connect to a server. Raises UpstreamError."""
    try:
        with trio.fail_after(seconds):
            socket = await trio.open_tcp_stream(place.host, place.port)
            stream: trio.abc.Stream = socket
            try:
                if tls is not None:
                    stream = trio.SSLStream(
                        socket, tls, server_hostname=(place.name or place.host).rstrip("."), https_compatible=True
                    )
                    await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(socket)
                raise
    except trio.TooSlowError:
        raise UpstreamError("Unreachable", f"cannot be reached: no connection within {seconds:.0f} s") from None
    except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
        raise UpstreamError("Unreachable", f"cannot be reached: {words_of(first_in(error.__cause__ or error))}") from None
    except UnicodeError:
        raise UpstreamError("BadUrl", "has a url whose host is no host name") from None
    return Link(stream, socket, h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD))


async def wait_answered(link: Link, silence: float | None) -> Answer:
    """The head of the answer to a request that was sent. Raises UpstreamError."""
    for _ in range(_MAX_EARLY + 1):
        event = await link.wait_event(silence)
        if not isinstance(event, h11.InformationalResponse):
            break
    if not isinstance(event, h11.Response):
        raise UpstreamError("BrokenOff", "broke off or answered no HTTP: it closed the connection without an answer")
    headers: dict[str, str] = {}
    for key, value in event.headers:
        name, text = key.decode("latin-1"), value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return Answer(link, silence, event.status_code, headers)


def _decoder(headers: Mapping[str, str]) -> zlib._Decompress | None:
    """What decompresses a body; None if nothing has to. Raises UpstreamError."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return None
    if encoding in {"gzip", "x-gzip", "deflate"} and not headers.get("content-type", "").lower().startswith(h.EVENT_STREAM):
        return zlib.decompressobj(wbits=_ANY)
    raise UpstreamError("BadAnswer", f"answered in the encoding {encoding[:40]!r}, which nobody asked for")
