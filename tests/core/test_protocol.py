from __future__ import annotations

import json

import pytest

from mcpgw_sidecar.inbound.eras import Era, era_of
from mcpgw_sidecar.inbound.guard import LOOPBACK, Guard, host_name
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.protocol.headers import is_header_value, value_of
from mcpgw_sidecar.protocol.owners import hearing_text, read_hearing
from mcpgw_sidecar.protocol.passing import brought_text, changes, for_server, passed_text, read_forwarded
from mcpgw_sidecar.protocol.sse import Event, SseError, SseParser, event_bytes, one_line
from mcpgw_sidecar.protocol.versions import LATEST_STATEFUL, STATEFUL, negotiate, next_version


@pytest.mark.duty("transport.version-400")
@pytest.mark.parametrize("version", [None, *STATEFUL])
def test_stateful_versions(version: str | None) -> None:
    assert era_of(version) is Era.STATEFUL


@pytest.mark.duty("transport.version-400")
@pytest.mark.parametrize("version", ["2026-07-28", "2024-11-05", "", "x"])
def test_other_versions_are_told_what_is_spoken_here(version: str) -> None:
    refused = era_of(version)
    assert isinstance(refused, Reject)
    assert (refused.status, refused.code) == (400, -32022)
    assert refused.data == {"supported": list(STATEFUL), "requested": version}


@pytest.mark.duty("session.version")
@pytest.mark.parametrize(
    ("asked", "answered"), [(v, v) for v in STATEFUL] + [("2030-01-01", LATEST_STATEFUL), (None, LATEST_STATEFUL)]
)
def test_negotiation(asked: str | None, answered: str) -> None:
    assert negotiate(asked) == answered


GUARD = Guard(hosts=LOOPBACK | {"gw.example", "*.sub.example"}, origins=frozenset({"https://app.example"}))


@pytest.mark.duty("security.host-421", "security.origin-403")
@pytest.mark.parametrize(
    ("authority", "origin", "status"),
    [
        ("localhost:8888", None, None),
        ("127.0.0.1", None, None),
        ("[::1]:8888", None, None),
        ("GW.example.", None, None),
        ("a.sub.example:1", None, None),
        ("sub.example", None, 421),
        ("evil.example", None, 421),
        ("", None, 421),
        ("[", None, 421),
        ("evil.example:80", "https://app.example", 421),
        ("localhost:8888", "http://localhost:6274", None),
        ("localhost:8888", "http://127.0.0.1:6274", None),
        ("gw.example", "https://gw.example", None),
        ("gw.example", "https://app.example", None),
        ("gw.example", "https://evil.example", 403),
        ("localhost:8888", "http://evil.example", 403),
        ("localhost:8888", "null", 403),
        ("localhost:8888", "", 403),
        ("gw.example", "http://localhost", 403),
    ],
)
def test_who_may_ask(authority: str, origin: str | None, status: int | None) -> None:
    refused = GUARD.refuses(authority, origin)
    assert (refused.status if refused else None) == status


def test_a_guard_can_be_open() -> None:
    assert Guard(hosts=frozenset({"*"}), origins=frozenset({"*"})).refuses("any.example", "https://other.example") is None


def test_host_names() -> None:
    assert host_name("A.example:80") == "a.example"
    assert host_name("[::1]:80") == "::1"
    for bad in ("[bad", "evil.example@127.0.0.1", "127.0.0.1:abc", "127.0.0.1:99999", "127.0.0.1:0"):
        assert host_name(bad) == ""


@pytest.mark.duty("header.to-server")
def test_the_gateways_own_requests_say_of_the_client_what_its_server_may_know() -> None:
    sent = {
        ":authority": "gw",
        "host": "gw",
        "authorization": "Bearer t",
        "cookie": "a=b",
        "x-tenant": " a",
        "user-agent": "c",
        "traceparent": "00-1",
        "mcp-session-id": "secret",
        "mcp-protocol-version": "2025-06-18",
        "mcp-method": "tools/call",
        "connection": "keep-alive",
        "content-length": "5",
        "content-type": "application/json",
        "accept": "*/*",
        "x-mcp-servername": "forged",
        "x-envoy-attempt-count": "1",
        "x-forwarded-for": "1.2.3.4",
        "origin": "http://x",
        "sec-fetch-mode": "cors",
    }
    assert for_server(sent, ()) == {"user-agent": "c", "traceparent": "00-1"}
    wanted = read_forwarded(["Authorization", {"name": "x-tenant", "as": "X-Org"}, {"name": "x-other", "required": True}])
    assert for_server(sent, wanted) == {"user-agent": "c", "traceparent": "00-1", "authorization": "Bearer t", "x-org": "a"}
    assert passed_text(wanted) == "authorization=authorization x-tenant=x-org x-other!=x-other"
    assert passed_text(()) == "-"
    odd = sent | {
        "transfer-encoding": "chunked",
        "transfer-encoding-x": "s",
        "mcp-param-a": "1",
        "x-forwarded-proto": "http",
    }
    lost, given = changes(odd, wanted)
    assert set(lost) == {
        *("host", "authorization", "cookie", "x-tenant", "connection", "x-forwarded-for", "origin", "sec-fetch-mode"),
        "transfer-encoding-x",
    }
    assert given == {"authorization": "Bearer t", "x-org": " a"}
    assert brought_text(sent, wanted) == "Bearer t\n a\n"


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("authorization", "must be a list"),
        ([7], "cannot be used"),
        ([{"as": "x"}], "cannot be used"),
        ([{"name": "x", "required": "yes"}], "cannot be used"),
        ([{"name": "x", "when": "always"}], "cannot be used"),
        (["x y"], "letters, digits and -"),
        (["x_y"], "letters, digits and -"),
        ([{"name": "x", "as": "y" * 101}], "at most 100"),
        (["x", "X"], "x stands there twice"),
        (["x", {"name": "y", "as": "x"}], "x stands there twice"),
        *(([name], "cannot be forwarded") for name in ("host", "Content-Length", "te", "x-mcp-toolname", "mcp-session-id")),
        *(([name], "cannot be forwarded") for name in ("origin", "accept", "x-envoy-retry-on", "proxy-authorization")),
    ],
)
def test_what_cannot_be_forwarded(value: object, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_forwarded(value)


def test_what_a_header_can_carry() -> None:
    assert is_header_value("Bearer x y")
    for text in ("", " x", "x ", "a\nb", "é", "\x7f"):
        assert not is_header_value(text)


@pytest.mark.duty("header.names")
def test_names_as_header_values() -> None:
    assert value_of("\ud800") == "?"
    assert len(value_of("x" * 100_000)) == 8192
    assert value_of("test_greet") == "test_greet"
    assert value_of("größe\r\n") == "gr%C3%B6%C3%9Fe%0D%0A"
    assert value_of("a%41") == "a%2541"


STREAM = (
    b"\xef\xbb\xbf: comment\n\ndata: one\n\nevent: message\r\nid: 7\r\ndata:two\r\ndata:  lines\r\n\r\n"
    b"data\n\nretry: 5\nid: bad\0id\nid: 8\rdata: three\r\runfinished"
)
EVENTS = [
    Event("one"),
    Event("two\n lines", "message", "7"),
    Event("", "message", "7"),
    Event("three", "message", "8"),
]


def test_events_whole_and_byte_by_byte() -> None:
    assert SseParser(1000).feed(STREAM) == EVENTS
    parser = SseParser(1000)
    assert [event for byte in STREAM for event in parser.feed(bytes([byte]))] == EVENTS


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 100, b"data: xxxxxxxxxx\n" * 20])
def test_an_event_over_the_limit_ends_the_stream(chunk: bytes) -> None:
    with pytest.raises(SseError, match="larger"):
        SseParser(50).feed(chunk)


def test_an_event_that_is_not_text_ends_the_stream() -> None:
    with pytest.raises(SseError, match="UTF-8"):
        SseParser(50).feed(b"data: \xff\n\n")


def test_our_own_event_is_one() -> None:
    assert SseParser(100).feed(event_bytes(b'{"a":1}')) == [Event('{"a":1}')]


def test_a_message_over_several_lines_is_made_one() -> None:
    text = '{\r\n "a": "\\n"\n}'
    assert json.loads(one_line(text)) == json.loads(text)
    assert b"\n" not in one_line(text)
    assert b"\r" not in one_line(text)
    ends = json.dumps("a\x85b\u2028c\u2029\\d", ensure_ascii=False)
    assert json.loads(one_line(ends)) == json.loads(ends)
    assert one_line(ends).isascii(), "some clients end a line at these characters"


@pytest.mark.parametrize(
    ("event_id", "expected"),
    [
        ("", ({}, "")),
        ("s.1.state", ({}, "")),
        ("s.1.state.", ({}, "")),
        ("s.1.state.ns/one:t1,a.b/c.d:t2,broken", ({"ns/one": "t1", "a.b/c.d": "t2"}, "")),
        ("s.1.state.ns/one:t1,:sealed", ({"ns/one": "t1"}, "sealed")),
        ("s.1.state.:sealed", ({}, "sealed")),
        ("mcpgw:ns/one:t:1", ({}, "")),
    ],
)
def test_an_events_id_says_which_servers_were_heard(event_id: str, expected: tuple[dict[str, str], str]) -> None:
    assert read_hearing(event_id) == expected


def test_an_events_id_is_no_longer_than_a_header_may_be() -> None:
    one = {ServerName("ns/one"): "t" * 3000}
    for tickets, wishes, expected in (
        (one, "w" * 900, (one, "w" * 900)),
        (one, "w" * 1100, (one, "")),
        ({ServerName("ns/one"): "t" * 5000}, "w", ({}, "")),
    ):
        assert read_hearing(f"s.1.state.{hearing_text(tickets, wishes)}") == expected


@pytest.mark.parametrize(
    ("tried", "supported", "expected"),
    [
        (["2025-11-25"], ["2025-03-26", "2025-06-18", "2030-01-01"], "2025-06-18"),
        (["2025-11-25"], ["2025-03-26"], "2025-03-26"),
        (["2025-11-25"], None, "2025-06-18"),
        (["2025-11-25"], ["1999-01-01"], "2025-06-18"),
        (["2025-11-25"], "2025-03-26", "2025-06-18"),
        (["2025-03-26"], None, "2025-11-25"),
        (["2025-11-25", "2025-06-18", "2025-03-26"], ["2025-03-26"], None),
    ],
)
def test_the_next_version_to_ask_a_server_for(tried: list[str], supported: object, expected: str | None) -> None:
    assert next_version(tried, supported) == expected
