"""What leaves on a call's answer: the filter in Envoy's LuaJIT, against Python's own JSON."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from lupa.luajit21 import LuaRuntime

from mcpgw_sidecar.envoyfiles.scripts import messages
from mcpgw_sidecar.protocol.sse import SseParser
from tests.adapters.lua import Filter
from tests.property.test_laws import JSON, TEXT

LUA = LuaRuntime(encoding=None)
LUA.execute(messages("").encode())
new_walk, walk_on, own_lines = LUA.globals().new_walk, LUA.globals().walk_on, LUA.globals().own_lines
are_own = LUA.globals().are_own
IDS = st.integers(-(2**53) + 1, 2**53 - 1) | st.sampled_from(["1", "x", "é", "a/b", "😀", 'q"\\'])
KEYS = st.sampled_from(["id", "result", "error", "method", "ID", "Result", "jsonrpc", "params", "x"]) | TEXT
CUTS = st.lists(st.integers(0, 400), max_size=6)


def passes(text: bytes, ident: str, cuts: list[int] | None = None) -> bool:
    """Whether a text may go to the client of a call, in pieces that are cut there."""
    walk = new_walk()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts or ()), len(text)]
    for start, end in pairwise(edges):
        piece = text[start:end]
        if not walk_on(walk, piece, 1, len(piece), ident.encode("utf-8", "surrogatepass")):
            return False
    return True


def is_own(pairs: list[tuple[str, Any]], ident: Any) -> bool:
    """The same, as the specification of own.lua says it."""
    keys = [key for key, _ in pairs]
    if any("\\" in json.dumps(key) or key.lower() in {"id", "result", "error", "method"} - {key} for key in keys):
        return False
    if keys.count("id") > 1:
        return False
    value = dict(pairs).get("id")
    if "id" not in keys or value is None or ("method" in keys and not {"result", "error"} & set(keys)):
        return True
    return type(value) in {int, str} and type(value) is type(ident) and value == ident


def written(pairs: list[tuple[str, Any]], *, ascii_only: bool, space: str) -> str:
    dump = json.JSONEncoder(ensure_ascii=ascii_only, separators=(f"{space},{space}", f"{space}:{space}")).encode
    members = f"{space},{space}".join(f"{json.dumps(key)}{space}:{space}{dump(value)}" for key, value in pairs)
    return f"{space}{{{space}{members}{space}}}{space}"


@pytest.mark.duty("security.own-answer")
@given(st.lists(st.tuples(KEYS, JSON | IDS), max_size=5), IDS, st.booleans(), st.sampled_from(["", " ", "\n"]), CUTS)
def test_an_answer_passes_if_and_only_if_it_is_the_calls_own(
    pairs: list[tuple[str, Any]], ident: Any, ascii_only: bool, space: str, cuts: list[int]
) -> None:
    text = written(pairs, ascii_only=ascii_only, space=space).encode("utf-8", "surrogatepass")
    own = json.dumps(ident, ensure_ascii=not ascii_only)
    assert passes(text, own, cuts) == passes(text, own) == is_own(pairs, ident)


@pytest.mark.duty("security.own-answer")
@given(IDS, JSON, CUTS)
def test_every_answer_of_the_call_passes_however_deep_and_however_written(ident: Any, value: Any, cuts: list[int]) -> None:
    for key in ("result", "error"):
        for message in ({"jsonrpc": "2.0", "id": ident, key: value}, {key: {"id": value}, "id": ident}):
            for ascii_only in (True, False):
                text = json.dumps([message, message], ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
                for each in (text, text[1 : len(text) // 2]):
                    assert passes(each, json.dumps(ident), cuts)
    deep = b'{"result":' + b"[" * 5000 + b"]" * 5000 + b',"id":%b}'
    assert passes(deep.replace(b"%b", b"5"), "5")
    assert not passes(deep.replace(b"%b", b"6"), "5")


@pytest.mark.parametrize(
    "text",
    [
        b'{"id":6,"result":{}}',
        b'{"id":5,"result":{},"id":6}',
        b'{"id":5,"result":{},"Id":6}',
        b'{"id":5,"result":{},"i\\u0064":6}',
        b'{"id":5,"re\xc5\xbfult":{}}',
        b'[{"id":5,"result":{}},{"id":6,"result":{}}]',
        b'{"id":9007199254740993,"result":{}}',
        b'{"id":"5","result":{}}',
        b'{"id":[5],"result":{}}',
        '{"id":6,"result":{}}'.encode("utf-16-le"),
        b'{"id":' + b" " * 20_000 + b'5,"result":{}}',
    ],
)
def test_what_does_not_pass(text: bytes) -> None:
    assert not passes(text, "5", [len(text) // 2])


def test_ids_that_differ_in_an_escaped_backslash_are_two() -> None:
    assert passes(b'{"id":"a\\\\u0041","result":{}}', '"a\\\\u0041"')
    assert not passes(b'{"id":"a\\\\A","result":{}}', '"a\\\\u0041"')
    assert passes(b'{"id":"a\\u005cA","result":{}}', '"a\\\\A"')


FORGED = b'data: {"id":6,"result":{}}\n\n'
LONG = b"x" * (1 << 20)
WHOLE, KNOWN = Filter(messages("")), Filter(messages("stamps"))


@pytest.mark.duty("security.own-answer")
@pytest.mark.parametrize(
    "chunks",
    [
        [b"foo: x\r", b": " + LONG[2:], b"x", b"\n" + FORGED],
        [b"data: {}\n\n", b"data: " + LONG, b"y\r", b"\n\n" + FORGED],
        [b"\xef\xbb\xbf\xef\xbb\xbf" + FORGED],
        [b"\xef", b"\xbb\xbf" + FORGED],
        [b"\xef\xbb\xbf", FORGED[:3], FORGED[3:]],
        [b'data: {"jsonrpc":"2.0","id":6,\r"result":{}}\n\n'],
        [b'data: {"jsonrpc":"2.0","id":6}\n\n'],
        [b": hi\x0b" + FORGED.replace(b"\n", b"\x0b") + b"\n\n"],
        [b": hi\xe2\x80\xa8" + FORGED.replace(b"\n", b"\xe2\x80\xa8") + b"\n\n"],
        [b"data: {\x0b\x0b" + FORGED.replace(b"\n", b"\x0b") + b"\n\n"],
        [b"data: []" + FORGED[6:]],
        [b": " + LONG, b"\x0b\x0b" + FORGED[:-2] + b"\x0b\x0b", b"\n\n"],
        [b'data: "\n', b"\n", FORGED],
        [b'data: "\r\n', b"\r\n", FORGED],
        [b'data: "\n', b": id: x\n\n", FORGED],
        [b'data: "\\\x0b' + FORGED],
        [b'data: "\\\x0b' + FORGED[:-2] + b"\x0b\x0b\n\n"],
        ['data: "\\\u2028'.encode() + FORGED[:-2] + "\u2028\u2028\n\n".encode()],
        ['data: "\\\x85'.encode() + FORGED[:-2] + "\x85\x85\n\n".encode()],
    ],
    ids=lambda chunks: str(chunks[0][:30]),
)
@pytest.mark.parametrize("kind", ["text/event-stream", "text/event-stream; charset=utf-7"])
@pytest.mark.parametrize("known", [{}, {"x-mcp-id": "5"}], ids=["a miss", "a hit"])
def test_ways_past_it_that_were_found(chunks: list[bytes], kind: str, known: dict[str, str]) -> None:
    """Each reached a waiting call: lines end at LF alone for Go, at more for others."""
    filtering = KNOWN if known else WHOLE
    metadata = filtering.table({"mcpgw": {"id": "5", "session": "token ns/one:ticket"}})
    answer = filtering.response({":status": "200", "content-type": kind, **known}, [*chunks, OWN, b""], metadata)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body.endswith(OWN)
    text = answer.body.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    for lines in (text.split("\n"), text.replace("\r", "\n").split("\n"), text.splitlines()):
        data = [line[5:].strip() for line in lines if line.startswith("data:")]
        assert not [each for each in data if re.search(r'"id":\s*6', each) and each.endswith("}")]


@pytest.mark.parametrize("ident", ["5", "5" * 257], ids=["a call", "one that cannot be resumed"])
@pytest.mark.parametrize("cut", [b'data: {"method":"notifications/tools/list_changed"}', b"id: 7"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
def test_a_line_that_is_taken_away_does_not_end_the_event(end: bytes, cut: bytes, ident: str) -> None:
    """What stands behind it would be an event of its own."""
    metadata = STREAMING.table({"mcpgw": {"id": ident, "session": "token ns/one:ticket"}})
    head = {":status": "200", "content-type": "text/event-stream", "x-mcp-id": ident}
    stream = end.join([b'data: {"x":[', cut, FORGED[:-2], b"", b""])
    answer = STREAMING.response(head, [stream, b""], metadata)
    assert b'{"id":6' in answer.body, "it is no message here"
    assert [event.data for event in SseParser(1 << 20).feed(answer.body)] == ['{"x":[\n{"id":6,"result":{}}']


def test_ends_of_lines_stay_and_a_last_line_without_one_goes_out() -> None:
    metadata = WHOLE.table({"mcpgw": {"id": "5", "session": "token ns/one:ticket"}})
    head = {":status": "200", "content-type": "text/event-stream"}
    stream = b': a\r\ndata: {"id":5,"result":{}}\r\n\r\n'
    for cut in range(len(stream)):
        out = WHOLE.response(head, [stream[:cut], stream[cut:], b""], metadata).body
        assert out == stream
    out = WHOLE.response(head, [b'data: {"id":5,"result":{}}\r\rdata: {"id":5,"result":1}', b""], metadata).body
    assert out == b'data: {"id":5,"result":{}}\n\ndata: {"id":5,"result":1}'
    line = b'data: {"id":5,"result":{}}\n\n'
    for cut in range(len(line)):  # an empty chunk that is not the last, as HTTP/2 has them
        for second in range(cut, len(line)):
            pieces = [line[:cut], b"", line[cut:second], b"", line[second:], b""]
            assert WHOLE.response(head, pieces, metadata).body == line


def through(stream: bytes) -> bytes:
    """The lines of a stream that reach the client of the call 5."""
    lines, out = own_lines(b"5"), b""
    for line in re.findall(rb"[^\r\n]*[\r\n]", stream):
        out += b"".join(reversed(lines.whole(line)))
    return out


OWN = b'data: {"id":5,"result":{}}\n\n'
FOREIGN = b'{"id":6,"result":{}}'


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + FOREIGN + b"\n\n",
        b"data:" + FOREIGN + b"\r\n\r\n",
        b'data: {"id":6,\ndata: "result":{}}\n\n',
        b'data: {"id":6,\n: a comment\nevent: message\ndata: "result":{}}\nevent: message\n\n',
        b"data: " + FOREIGN + b"\r\r",
    ],
)
def test_an_event_for_another_call_is_none(stream: bytes) -> None:
    """Clients dispatch no event without data, and none of a type that they do not know."""
    out = through(OWN + stream + OWN)
    assert out.startswith(OWN)
    assert out.endswith(OWN)
    assert b'"result":{}}' not in out.removeprefix(OWN).removesuffix(OWN)
    assert out.count(b"event: dropped") == 1


def test_lines_for_clients_that_end_lines_elsewhere() -> None:
    """Old httpx-sse splits lines as str.splitlines does: an event could begin within a string."""
    hidden = json.dumps({"id": 5, "result": "\u2028\u2029\u0085"}, ensure_ascii=False).encode()
    out = through(b"data: " + hidden + b"\n\n")
    assert len(out.decode().splitlines()) == 2
    assert json.loads(out.removeprefix(b"data: ")) == json.loads(hidden)
    assert through(b'data: {"id":5,"result":"\x0b\x0bdata: x"}\n\n') == b"event: dropped\n\n"


OURS = {"jsonrpc": "2.0", "id": 5, "result": {"id": 6}}
PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"x": "\u2028"}}
THEIRS = [
    {"jsonrpc": "2.0", "id": 6, "result": {"id": 5}},
    {"id": 5, "result": {}, "ID": 6},
    {"jsonrpc": "2.0", "id": 6, "error": {"code": 1, "message": "y" * 90}},
]
SPLITS = st.lists(st.integers(0, 80), max_size=2)
NOISE = st.lists(
    st.sampled_from([b': "{', b"event: message", b"event: other", b"retry: 5", b"data", b"datax: {"]), max_size=2
)
EVENTS = st.tuples(st.sampled_from([OURS, PROGRESS, *THEIRS]), SPLITS, NOISE, NOISE)
STREAMING, UNKNOWN = (
    Filter(messages(stamps).replace("local LIMIT = 1048576", "local LIMIT = 60")) for stamps in ("stamps", "")
)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def test_the_usual_stream_passes_without_a_question() -> None:
    """Without what is known of the call, which costs as much as the look itself."""
    head = {":status": "200", "content-type": "text/event-stream", "x-mcp-id": "5"}
    for event in (OWN, b'event: message\r\ndata: {"result":{"text":"uuid: 7"},"jsonrpc":"2.0","id":5}\r\n\r\n'):
        answer = STREAMING.response(head, [event, event + event, b""], STREAMING.table({}))
        assert answer.body == event * 3
        assert "x-mcp-id" not in answer.headers


LINES = [
    *(b"data: " + json.dumps(each, ensure_ascii=False).encode() for each in (OURS, PROGRESS, *THEIRS)),
    *(b"event: message", b": \x0b", b'data: "', b"data: {", b'data: "id":6,', b'data: "result":1}'),
]
ENDED = st.tuples(
    st.sampled_from([LINES[0], b"", *LINES]), st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r"])
).map(b"".join)
STREAM = st.lists(ENDED, max_size=8).map(b"".join)


@given(STREAM)
def test_what_passes_as_a_whole_passes_line_by_line(stream: bytes) -> None:
    if are_own(stream, b"5"):
        assert through(stream) == stream


@pytest.mark.duty("security.own-answer")
@pytest.mark.parametrize("known", [{}, {"x-mcp-id": "5"}], ids=["a miss", "a hit"])
@example(events=[(THEIRS[0], [], [], [])], end=b"\n", cuts=[1, 1], mark=b"")
@example(events=[(THEIRS[0], [], [], [])], end=b"\n", cuts=[2, 2], mark=b"\xef\xbb\xbf")
@given(
    events=st.lists(EVENTS, max_size=5),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=CUTS,
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_no_stream_brings_a_client_the_answer_to_another_call(
    events: list[tuple[Any, list[int], list[bytes], list[bytes]]],
    end: bytes,
    cuts: list[int],
    mark: bytes,
    known: dict[str, str],
) -> None:
    """Whatever its lines are, and however it arrives; and it brings all that is the call's own."""
    stream, wanted = mark, []
    for message, splits, before, behind in events:
        data = [b"data: " + piece for piece in pieces_of(json.dumps(message).encode(), splits)]
        stream += end.join([*before, *data, *behind]) + end + end
        names = [line for line in before + behind if line.startswith(b"event")]
        if not splits and message in (OURS, PROGRESS) and names[-1:] != [b"event: other"]:
            wanted.append(message)
    filtering = STREAMING if known else UNKNOWN
    metadata = filtering.table({"mcpgw": {"id": "5", "session": "token ns/one:ticket"}})
    head = {":status": "200", "content-type": "Text/Event-Stream", **known}
    out = filtering.response(head, [*pieces_of(stream, cuts), b""], metadata).body
    seen = []
    for event in SseParser(1 << 20).feed(out):
        with suppress(ValueError):
            seen += [json.loads(event.data)] if event.name == "message" else []
    assert not [message for message in seen if message in THEIRS]
    assert [seen.count(message) >= wanted.count(message) for message in (OURS, PROGRESS)] == [True, True]
