"""The targets of the fuzzer: one function for one input, which raises when a law is broken.

`SEEDS` start the search. Where there is a second reader of the same bytes (Python's json, the other
implementation, the same one fed in pieces), it is the judge.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import attrs
import structlog
import trio
from google.protobuf.message import DecodeError
from lupa.luajit21 import LuaRuntime

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.envoyfiles.scripts import messages
from mcpgw_sidecar.extproc import codec
from mcpgw_sidecar.extproc.h2server import GrpcServer, bidirectional
from mcpgw_sidecar.extproc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from mcpgw_sidecar.model.decisions import Forward, HttpRequest, OpenSession, Reject
from mcpgw_sidecar.model.kinds import RESOURCE, TEMPLATE, TOOL, Kind
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState, UpstreamSession
from mcpgw_sidecar.protocol.jsonrpc import Malformed, Notification, Request, Response, parse_message
from mcpgw_sidecar.protocol.owners import name_owner, read_owner
from mcpgw_sidecar.protocol.sse import SseError, SseParser
from mcpgw_sidecar.sessions.tickets import open_ticket, seal_ticket
from mcpgw_sidecar.sessions.tokens import parse_keys
from tests.climb import decide
from tests.property.test_memo_lua import agrees

SERVER = Server(name=ServerName("ns/one"), url="http://h/mcp", hostname="h", tool_prefix="p_")
SESSION = Session(
    key="k", expires=1000, protocol_version="2025-11-25", client_info=JsonText("{}"), capabilities=JsonText("{}")
)
KEYS = parse_keys("k" * 40, "fuzz")
UPSTREAM = UpstreamSession(id="u", protocol_version="2025-06-18")
TICKET = seal_ticket(KEYS, SESSION.key, SERVER, UPSTREAM)
OWNER = f"ns/one:{TICKET}"


def _items(kind: Kind, *texts: str) -> tuple[Item, ...]:
    return tuple(item for item in (read_item(kind, text) for text in texts) if isinstance(item, Item))


SNAPSHOT = federate(
    (SERVER,),
    {
        SERVER.name: Discovered(
            {
                "tool": _items(TOOL, '{"name":"greet","inputSchema":{"type":"object"}}'),
                "resource": _items(RESOURCE, '{"uri":"a:b","name":"n"}'),
                "template": _items(TEMPLATE, '{"uriTemplate":"db://{x}/{+y}","name":"n"}'),
            }
        )
    },
).snapshot
STATE = SessionState(
    session=SESSION,
    upstreams={SERVER.name: attrs.evolve(UPSTREAM, ticket=TICKET)},
    opens=lambda server, ticket: open_ticket(KEYS, SESSION.key, server, ticket),
)


class LawBrokenError(AssertionError):
    """What the fuzzer looks for."""


def hold(law: object, words: str) -> None:
    if not law:
        raise LawBrokenError(words)


def _judge(data: bytes) -> Any:
    """What Python's own reader makes of a body; pairs for objects, so that nothing is lost."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=list, parse_constant=refuse, parse_int=float)
    except (ValueError, RecursionError):
        return None


def jsonrpc(data: bytes) -> None:
    """What is taken for a message is one, with the id and the method that Python's json reads."""
    message, value = parse_message(data), _judge(data)
    if isinstance(message, Malformed):
        return
    hold(isinstance(value, list), "a message that is no JSON object")
    members = dict(value)
    hold(members.get("jsonrpc") == "2.0", "jsonrpc")
    if isinstance(message, Request | Response):
        hold(_judge(message.id.encode()) == members["id"], "id")
        hold(message.text[message.id_start : message.id_end] == message.id, "place of the id")
    if isinstance(message, Request | Notification):
        hold(message.method == members["method"], "method")
        hold(("id" in members) == isinstance(message, Request), "request or notification")


def splice(data: bytes) -> None:
    """A call that is sent on is the client's but for the name; an answer but for its id."""
    request = HttpRequest(headers={":path": "/mcp"}, body=data)
    decided = decide(request, SNAPSHOT, STATE)
    if isinstance(decided, Reject):
        hold(_judge(codec.encode(decided, request).immediate_response.body) is not None, "an answer that is no JSON")
        return
    if not isinstance(decided, Forward):
        hold(not isinstance(decided, OpenSession), "a session that is open")
        return
    before, after = _judge(data), _judge(decided.body)
    hold(isinstance(before, list) and isinstance(after, list), "JSON")
    left, right = dict(before), dict(after)
    if decided.kind is None:
        hold(left.pop("id") != right.pop("id"), "the id is the server's own")
        hold(left == right, "an answer that was changed")
        return
    hold(left["id"] == right["id"], "the id is the client's")
    if decided.kind is TOOL:
        given, sent = dict(left.pop("params")), dict(right.pop("params"))
        hold((given.pop("name"), sent.pop("name")) == ("p_greet", "greet"), "the name")
        hold(given == sent, "other members of params")
    if decided.kind is TOOL or not str(decided.key).startswith("mcpgw://"):
        hold(left == right, "another member")
    codec.encode(decided, request)


def sse(data: bytes) -> None:
    """Events do not depend on how the bytes were cut, and Envoy's filter loses none."""
    cuts = sorted({data[at] * len(data) // 256 for at in range(min(4, len(data)))} | {0, len(data)})
    whole = _events([data])
    hold(whole == _events([data[start:end] for start, end in pairwise(cuts)]), "cut")
    lua_whole, held = NAME_OWNERS(b"", data, OWNER.encode())
    out, rest = b"", b""
    for start, end in pairwise(cuts):
        done, rest = NAME_OWNERS(rest, data[start:end], OWNER.encode())
        out += done
    hold((out + rest) == lua_whole + held, "cut in Envoy")
    renamed = _events([lua_whole + held])
    if whole is not None and renamed is not None:
        hold(len(whole) == len(renamed), "events in Envoy")


def _events(chunks: list[bytes]) -> list[Any] | None:
    parser, events = SseParser(1 << 20), []
    try:
        for chunk in chunks:
            events += parser.feed(chunk)
    except SseError:
        return None
    return events


def memo(data: bytes) -> None:
    """Envoy's memo reads a message as the router's parser does, or leaves it to that."""
    agrees(data)


def owners(data: bytes) -> None:
    """Envoy and the sidecar write the same owner into a message, and it can be read back.

    What is read is the server's own id.
    """
    message = parse_message(data)
    if not isinstance(message, Request | Notification) or b"\\" in data:  # escaped keys: Envoy passes them as they came
        return
    ours, envoys = name_owner(message, OWNER), NAME_OWNER(data, OWNER.encode())
    twice = any(len({key for key, _ in pairs}) != len(pairs) for pairs in _objects(_judge(data)))
    hold(twice or _judge(ours.encode()) == _judge(envoys), "two ways to name an owner")
    again = parse_message(ours)
    hold(type(again) is type(message), "a message that became none")
    if isinstance(message, Request) and isinstance(again, Request):
        owner = read_owner(json.loads(again.id))
        hold(owner is not None and owner.id == message.id and owner.ticket == TICKET, "the id does not come back")


def _objects(value: Any) -> list[list[Any]]:
    """The objects inside of a judged value, as lists of pairs.

    Arrays of pairs look the same, which costs little.
    """
    if not isinstance(value, list):
        return []
    pairs = [each for each in value if isinstance(each, tuple)]
    inner = [obj for each in value for obj in _objects(each[1] if isinstance(each, tuple) else each)]
    return [pairs, *inner] if pairs else inner


def tokens(data: bytes) -> None:
    """No text but the sealed one opens a session or a ticket."""
    text = data.decode("latin-1")
    sealed = KEYS.seal(SESSION)
    session = KEYS.verify(text, 0)
    hold(isinstance(session, SessionFault) or text == sealed, "a forged session id")
    hold(open_ticket(KEYS, SESSION.key, SERVER, text) is None or _same(text, TICKET), "a forged ticket")
    if data:  # one byte of the sealed ones exchanged
        at, byte = data[0] % len(sealed), chr(data[-1])
        bent = sealed[:at] + byte + sealed[at + 1 :]
        hold(isinstance(KEYS.verify(bent, 0), SessionFault) or bent == sealed, "a bent session id")
        at %= len(TICKET)
        bent = TICKET[:at] + byte + TICKET[at + 1 :]
        hold(open_ticket(KEYS, SESSION.key, SERVER, bent) is None or _same(bent, TICKET), "a bent ticket")
        hold(open_ticket(KEYS, text, SERVER, TICKET) is None or text == SESSION.key, "a ticket of another session")


def _same(text: str, ticket: str) -> bool:
    """Whether two base64 texts may differ and have the same bytes.

    The last character has unused bits, and decoders skip some characters.
    """
    from mcpgw_sidecar.sessions.tokens import decode  # noqa: PLC0415

    return decode(text) == decode(ticket)


def envoys_message(data: bytes) -> None:
    """Whatever Envoy's message holds, there is a decision and an answer to it."""
    message = ProcessingRequest()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return
    headers = codec.request_headers(message.request_headers)
    request = HttpRequest(headers=headers, body=message.request_body.body)
    decided = decide(request, SNAPSHOT, STATE)
    hold(not isinstance(decided, OpenSession), "a session that is open")
    codec.encode(decided, request, with_body=message.HasField("request_body"))  # type: ignore[arg-type]


COMPLAINTS: list[str] = []


def _complain(_logger: object, method: str, event: Any) -> Any:
    """A line at ERROR is a bug that was caught: here it is a finding."""
    if method in {"error", "exception", "critical"}:
        COMPLAINTS.append(str(event))
    raise structlog.DropEvent


async def _wait_echo(stream: Any) -> None:
    while (message := await stream.recv_message()) is not None:
        await stream.send_message(ProcessingResponse(request_headers={}))
        if message.HasField("request_body"):
            return


def http2(data: bytes) -> None:
    """Whatever a peer sends, its connection ends or goes on; no exception escapes.

    No error is a bug.
    """
    COMPLAINTS.clear()
    trio.run(_wait_peer, _frames(data))
    hold(not COMPLAINTS, str(COMPLAINTS))


def _frames(data: bytes) -> bytes:
    """Half of the inputs are raw bytes after the preface, the others are frames of any kind."""
    if not data or data[0] % 2:
        return PREFACE + data[1:]
    out, rest = PREFACE + _frame(4, 0, 0, b""), data[1:]
    while len(rest) > 4:
        kind, flags, stream, size = rest[0] % 12, rest[1], rest[2] % 8, rest[3]
        out, rest = out + _frame(kind, flags, stream, rest[4 : 4 + size]), rest[4 + size :]
    return out


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


async def _wait_peer(data: bytes) -> None:
    ours, theirs = trio.socket.socketpair()
    grpc = GrpcServer(bidirectional("/x", _wait_echo, ProcessingRequest, ProcessingResponse))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grpc._wait_connection, trio.SocketStream(ours))
            peer = trio.SocketStream(theirs)
            try:
                await peer.send_all(data)
                theirs.shutdown(socket.SHUT_WR)
                while await peer.receive_some(65536):
                    pass
            except OSError:
                pass
            except trio.BrokenResourceError:
                pass
            await peer.aclose()


def own(data: bytes) -> None:
    """What own.lua lets pass answers no other call, in whatever pieces; Python's json judges."""
    for ident in (b"5", b'"a/b"'):
        passed = _passes(data, ident, ())
        for cuts in ((1,), (len(data) // 2,), range(len(data))):
            hold(_passes(data, ident, cuts) == passed, "another verdict in pieces")
        value = json.loads(ident)
        for message in _messages(data) if passed else ():
            keys = [key for key, _ in message]
            known = dict(message)
            if known.get("id") is None or ("method" in known and not {"result", "error"} & set(known)):
                continue
            hold(keys.count("id") == 1, "an id twice")
            hold(known["id"] == value and not isinstance(known["id"], bool), "an answer to another call")


def _messages(data: bytes) -> list[Any]:
    """The objects of a text, or of the array that it is, as pairs."""
    try:
        value = json.loads(data, object_pairs_hook=lambda pairs: ("object", pairs))
    except (ValueError, RecursionError):
        return []
    return [each[1] for each in (value if isinstance(value, list) else [value]) if isinstance(each, tuple)]


def _passes(data: bytes, ident: bytes, cuts: Any) -> bool:
    walk, edges = NEW_WALK(), [0, *cuts, len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    return all(WALK_ON(walk, piece, 1, len(piece), ident) for piece in pieces)


LUA = LuaRuntime(encoding=None)
LUA.execute(messages("").encode())
NEW_WALK, WALK_ON = LUA.globals().new_walk, LUA.globals().walk_on
NAME_OWNER, NAME_OWNERS = LUA.globals().name_owner, LUA.globals().name_owners
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"p_greet","arguments":{"a":[1e400,"\\ud800"]}}}'
_READ = b'{"jsonrpc":"2.0","id":"x","method":"resources/read","params":{"uri":"mcpgw://ns%2Fone/db://a/b"}}'
_COMPLETE = b'{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"a:b"}}}'
_ANSWER = b'{"jsonrpc":"2.0","id":"mcpgw:%b:\\"7\\"","result":{}}' % OWNER.encode()
_CANCEL = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}'
_ASK = b'{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"_meta":{"progressToken":"t"}}}'
MESSAGES = [_CALL, _READ, _COMPLETE, _ANSWER, _CANCEL, _ASK, b"[" + _CALL + b"]"]


def _envoys() -> list[bytes]:
    head, body = ProcessingRequest(), ProcessingRequest()
    for key, value in ((":method", b"GET"), (":path", b"/mcp"), ("last-event-id", b"mcpgw:" + OWNER.encode() + b":7")):
        header = head.request_headers.headers.headers.add()
        header.key, header.raw_value = key, value
    body.request_body.body = _CALL
    return [head.SerializeToString(), body.SerializeToString()]


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "jsonrpc": (jsonrpc, MESSAGES),
    "splice": (splice, MESSAGES),
    "sse": (
        sse,
        [
            b"id: 7\r\nevent: message\r\ndata: " + _ASK + b"\r\n\r\n",
            b"\xef\xbb\xbfretry: 5\n: c\ndata\n\n",
            b"data: a\rdata:b\r\r",
        ],
    ),
    "memo": (memo, MESSAGES),
    "owners": (owners, MESSAGES),
    "own": (
        own,
        [b'{"id":5,"result":{}}', b'[{"id":"a\\/b","error":{}},{"method":"x","id":6}]', b'{"i\\u0064":6,"result":1}'],
    ),
    "tokens": (tokens, [KEYS.seal(SESSION).encode(), TICKET.encode()]),
    "envoys_message": (envoys_message, _envoys()),
    "http2": (
        http2,
        [
            b"\1" + _frame(4, 0, 0, b"") + _frame(1, 4, 1, b"\x83\x84\x86"),
            b"\0" + bytes((1, 4, 1, 3)) + b"\x83\x84\x86" + bytes((0, 1, 1, 5)) + bytes(5),
            b"\0" + bytes((6, 0, 0, 8)) + bytes(8) + bytes((10, 0, 0, 2)) + bytes(2),
        ],
    ),
}
structlog.configure(processors=[structlog.processors.format_exc_info, _complain])
