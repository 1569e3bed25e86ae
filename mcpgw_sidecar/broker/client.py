"""The broker as an MCP client: one HTTP exchange at a time, raw JSON, every answer bounded in size and time.

No model of an SDK stands between: what a server wrote is handed on as text. Whatever a server does wrong becomes an
UpstreamError with a reason; nothing else leaves this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx2
import trio

from mcpgw_sidecar.broker.pool import HttpClients
from mcpgw_sidecar.errors import UpstreamError, words_of
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import UpstreamSession
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.protocol.jsonrpc import (
    METHOD_NOT_FOUND,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    error_text,
    notification_text,
    parse_message,
    request_text,
    result_text,
)
from mcpgw_sidecar.protocol.jsontext import Member, parse_object
from mcpgw_sidecar.protocol.sse import SseError, SseParser, SseTooLargeError, one_line
from mcpgw_sidecar.protocol.versions import LATEST_STATEFUL, STATEFUL

CONNECT_TIMEOUT = 5.0  # seconds until a TCP and TLS connection stands
REQUEST_TIMEOUT = 10.0  # seconds for one of the broker's own requests, answer included
CLOSE_TIMEOUT = 2.0  # seconds that a server may take to end a session before it is left to its own expiry
MAX_ANSWER = 16 << 20  # bytes of one answer, decompressed: a list of 10,000 large tools
_OWN_ANSWERS = {"ping": b"{}", "roots/list": b'{"roots":[]}'}
SUBSCRIBE = "resources.subscribe"
"""Name of the capability to be told of changes of single resources."""

_ACCEPT = "application/json, text/event-stream"
_EVENT_STREAM = "text/event-stream"
_UNAUTHORIZED = frozenset({401, 403})
FORGOTTEN = 404  # "MUST respond to requests containing that session ID with HTTP 404" (basic/transports)
_NO_STREAM = frozenset({405, 501})


@attrs.frozen
class Handshake:
    """What initialize gave."""

    session: UpstreamSession
    instructions: str
    capabilities: frozenset[str]


@attrs.define
class Position:
    """Where a stream was left: the id of its last event, and the pause before it is opened again that the server asked for, in seconds."""

    last_id: str | None = None
    retry: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What asks a server to go on from here (basic/transports, Resumability)."""
        usable = self.last_id is not None and is_header_value(self.last_id)
        return {h.LAST_EVENT: self.last_id} if usable and self.last_id is not None else {}


@attrs.frozen
class UpstreamClient:
    """Speaks to MCP servers. `observe` is told (server name, seconds) of each request; `timeout` is in seconds."""

    http: HttpClients
    observe: Callable[[str, float], None]
    timeout: float = REQUEST_TIMEOUT

    async def wait_initialized(
        self, server: Server, *, client_info: str, capabilities: str, headers: Mapping[str, str]
    ) -> Handshake:
        """Open a session. `client_info` and `capabilities` are JSON; `headers` go along. Raises UpstreamError."""
        params = f'{{"protocolVersion":"{LATEST_STATEFUL}","capabilities":{capabilities},"clientInfo":{client_info}}}'
        with self._limited(server, "initialize"):
            async with self._exchange(server, "POST", request_text(0, "initialize", params), headers) as answer:
                await _wait_checked(answer)
                session_id = answer.headers.get(h.SESSION)
                result = _result_members(await _wait_response(answer, _wait_unheard))
            values: dict[str, Any] = {member.key: member.value for member in result}
            version: Any = values.get("protocolVersion")
            if version not in STATEFUL:
                message = f"speaks protocol version {version!r}; this gateway speaks {', '.join(STATEFUL)}"
                raise UpstreamError("UnsupportedVersion", message)
            session = UpstreamSession(id=_usable(session_id), protocol_version=version)
            await self.wait_notified(server, session, "notifications/initialized", headers)
        told, declared = values.get("instructions"), values.get("capabilities")
        return Handshake(
            session,
            told if isinstance(told, str) else "",
            _names(declared),
        )

    async def wait_notified(self, server: Server, session: UpstreamSession, method: str, headers: Mapping[str, str]) -> None:
        """Send a notification. Raises UpstreamError."""
        await self.wait_posted(server, session, notification_text(method), headers)

    async def wait_posted(
        self, server: Server, session: UpstreamSession, message: bytes, headers: Mapping[str, str]
    ) -> None:
        """Send a message that wants no answer, as it is. Raises UpstreamError."""
        with self._limited(server, "a notification"):
            async with self._exchange(server, "POST", message, _with_session(session, headers)) as answer:
                await _wait_checked(answer)

    async def wait_result(
        self, server: Server, session: UpstreamSession, method: str, params: str, headers: Mapping[str, str]
    ) -> tuple[str, list[Member]]:
        """Ask and give the answer's text and the members of its result. Raises UpstreamError."""
        extra = _with_session(session, headers)
        with self._limited(server, method):
            async with self._exchange(server, "POST", request_text(1, method, params), extra) as answer:
                await _wait_checked(answer)
                message = await _wait_response(answer, partial(self._wait_replied, server, session, headers))
        return message.text, _result_members(message)

    async def wait_forwarded(
        self,
        server: Server,
        session: UpstreamSession,
        message: bytes,
        headers: Mapping[str, str],
        wait_heard: Callable[[Request | Notification], Awaitable[None]],
        *,
        silence: float | None,
    ) -> bytes:
        """Send a client's request as it is and give its answer as it came; `wait_heard` gets what the server says before that.

        `silence` is the longest pause of the server in seconds, None for none. Raises UpstreamError.
        """
        async with self._exchange(server, "POST", message, _with_session(session, headers), silence=silence) as answer:
            await _wait_checked(answer)
            response = await _wait_response(answer, wait_heard)
        return one_line(response.text)

    async def wait_events(
        self,
        server: Server,
        session: UpstreamSession,
        headers: Mapping[str, str],
        handle: Callable[[Message], None],
        *,
        own: bool,
        position: Position,
        opened: Callable[[], object] = lambda: None,
    ) -> bool:
        """Hand over the messages of a session's stream until it ends; False if the server offers none. Raises UpstreamError.

        In the broker's `own` session the server's requests are answered here; in a client's they are handed over like the rest.
        The stream goes on at `position`, which is kept up to date; `opened` is called when the server has accepted.
        """
        extra = {**_with_session(session, headers), **position.headers, "accept": _EVENT_STREAM}
        position.last_id = None  # a server that refuses to go on from there is asked for a new stream next time
        async with self._exchange(server, "GET", None, extra, silence=None) as answer:
            if answer.status_code in _NO_STREAM:
                return False
            await _wait_checked(answer)
            if _kind(answer) != _EVENT_STREAM:
                return False
            position.last_id = extra.get(h.LAST_EVENT)
            opened()
            async with contextlib.aclosing(_events(answer, position)) as messages:
                async for message in messages:
                    if own and isinstance(message, Request):
                        await self._wait_replied(server, session, headers, message)
                    else:
                        handle(message)
            return True

    async def wait_alive(self, server: Server, session: UpstreamSession, headers: Mapping[str, str]) -> bool:
        """Does the server still know this session? Raises UpstreamError when it cannot be asked."""
        try:
            await self.wait_result(server, session, "ping", "{}", headers)
        except UpstreamError as error:
            if error.status == FORGOTTEN:
                return False
            if error.reason != "RpcError":
                raise
        return True

    async def wait_closed(self, server: Server, session: UpstreamSession, headers: Mapping[str, str]) -> None:
        """End a session; a server that cannot or does not answer is left to its own expiry."""
        if session.id is None:
            return
        with trio.move_on_after(CLOSE_TIMEOUT), contextlib.suppress(UpstreamError):
            async with self._exchange(server, "DELETE", None, _with_session(session, headers)):
                pass

    @contextlib.contextmanager
    def _limited(self, server: Server, method: str) -> Iterator[None]:
        started = trio.current_time()
        try:
            with trio.fail_after(self.timeout):
                yield
        except trio.TooSlowError:
            message = f"did not answer {method} within {self.timeout:g} s"
            raise UpstreamError("Timeout", message) from None
        finally:
            self.observe(server.name, trio.current_time() - started)

    @contextlib.asynccontextmanager
    async def _exchange(
        self,
        server: Server,
        method: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        silence: float | None = REQUEST_TIMEOUT,
    ) -> AsyncIterator[httpx2.Response]:
        http = await self.http.wait_for(server)
        sent = {name.encode("latin-1"): value.encode("latin-1") for name, value in {"accept": _ACCEPT, **headers}.items()}
        if body is not None:
            sent[b"content-type"] = b"application/json"
        timeout = httpx2.Timeout(self.timeout, connect=CONNECT_TIMEOUT, read=silence)
        try:
            async with http.stream(method, server.url, content=body, headers=sent, timeout=timeout) as answer:
                yield answer
        except httpx2.TimeoutException as error:
            if isinstance(error, httpx2.ConnectTimeout):
                message = f"cannot be reached: no connection within {CONNECT_TIMEOUT:.0f} s"
                raise UpstreamError("Unreachable", message) from None
            raise UpstreamError("Timeout", f"was silent for {silence or self.timeout:g} s") from None
        except httpx2.ConnectError as error:
            raise UpstreamError("Unreachable", f"cannot be reached: {words_of(error)}") from None
        except httpx2.LocalProtocolError:  # its words repeat the header, and that may be a credential
            raise UpstreamError("BadRequest", "was not asked: a header of the request cannot be sent") from None
        except (UnicodeError, httpx2.InvalidURL):
            raise UpstreamError("BadUrl", "has a url whose host is no host name") from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise UpstreamError("BadAnswer", f"broke off or answered no HTTP: {words_of(error)}") from None

    async def _wait_replied(
        self, server: Server, session: UpstreamSession, headers: Mapping[str, str], request: Request | Notification
    ) -> None:
        """Answer a server's request to the broker itself: it can be pinged, and has no roots."""
        if isinstance(request, Notification):
            return
        known = _OWN_ANSWERS.get(request.method)
        if known is not None:
            reply = result_text(request.id, known)
        else:
            reply = error_text(request.id, METHOD_NOT_FOUND, f"The broker does not offer {request.method[:100]}")
        async with self._exchange(server, "POST", reply, _with_session(session, headers)):
            pass


async def _wait_unheard(_message: Request | Notification) -> None:
    """Before a session stands there is nothing to answer with."""


async def _wait_response(
    answer: httpx2.Response, wait_heard: Callable[[Request | Notification], Awaitable[None]]
) -> Response:
    match _kind(answer):
        case "application/json":
            message = parse_message(await _wait_body(answer))
            if isinstance(message, Response):
                return message
            raise UpstreamError("BadAnswer", f"answered no JSON-RPC response: {_fault(message)}")
        case "text/event-stream":
            async with contextlib.aclosing(_events(answer)) as messages:
                async for message in messages:
                    if isinstance(message, Response):
                        return message
                    await wait_heard(message)
            raise UpstreamError("BadAnswer", "ended its event stream before the answer")
        case other:
            raise UpstreamError("BadAnswer", f"answered with content type {other or 'none'!r} instead of JSON or events")


def _names(declared: object) -> frozenset[str]:
    """The capabilities that a server declares; one that has an own member is named with it."""
    if not isinstance(declared, dict):
        return frozenset()
    resources = declared.get("resources")
    subscribe = isinstance(resources, dict) and resources.get("subscribe") is True
    return frozenset(map(str, declared)) | (frozenset({SUBSCRIBE}) if subscribe else frozenset())


def own_headers(server: Server) -> dict[str, str]:
    """The headers of the broker's own calls: the server's credential. Raises UpstreamError when it cannot be read."""
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


def _with_session(session: UpstreamSession, headers: Mapping[str, str]) -> dict[str, str]:
    extra = {**headers, h.VERSION: session.protocol_version}
    if session.id is not None:
        extra[h.SESSION] = session.id
    return extra


def _usable(session_id: str | None) -> str | None:
    if session_id is None:
        return None
    if not session_id or any(not "!" <= char <= "~" for char in session_id):
        raise UpstreamError("BadAnswer", "gave a session id that is not visible ASCII")
    return session_id


async def _wait_checked(answer: httpx2.Response) -> None:
    """Raise UpstreamError for a status that is no success, with the server's own words where it gives some."""
    status = answer.status_code
    if answer.is_success:
        return
    if answer.is_redirect:
        target = answer.headers.get("location", "")[:200]
        raise UpstreamError("Redirected", f"redirects to {target!r}: put that in url", status=status)
    words = await _wait_words(answer)
    told = f" ({words})" if words else ""
    if status in _UNAUTHORIZED:
        raise UpstreamError("Unauthorized", f"refused the credentials (HTTP {status}){told}", status=status, words=words)
    raise UpstreamError("HttpError", f"answered HTTP {status}{told}", status=status, words=words)


async def _wait_words(answer: httpx2.Response) -> str:
    """The code and message of a JSON-RPC error in the body; "" without one."""
    if _kind(answer) != "application/json":
        return ""
    try:  # an error that is not about one request has no id, so this is no response of JSON-RPC
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


def _kind(answer: httpx2.Response) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _wait_body(answer: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise UpstreamError("TooLarge", f"answered more than {MAX_ANSWER >> 20} MiB")
    return bytes(body)


async def _events(answer: httpx2.Response, position: Position | None = None) -> AsyncGenerator[Message, None]:
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


def _result_members(message: Response) -> list[Member]:
    if message.error is not None:
        words = _error_words(message.error.value)
        raise UpstreamError("RpcError", f"answered with the error {words}", words=words)
    members = message.result.value if message.result is not None else None
    if not isinstance(members, list) or not all(isinstance(member, Member) for member in members):
        raise UpstreamError("BadAnswer", "answered with a result that is no object")
    return members


def _fault(message: Message | Malformed) -> str:
    match message:
        case Malformed(_, text):
            return text
        case Request() | Notification() | Response():
            return f"a {type(message).__name__.lower()}"
