"""HTTP with MCP servers of any era: one request and its answer, raw JSON, limited in size and time.

There is no model of an SDK in between: the text of a server is passed on as it is. Any fault of a
server becomes an UpstreamError with a reason; this module raises no other error.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import attrs
import httpx2
import trio

from mcpgw_sidecar.errors import UpstreamError, words_of
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.protocol.jsonrpc import (
    SERVER_ERROR,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    parse_message,
)
from mcpgw_sidecar.protocol.jsontext import Member, parse_object
from mcpgw_sidecar.protocol.sse import SseError, SseParser, SseTooLargeError
from mcpgw_sidecar.upstream.pool import HttpClients

MAX_ANSWER = 16 << 20  # bytes of one answer, decompressed: a list of 10,000 large tools
_ACCEPT = f"{h.JSON}, {h.EVENT_STREAM}"
_UNAUTHORIZED = frozenset({401, 403})
_STATUS = {"Unreachable": 503, "Timeout": 504}
_BAD_GATEWAY = 502

WaitHeard = Callable[[Request | Notification], Awaitable[None]]
"""Gets a message of a server before its answer."""


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


@attrs.frozen
class Exchanger:
    """Sends HTTP requests. `observe` gets the server name and the seconds of each.

    `timeout` is in seconds.
    """

    http: HttpClients
    observe: Callable[[str, float], None]
    timeout: float = timeouts.REQUEST

    @contextlib.contextmanager
    def limited(self, server: Server, method: str) -> Iterator[None]:
        """Limit the time of the block to `timeout`, and observe it. Raises UpstreamError."""
        start = trio.current_time()
        try:
            with trio.fail_after(self.timeout):
                yield
        except trio.TooSlowError:
            message = f"did not answer {method} within {self.timeout:g} s"
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
        silence: float | None = timeouts.REQUEST,
    ) -> AsyncIterator[httpx2.Response]:
        """Send one request; gives the open answer.

        `silence` is the longest pause of the server. Raises UpstreamError.
        """
        http = await self.http.wait_for(server)
        fields = {name.encode("latin-1"): value.encode("latin-1") for name, value in {"accept": _ACCEPT, **headers}.items()}
        if body is not None:
            fields[b"content-type"] = h.JSON.encode()
        timeout = httpx2.Timeout(self.timeout, connect=timeouts.CONNECT, read=silence)
        try:
            async with http.stream(method, server.url, content=body, headers=fields, timeout=timeout) as answer:
                yield answer
        except httpx2.TimeoutException as error:
            if isinstance(error, httpx2.ConnectTimeout):
                message = f"cannot be reached: no connection within {timeouts.CONNECT:.0f} s"
                raise UpstreamError("Unreachable", message) from None
            raise UpstreamError("Timeout", f"was silent for {silence or self.timeout:g} s") from None
        except httpx2.ConnectError as error:
            raise UpstreamError("Unreachable", f"cannot be reached: {words_of(error)}") from None
        except httpx2.LocalProtocolError:  # the text of the error repeats the header, which may be a credential
            raise UpstreamError("BadRequest", "was not asked: a header of the request cannot be sent") from None
        except (UnicodeError, httpx2.InvalidURL):
            raise UpstreamError("BadUrl", "has a url whose host is no host name") from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise UpstreamError("BadAnswer", f"broke off or answered no HTTP: {words_of(error)}") from None


async def wait_unheard(_message: Request | Notification) -> None:
    """Drop a message, because before initialize there is no session for an answer."""


async def wait_checked(answer: httpx2.Response) -> None:
    """Raise UpstreamError for a status that is no success, with the server's own error message."""
    status = answer.status_code
    if answer.is_success:
        return
    if answer.is_redirect:
        target = answer.headers.get("location", "")[:200]
        raise UpstreamError("Redirected", f"redirects to {target!r}: put that in url", status=status)
    words = await _wait_words(answer)
    suffix = f" ({words})" if words else ""
    if status in _UNAUTHORIZED:
        message = f"refused the credentials (HTTP {status}){suffix}"
        raise UpstreamError("Unauthorized", message, status=status, words=words)
    raise UpstreamError("HttpError", f"answered HTTP {status}{suffix}", status=status, words=words)


async def wait_response(answer: httpx2.Response, wait_heard: WaitHeard) -> Response:
    """The response in an answer. Raises UpstreamError.

    `wait_heard` gets the server's messages before the response.
    """
    match media_type(answer):
        case h.JSON:
            message = parse_message(await _wait_body(answer))
            if isinstance(message, Response):
                return message
            raise UpstreamError("BadAnswer", f"answered no JSON-RPC response: {_fault(message)}")
        case h.EVENT_STREAM:
            async with contextlib.aclosing(events_of(answer)) as messages:
                async for message in messages:
                    if isinstance(message, Response):
                        return message
                    await wait_heard(message)
            raise UpstreamError("BadAnswer", "ended its event stream before the answer")
        case other:
            raise UpstreamError("BadAnswer", f"answered with content type {other or 'none'!r} instead of JSON or events")


async def events_of(answer: httpx2.Response, position: Position | None = None) -> AsyncGenerator[Message, None]:
    """The messages of an event stream. Raises UpstreamError.

    `position` is updated after each event.
    """
    parser = SseParser(MAX_ANSWER)
    async for chunk in answer.aiter_bytes():
        try:
            events = parser.feed(chunk)
        except SseTooLargeError:
            raise UpstreamError("TooLarge", f"sent an event of more than {MAX_ANSWER >> 20} MiB") from None
        except SseError as error:
            raise UpstreamError("BadAnswer", f"sent an event stream that cannot be read: {error}") from None
        for event in events:
            if position is not None:
                position.last_id, position.retry = event.id or position.last_id, parser.retry
            if not event.data:
                continue  # a priming event: it only carries an id to resume from
            message = parse_message(event.data)
            if isinstance(message, Malformed):
                raise UpstreamError("BadAnswer", f"sent an event that is no message: {message.message}")
            yield message


def media_type(answer: httpx2.Response) -> str:
    """The content type of an answer, without parameters."""
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def result_members(message: Response) -> list[Member]:
    """The members of a result. Raises UpstreamError for an error, or a result that is no object."""
    if message.error is not None:
        words = _error_words(message.error.value)
        raise UpstreamError("RpcError", f"answered with the error {words}", words=words)
    members = message.result.value if message.result is not None else None
    if not isinstance(members, list) or not all(isinstance(member, Member) for member in members):
        raise UpstreamError("BadAnswer", "answered with a result that is no object")
    return members


def own_headers(server: Server) -> dict[str, str]:
    """The headers of the gateway's own requests to a server, with the server's credential.

    Raises UpstreamError when the credential cannot be read.
    """
    credential = server.credential
    if server.credential_file is not None:
        try:
            credential = Path(server.credential_file).read_text(encoding="utf-8-sig").strip()
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that cannot be one
            reason = f"credentialFile {server.credential_file} cannot be read: {type(error).__name__}"
            raise UpstreamError("BadCredential", reason) from None
        if not is_header_value(credential):
            reason = f"credentialFile {server.credential_file} holds no single line of visible ASCII"
            raise UpstreamError("BadCredential", reason)
    return {"authorization": credential} if credential else {}


def rejection(server: Server, error: UpstreamError) -> Reject:
    """The answer to a client after a failure of a server."""
    status = _STATUS.get(error.reason) or (error.status if error.reason == "Unauthorized" else None) or _BAD_GATEWAY
    message = f"MCP server {server.name} {error}"
    if error.reason == "Unreachable":
        message = f"MCP server {server.name} is unreachable: {str(error).removeprefix('cannot be reached: ')}"
    if error.reason == "Unauthorized":
        message = f"MCP server {server.name} refused this client's credentials: send the Authorization that it asks for"
    data = {"server": server.name, "reason": error.reason}
    return Reject(status=status, code=SERVER_ERROR, message=message, data=data, server=server.name)


async def _wait_words(answer: httpx2.Response) -> str:
    """The code and message of a JSON-RPC error in the body; "" without one."""
    if media_type(answer) != h.JSON:
        return ""
    try:  # without an id it is no response of JSON-RPC, and an error that is not about one request has none
        members = parse_object((await _wait_body(answer)).decode())
    except ValueError:
        return ""
    error = next((member.value for member in members if member.key == "error"), None)
    return _error_words(error) if error is not None else ""


def _error_words(error: object) -> str:
    match error:
        case {"code": float(code), "message": str(text)}:
            return f"{code:g} {text[:200]}"
        case _:
            return "an error without code and message"


async def _wait_body(answer: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise UpstreamError("TooLarge", f"answered more than {MAX_ANSWER >> 20} MiB")
    return bytes(body)


def _fault(message: Message | Malformed) -> str:
    match message:
        case Malformed(_, text):
            return text
        case Request() | Notification() | Response():
            return f"a {type(message).__name__.lower()}"
