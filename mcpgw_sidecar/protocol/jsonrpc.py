"""JSON-RPC 2.0 envelopes as MCP restricts them (specification, basic/index, Messages).

`parse_message` is a ladder; the first failure wins:

1. the body is UTF-8 and one JSON object                         else -32700 (other JSON: -32600)
2. no member that this ladder reads occurs twice                 else -32600: readers could disagree
3. `jsonrpc` is "2.0"                                            else -32600
4. `id`, if there is one, is a string or a number                else -32600
5. `method` is a string: a request with `id`, else a notification
6. `result` or `error` with an `id`: a response                  else -32600
"""

from __future__ import annotations

from typing import Any

import attrs

from mcpgw_sidecar.model.names import NULL, JsonText
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, only, parse_object

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
SESSION_NOT_FOUND = -32001
RESOURCE_NOT_FOUND = -32002
UNSUPPORTED_VERSION = -32022

SPACES = 64  # bytes of a body in which the bracket of a batch is searched
_INTO = frozenset({"params", "result"})
_DECIDING = ("jsonrpc", "id", "method", "params", "result", "error")


@attrs.frozen(slots=True)
class Request:
    """A request; `params` are the members of its params object, None without one.

    `text` is the whole message, `text[id_start:id_end]` the id.
    """

    id: JsonText
    id_start: int
    id_end: int
    method: str
    params: list[Member] | None
    text: str


@attrs.frozen(slots=True)
class Notification:
    """A message without an answer."""

    method: str
    params: list[Member] | None
    text: str


@attrs.frozen(slots=True)
class Response:
    """An answer; the member is in `result` or in `error`.

    `id_value` is the decoded id, `text[id_start:id_end]` its text.
    """

    id: JsonText
    id_value: str | float
    id_start: int
    id_end: int
    result: Member | None
    error: Member | None
    text: str


@attrs.frozen(slots=True)
class Malformed:
    """Not a message; `id` is the sender's, where it could be read."""

    code: int
    message: str
    id: JsonText = NULL


Message = Request | Notification | Response


def _is_id(value: object) -> bool:
    return isinstance(value, str | float) and not isinstance(value, bool)


def is_batch(body: bytes) -> bool:
    """Whether a body is an array of messages: version 2025-03-26 alone has these."""
    return body[:SPACES].lstrip(b" \t\r\n")[:1] == b"["


def parse_message(body: bytes | str) -> Message | Malformed:
    """Classify one message (the ladder above)."""
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
    except UnicodeDecodeError as error:
        return Malformed(PARSE_ERROR, f"Parse error: the body is not UTF-8 (byte {error.start})")
    try:
        members = parse_object(text, into=_INTO)
    except JsonTextError as error:
        if is_batch(text[:SPACES].encode()):
            return Malformed(INVALID_REQUEST, "Invalid Request: send one message, not a batch")
        code = INVALID_REQUEST if str(error) == "an object is expected" else PARSE_ERROR
        return Malformed(code, f"Parse error: {error}" if code == PARSE_ERROR else f"Invalid Request: {error}")
    return _classify(text, members)


def _classify(text: str, members: list[Member]) -> Message | Malformed:  # noqa: PLR0911  # the ladder
    raw_id = NULL
    try:
        version, ident, method, params, result, error = (only(members, key) for key in _DECIDING)
    except JsonTextError as duplicate:
        return Malformed(INVALID_REQUEST, f"Invalid Request: {duplicate}")
    if ident is not None and _is_id(ident.value):
        raw_id = JsonText(text[ident.start : ident.end])
    if version is None or version.value != "2.0":
        return Malformed(INVALID_REQUEST, 'Invalid Request: "jsonrpc" must be "2.0"', raw_id)
    if ident is not None and not _is_id(ident.value):
        return Malformed(INVALID_REQUEST, 'Invalid Request: "id" must be a string or a number')
    params = _unless_null(params)  # official SDKs of some languages write null for none
    error = error if result is None else _unless_null(error)  # as do some servers for an error
    if method is not None:
        if not isinstance(method.value, str) or not method.value:
            return Malformed(INVALID_REQUEST, 'Invalid Request: "method" must be a string', raw_id)
        if params is not None and text[params.start] != "{":
            return Malformed(INVALID_PARAMS, 'Invalid params: "params" must be an object', raw_id)
        inner: list[Member] | None = params.value if params is not None else None
        if ident is None:
            return Notification(method.value, inner, text)
        return Request(raw_id, ident.start, ident.end, method.value, inner, text)
    if ident is None or (result is None) == (error is None):
        return Malformed(INVALID_REQUEST, 'Invalid Request: "method" is missing', raw_id)
    return Response(raw_id, ident.value, ident.start, ident.end, result, error, text)


def _unless_null(member: Member | None) -> Member | None:
    return None if member is None or member.value is None else member


def result_text(ident: JsonText, result: bytes) -> bytes:
    """The bytes of a result; `result` is JSON."""
    prefix, suffix = around_result(ident)
    return b"".join([prefix, result, suffix])


def around_result(ident: JsonText) -> tuple[bytes, bytes]:
    """The bytes before a result, and the bytes after it."""
    return b'{"jsonrpc":"2.0","id":%b,"result":' % ident.encode(), b"}"


def error_text(ident: JsonText, code: int, message: str, data: Any = None) -> bytes:  # noqa: ANN401  # any JSON value
    """The bytes of an error."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return f'{{"jsonrpc":"2.0","id":{ident},"error":{dumps(error)}}}'.encode()


def request_text(ident: str, method: str, params: str = "{}") -> bytes:
    """The bytes of a request of ours; `ident` needs no escapes, `params` is JSON text."""
    return f'{{"jsonrpc":"2.0","id":"{ident}","method":"{method}","params":{params}}}'.encode()


def notification_text(method: str, params: str | None = None) -> bytes:
    """The bytes of a notification of ours; `params` is JSON text, or None."""
    tail = f',"params":{params}' if params is not None else ""
    return f'{{"jsonrpc":"2.0","method":"{method}"{tail}}}'.encode()
