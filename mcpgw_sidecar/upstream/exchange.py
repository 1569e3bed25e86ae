"""HTTP with MCP servers of any era: one request and its answer, raw JSON, limited in size and time.

There is no model of an SDK in between: the text of a server is passed on as it is. Any fault of a
server becomes an UpstreamError with a reason; this module raises no other error.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Final

import attrs
import trio

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import (
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    parse_message,
    request_text,
)
from mcpgw_sidecar.protocol.jsontext import Member, parse_object
from mcpgw_sidecar.upstream.http1 import ACCEPT_ENCODING, Answer, never, wait_answered
from mcpgw_sidecar.upstream.messages import BOM, MAX_ANSWER, events_of, media_type
from mcpgw_sidecar.upstream.pool import HttpClients
from mcpgw_sidecar.upstream.words import with_credential

DRAIN = 0.1  # seconds in which the rest of an answer is read
MAX_DRAINED = 65536  # bytes of it
_FIELDS = {
    "accept": f"{h.JSON}, {h.EVENT_STREAM}",
    "accept-encoding": ACCEPT_ENCODING,
    "user-agent": f"{PROGRAM}/{__version__}",
}
_NOT_AUTHENTICATED = 401
_UNAUTHORIZED = frozenset({401, 403})
_OF_GATEWAY = {
    403: (
        "Unreachable",
        "was not asked: the gateway refuses requests of the sidecar (HTTP 403): give --through-gateway to `mcpgw-sidecar manifests`, too",
    ),
    503: ("Unreachable", "cannot be reached by the gateway (HTTP 503)"),
    504: ("Timeout", "did not answer the gateway in time (HTTP 504)"),
}
"""What Envoy says by itself where it stands in between (Istio): reason and words."""
_OF_ERRORS = frozenset({400, 404})
OWN: Final = -1.0
"""A limit of silence: that of the gateway's own requests to the server."""
WaitHeard = Callable[[Request | Notification], Awaitable[None]]
"""Gets a message of a server before its answer."""


@attrs.frozen
class Exchanger:
    """Sends HTTP requests. `observe` gets the server name and the seconds of each.

    `timeout` is in seconds, for servers that have none of their own. `refused` gets a server that
    does not take the token that it was given for a caller, and the token.
    """

    http: HttpClients
    observe: Callable[[str, float], None]
    timeout: float = timeouts.REQUEST
    refused: Callable[[Server, str], None] = lambda _server, _token: None

    def _limit(self, server: Server) -> float:
        """The longest time of one of the gateway's own requests to a server, in seconds."""
        return self.timeout if server.discovery_timeout is None else server.discovery_timeout

    @contextlib.contextmanager
    def limited(self, server: Server, method: str) -> Iterator[None]:
        """Limit the time of the block, and observe it. Raises UpstreamError."""
        start, limit = trio.current_time(), self._limit(server)
        try:
            with trio.fail_after(limit):
                yield
        except trio.TooSlowError:
            message = f"did not answer {method} within {limit:g} s"
            raise UpstreamError("Timeout", message) from None
        finally:
            self.observe(server.name, trio.current_time() - start)

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        server: Server,
        method: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        silence: float | None = OWN,
        excused: Callable[[], bool] = never,
    ) -> AsyncIterator[Answer]:
        """Send one request; gives the open answer.

        `silence` is the longest pause of the server, None for no limit, unless it is `excused` at
        the moment. Raises UpstreamError.
        """
        silence = self._limit(server) if silence == OWN else silence
        fields = {**_FIELDS, **with_credential(server, headers), **self.http.place_of(server)}
        if body is not None:
            fields |= {"content-type": h.JSON, "content-length": str(len(body))}
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
        async with self.http.linked(server) as link:
            link.excused = excused
            await link.wait_sent(method, server.path, encoded, body, self._limit(server))
            answer = await wait_answered(link, silence)
            if self.http.through is not None and media_type(answer) == "text/plain" and answer.status_code in _OF_GATEWAY:
                raise UpstreamError(*_OF_GATEWAY[answer.status_code])
            if answer.status_code == _NOT_AUTHENTICATED and server.token_exchange is not None:
                self.refused(server, fields.get("authorization", ""))
            yield answer
            await _wait_drained(answer)

    async def wait_result(
        self, server: Server, method: str, params: str, headers: Mapping[str, str], wait_heard: WaitHeard
    ) -> tuple[str, list[Member]]:
        """Send one of the gateway's own requests.

        Returns the text of the answer, and the members of its result. `wait_heard` gets the
        server's messages before it. Raises UpstreamError.
        """
        ident = own_id()
        body = request_text(ident, method, params)
        with self.limited(server, method):
            async with self.exchange(server, "POST", body, headers) as answer:
                await wait_checked(answer)
                message = await wait_response(answer, wait_heard, ident)
        return message.text, result_members(message)


def own_id() -> str:
    """The id of a request of the broker's.

    In a client's session it must differ from all ids of the client's.
    """
    return f"mcpgw-{secrets.token_hex(8)}"


async def wait_unheard(_message: Request | Notification) -> None:
    """Drop a message, because before initialize there is no session for an answer."""


async def wait_checked(answer: Answer) -> None:
    """Raise UpstreamError for a status that is no success, with the server's own error message."""
    status = answer.status_code
    if answer.is_success:
        return
    if answer.is_redirect:
        target = answer.headers.get("location", "")[:200]
        raise UpstreamError("Redirect", f"redirects to {target!r}: put that in url", status=status)
    error = await _wait_error(answer)
    words = _error_words(error) if error is not None else ""
    data = error.get("data") if isinstance(error, dict) else None
    suffix = f" ({words})" if words else ""
    if status in _UNAUTHORIZED:
        message = f"refused the credentials (HTTP {status}){suffix}"
        raise UpstreamError("Unauthorized", message, status=status, words=words, data=data)
    raise UpstreamError("HttpError", f"answered HTTP {status}{suffix}", status=status, words=words, data=data)


async def wait_own_response(answer: Answer, wait_heard: WaitHeard, ident: object, largest: int) -> Response:
    """The response to the request of an id, decoded. Raises UpstreamError.

    An error of JSON-RPC is one whatever the status: servers of the stateless era send it with 4xx.
    """
    if answer.status_code in _OF_ERRORS and media_type(answer) == h.JSON:
        message = parse_message((await _wait_body(answer, largest)).removeprefix(BOM))
        if isinstance(message, Response) and message.error is not None and message.id_value == ident:
            return message
        raise UpstreamError("HttpError", f"answered HTTP {answer.status_code}", status=answer.status_code)
    await wait_checked(answer)
    return await wait_response(answer, wait_heard, ident, largest)


async def wait_response(answer: Answer, wait_heard: WaitHeard, ident: object, largest: int = MAX_ANSWER) -> Response:
    """The response to the request of an id, decoded, in an answer. Raises UpstreamError.

    `wait_heard` gets the server's messages before it. One to another request is dropped: a server
    answers nothing else there. `largest` is in bytes, of each message.
    """
    match media_type(answer):
        case h.JSON:
            message = parse_message((await _wait_body(answer, largest)).removeprefix(BOM))
            if isinstance(message, Response) and message.id_value == ident:
                return message
            raise UpstreamError("BadAnswer", f"answered no JSON-RPC response to this request: {_fault(message)}")
        case h.EVENT_STREAM:
            async with contextlib.aclosing(events_of(answer, largest=largest)) as messages:
                async for message in messages:
                    if not isinstance(message, Response):
                        await wait_heard(message)
                    elif message.id_value == ident:
                        await _wait_end(messages)
                        return message
            raise UpstreamError("BrokenOff", "ended its event stream before the answer")
        case other:
            raise UpstreamError("BadAnswer", f"answered with content type {other or 'none'!r} instead of JSON or events")


async def _wait_end(messages: AsyncGenerator[Message, None]) -> None:
    """Read an event stream to its end, which is near once the answer has come.

    A connection that is left in the midst of a stream cannot be used again, and each one costs the
    server a TCP and TLS handshake.
    """
    with trio.move_on_after(DRAIN), contextlib.suppress(UpstreamError):
        async for _ in messages:
            pass


async def _wait_drained(answer: Answer) -> None:
    """Read what is left of a small answer, so that its connection can be used again."""
    if answer.is_whole:
        return
    size = 0
    with trio.move_on_after(DRAIN), contextlib.suppress(UpstreamError):
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
            if size > MAX_DRAINED:
                return


def result_members(message: Response) -> list[Member]:
    """The members of a result. Raises UpstreamError for an error, or a result that is no object."""
    if message.error is not None:
        error = message.error.value
        words, data = _error_words(error), error.get("data") if isinstance(error, dict) else None
        raise UpstreamError("RpcError", f"answered with the error {words}", words=words, data=data)
    members = message.result.value if message.result is not None else None
    if not isinstance(members, list) or not all(isinstance(member, Member) for member in members):
        raise UpstreamError("BadAnswer", "answered with a result that is no object")
    return members


async def _wait_error(answer: Answer) -> object:
    """The JSON-RPC error in the body; None without one."""
    if media_type(answer) != h.JSON:
        return None
    try:  # without an id it is no response of JSON-RPC, and an error that is not about one request has none
        members = parse_object((await _wait_body(answer)).decode("utf-8-sig"))
    except ValueError:
        return None
    return next((member.value for member in members if member.key == "error"), None)


def _error_words(error: object) -> str:
    match error:
        case {"code": float(code), "message": str(text)}:
            return f"{code:g} {text[:200]}"
        case _:
            return "an error without code and message"


async def _wait_body(answer: Answer, largest: int = MAX_ANSWER) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > largest:
            raise UpstreamError("TooLarge", f"answered more than {largest >> 20} MiB")
    return bytes(body)


def _fault(message: Message | Malformed) -> str:
    match message:
        case Malformed(_, text):
            return text
        case Request() | Notification() | Response():
            return f"a {type(message).__name__.lower()}"
