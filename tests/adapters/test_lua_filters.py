"""The assembled Lua filters, run against a handle like Envoy's and the router's own answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from mcpgw_sidecar.envoy import contract
from mcpgw_sidecar.envoy.contract import Keep, list_mark
from mcpgw_sidecar.envoyfiles.scripts import messages, script
from mcpgw_sidecar.extproc import codec
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Forward, HttpRequest
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.gzipped import gzip_around, packed
from mcpgw_sidecar.protocol.jsonrpc import around_result
from tests.adapters.lua import Exchange, Filter, plain

FOREVER = 1 << 40
BOUNDS = "= 10000, 50000, 1000, 512 --"
AGAIN = str(contract.AGAIN)
STAMP = "0123456789abcdef"
HEADERS = {
    ":method": "POST",
    ":path": "/mcp",
    ":authority": "gateway:8888",
    "content-type": "application/json",
    "accept": h.BOTH,
    "mcp-session-id": "token",
    "mcp-protocol-version": "2025-11-25",
}
SESSION = Session(
    key="key",
    expires=FOREVER,
    protocol_version="2025-06-18",
    client_info=JsonText("{}"),
    capabilities=JsonText("{}"),
)
SERVER = Server(name=ServerName("ns/one"), url="http://one/there", hostname="one", tool_prefix="one_")


def call(name: str = "one_greet", ident: str = "7") -> bytes:
    return f'{{"jsonrpc":"2.0","id":{ident},"method":"tools/call","params":{{"name":"{name}"}}}}'.encode()


def listing(ident: str = "7") -> bytes:
    return f'{{"jsonrpc":"2.0","id":{ident},"method":"tools/list"}}'.encode()


class Memo(Filter):
    """A filter with the file of stamps, and the router and the broker behind it."""

    def __init__(self, directory: Path, bounds: str = BOUNDS) -> None:
        self.stamps = directory / "stamps"
        self.change(STAMP)
        source = messages(str(self.stamps))
        assert BOUNDS in source
        super().__init__(source.replace(BOUNDS, bounds))

    def change(self, stamp: str) -> None:
        """Put another stamp into every slot; the file's length says so."""
        turns = self.stamps.stat().st_size % 16 + 1 if self.stamps.exists() else 0
        self.stamps.write_bytes(stamp.encode() * 4 + bytes(turns))

    def decided(self, headers: Mapping[str, str], body: bytes, status: str = "200", **more: Any) -> str:
        """A call and its answer; what the lookup was."""
        metadata = self.metadata()
        request = self.request(headers, body, metadata)
        before = metadata[b"mcpgw"]
        if request.headers.get(h.X_SERVER):
            return "hit"
        lookup = str(before[b"lookup"].decode())
        if lookup == "miss":
            name = json.loads(body)["params"]["name"]
            values = {
                "server": SERVER,
                "kind": TOOL,
                "key": name,
                "method": "tools/call",
                "id": JsonText("7"),
                "session": SESSION,
                "session_id": "upstream",
                "protocol_version": "2025-06-18",
                "owner": "ns/one:ticket",
                "body": body,
                "sent_key": JsonText('"greet"'),
            }
            decision = Forward(**(values | more))
            keep = Keep(request=HttpRequest(headers=dict(headers), body=body), slot=1, stamp=STAMP)
            fields = MessageToDict(codec.encode(decision, keep.request, keep=keep).dynamic_metadata)
            metadata[b"mcpgw"] = self.table(fields["mcpgw"])
            self.response({":status": status, "content-type": h.JSON, h.X_MEMO: h.KEPT}, [], metadata)
        return lookup

    def listed(self, headers: Mapping[str, str], body: bytes, answer: bytes, **more: str) -> Exchange:
        """A request for a list; what the broker says to it, unless the filter answers."""
        metadata = self.metadata()
        request = self.request(headers, body, metadata)
        if request.answer is None:
            mark = list_mark(1, STAMP, FOREVER, None)
            size = {"content-length": str(len(answer)), "content-type": h.JSON}
            self.response({":status": "200", h.X_MEMO: mark, **size, **more}, [answer], metadata)
        return request


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path)


def test_a_decision_is_repeated_with_the_headers_of_the_router(memo: Memo) -> None:
    headers = HEADERS | {
        "origin": "http://localhost",
        h.X_VIRTUAL: "ns/some",
        "accept-encoding": "gzip",
        "authorization": "x",
    }
    assert memo.decided(headers, call()) == "miss"
    metadata = memo.metadata()
    again = memo.request(headers, call(ident='"é"'), metadata)
    assert again.headers == {
        ":method": "POST",
        ":path": "/there",
        ":authority": "one",
        "content-type": "application/json",
        "accept": h.BOTH,
        "authorization": "x",
        "mcp-session-id": "upstream",
        "mcp-protocol-version": "2025-06-18",
        h.X_SERVER: "ns/one",
        h.X_METHOD: "tools/call",
        h.X_TOOL: "one_greet",
    }
    assert json.loads(again.body) == {"jsonrpc": "2.0", "id": "é", "method": "tools/call", "params": {"name": "greet"}}
    assert metadata[b"mcpgw"][b"id"].decode() == '"é"'
    assert metadata[b"mcpgw"][b"session"] == b"token ns/one:ticket"


@pytest.mark.parametrize("name", [*contract.DEPENDS, *contract.PERSONAL, contract.ACCEPTED, h.SESSION])
def test_it_depends_on_each_header_of_the_contract(memo: Memo, name: str) -> None:
    assert memo.decided(HEADERS, call()) == "miss"
    assert memo.decided(HEADERS, call()) == "hit"
    assert memo.decided(HEADERS | {name: "another"}, call()) == "miss"
    without = {header: value for header, value in HEADERS.items() if header != name}
    if without != HEADERS:
        assert memo.decided(without, call()) == "miss"


def test_a_header_that_is_added_to_the_contract_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a change in Lua."""
    monkeypatch.setattr(contract, "DEPENDS", (*contract.DEPENDS, "x-tenant"))
    memo = Memo(tmp_path)
    ours = HEADERS | {"x-tenant": "ours"}
    assert [memo.decided(ours, call()) for _ in range(2)] == ["miss", "hit"]
    assert [memo.decided(HEADERS | {"x-tenant": "theirs"}, call()) for _ in range(2)] == ["miss", "hit"]
    assert memo.decided(HEADERS, call()) == "miss"
    assert memo.listed(ours, listing(), b'{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}').answer is None
    assert memo.listed(ours, listing(), b"").answer is not None
    assert memo.listed(HEADERS, listing(), b"").answer is None


@pytest.mark.parametrize("accept", [None, "*/*"])
def test_servers_are_told_that_both_types_are_taken(memo: Memo, accept: str | None) -> None:
    headers = {name: value for name, value in HEADERS.items() if name != "accept"} | ({"accept": accept} if accept else {})
    assert [memo.decided(headers, call()) for _ in range(2)] == ["miss", "hit"]
    assert memo.request(headers, call(), memo.metadata()).headers["accept"] == h.BOTH


def test_a_list_is_everybodys_who_sees_the_same(memo: Memo) -> None:
    """Whatever their credentials are; but a client's new ones are told to the broker first."""
    page = b'{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}'
    mine = [HEADERS | {"authorization": f"Bearer {number}"} for number in range(2)]
    other = HEADERS | {"mcp-session-id": "other", "authorization": "Bearer 9"}
    assert memo.listed(mine[0], listing(), page).answer is None
    assert memo.listed(mine[0], listing(), b"").answer is not None
    assert memo.listed(other, listing(), page, **{h.SESSION: "other"}).answer is None
    assert memo.listed(mine[1], listing(), page).answer is None
    assert memo.listed(mine[1], listing(), b"").answer is not None
    assert memo.listed(mine[0], listing(), page).answer is None


def test_it_holds_as_long_as_its_stamp_stands(memo: Memo) -> None:
    assert [memo.decided(HEADERS, call()) for _ in range(2)] == ["miss", "hit"]
    memo.change(STAMP[:8] + "ffffffff")
    assert memo.decided(HEADERS, call()) == "miss"


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS | {":path": "/mcp?x=1"},
        HEADERS | {"origin": "http://localhost,http://evil"},
        HEADERS | {":authority": "g" * 600},
        HEADERS | {"mcp-session-id": "t" * 8193},
        HEADERS | {"authorization": "t" * 4097},
    ],
    ids=["query", "a header twice", "a long place", "a long token", "a long credential"],
)
def test_what_only_fills_memory_is_not_kept(memo: Memo, headers: dict[str, str]) -> None:
    assert [memo.decided(headers, call()) for _ in range(2)] == ["miss", "miss"]


def test_an_answer_that_is_no_success_brings_no_entry(memo: Memo) -> None:
    assert [memo.decided(HEADERS, call(), status="500") for _ in range(2)] == ["miss", "miss"]
    assert memo.decided(HEADERS, call(), sent_key=None, session_id=None) == "miss"
    again = memo.request(HEADERS, call(), memo.metadata())
    assert h.SESSION not in again.headers
    assert again.body == call()


@pytest.mark.parametrize("status", [str(status) for status in contract.FORGOTTEN])
def test_a_session_that_its_server_refuses_is_not_relied_on(memo: Memo, status: str) -> None:
    assert [memo.decided(HEADERS, call()) for _ in range(2)] == ["miss", "hit"]
    metadata = memo.metadata()
    memo.request(HEADERS, call(), metadata)
    memo.response({":status": status}, [], metadata)
    assert memo.decided(HEADERS, call()) == "miss"


def test_the_oldest_sessions_make_room(tmp_path: Path) -> None:
    """Two generations of 100: an entry found in the older one moves to the newer one."""
    memo = Memo(tmp_path, "= 100, 50000, 1000, 512 --")
    memo.decided(HEADERS, call())
    for number in range(100):
        memo.decided(HEADERS | {"mcp-session-id": f"a{number}"}, call())
    assert memo.decided(HEADERS, call()) == "hit", "the older generation is still there"
    for number in range(99):
        memo.decided(HEADERS | {"mcp-session-id": f"b{number}"}, call())
    assert memo.decided(HEADERS, call()) == "hit", "it was moved"
    assert memo.decided(HEADERS | {"mcp-session-id": "a5"}, call()) == "miss"


@pytest.mark.parametrize("what", ["tools", "views"])
def test_tools_and_views_are_bounded(tmp_path: Path, what: str) -> None:
    memo = Memo(tmp_path, "= 10000, 30, 30, 512 --")

    def decide(number: int) -> str:
        host = {":authority": f"host-{number}"} if what == "views" else {}
        return memo.decided(HEADERS | host, call(f"one_{number}" if what == "tools" else "one_greet"))

    for number in range(30):
        assert decide(number) == "miss"
    assert decide(29) == "hit"
    assert decide(30) == "miss"
    assert decide(1) == "miss", "all of it made room"
    assert decide(1) == "hit"


def test_lists_are_answered_around_another_id_and_bounded(memo: Memo) -> None:
    page = json.dumps({"tools": [{"name": "one_greet"}]}).encode()
    before, behind = around_result(JsonText("1"))
    assert memo.listed(HEADERS, listing("1"), before + page + behind).answer is None
    answer = memo.listed(HEADERS, listing('"x"'), b"").answer
    assert answer is not None
    assert json.loads(answer[1]) == {"jsonrpc": "2.0", "id": "x", "result": json.loads(page)}
    assert answer[0] == {":status": "200", "content-type": "application/json"}
    large = before + b'{"tools":["%b"]}' % (b"x" * 900_000) + behind
    for number in range(19):  # 16 MiB hold 18
        cursor = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"c%d"}}' % number
        assert memo.listed(HEADERS, cursor, large).answer is None
        assert memo.listed(HEADERS, cursor, large).answer is not None
    assert memo.listed(HEADERS, listing(), before + page + behind).answer is None, "all lists made room"


def test_a_large_list_is_given_in_gzip_to_who_got_it_so(memo: Memo) -> None:
    body = packed(b'{"tools":[%b]}' % (b'"x",' * 9000 + b'"y"'))
    headers, metadata = HEADERS | {"accept-encoding": "gzip, br"}, memo.metadata()
    before, behind = around_result(JsonText("1"))
    answer = gzip_around(before, body, behind)
    memo.request(headers, listing("1"), metadata)
    size = {"content-length": str(len(answer)), "content-encoding": "gzip"}
    memo.response({":status": "200", h.X_MEMO: list_mark(1, STAMP, FOREVER, body), **size}, [answer], metadata)
    again = memo.request(headers, listing('"x"'), memo.metadata()).answer
    assert again is not None
    assert again[1] == gzip_around(around_result(JsonText('"x"'))[0], body, behind)
    assert again[0]["content-encoding"] == "gzip"
    assert memo.request(HEADERS | {"accept-encoding": "br"}, listing(), memo.metadata()).answer is None


def test_without_a_file_an_entry_lives_for_a_moment() -> None:
    memo = Memo.__new__(Memo)
    Filter.__init__(memo, messages(""))
    assert memo.decided(HEADERS, call()) == "miss"
    assert memo.decided(HEADERS, call()) == "hit"
    memo.now = 999
    assert memo.decided(HEADERS, call()) == "hit"
    memo.now = 1000
    assert memo.decided(HEADERS, call()) == "miss"
    assert h.X_SERVER not in memo.request(HEADERS, listing(), memo.metadata()).headers, "the router sees lists"


def test_what_is_odd_is_declined_or_left_alone(memo: Memo) -> None:
    assert memo.decided(HEADERS, b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\\u0061me":"x"}}') == "declined"
    for headers, body in ((HEADERS | {":method": "PUT"}, call()), (HEADERS, b""), (HEADERS, call("x" * 70_000))):
        metadata = memo.metadata()
        assert memo.request(headers, body, metadata).headers == headers
        assert metadata[b"mcpgw"] is None


def refusal(status: str, body: bytes = b"", **headers: str) -> tuple[Exchange, dict[str, Any]]:
    """A server's first answer to a call in a session, and the metadata afterwards."""
    refused = Filter(script("refused"))
    metadata = refused.table({"mcpgw": {"id": "7", "session": "token ns/one:ticket"}})
    given = {":status": status, "content-type": "application/json", **headers}
    return refused.response(given, [body], metadata), plain(metadata)


def again(before: Any, answer: Any, **headers: str) -> tuple[Exchange, dict[str, Any]]:
    """The second attempt at a call, with the sidecar's answer to the question about its session."""
    heal = Filter(script("heal"))
    metadata = heal.table(before)
    sent = HEADERS | {"mcp-session-id": "upstream", h.X_SERVER: "ns/one", h.ATTEMPT: "2", "content-length": "9"}
    return heal.request(sent | headers, b"", metadata, heal.table(answer)), plain(metadata)


@pytest.mark.parametrize("status", [str(status) for status in contract.FORGOTTEN])
def test_a_call_whose_session_may_be_forgotten_is_tried_again(status: str) -> None:
    assert refusal(status)[0].headers[":status"] == AGAIN
    second = Filter(script("refused"))
    _, metadata = refusal(status)
    assert second.response({":status": status}, [], second.table(metadata)).headers[":status"] == status, "once"
    for session in (" ns/one:ticket", ""):
        nobody = second.table({"mcpgw": {"session": session}})
        assert second.response({":status": status}, [], nobody).headers[":status"] == status, "no session to heal"


def test_a_server_cannot_ask_for_another_attempt(memo: Memo) -> None:
    assert refusal(AGAIN)[0].headers[":status"] == "500"
    _, metadata = refusal("404")
    exchange = memo.response({":status": AGAIN, "content-type": h.JSON}, [b"{}"], memo.table(metadata))
    assert json.loads(exchange.body)["error"]["data"]["status"] == 404, "Envoy made no other attempt"


def test_a_second_attempt_gets_a_session_that_lives(memo: Memo) -> None:
    assert [memo.decided(HEADERS, call()) for _ in range(2)] == ["miss", "hit"]
    _, metadata = refusal("404")
    sent, metadata = again(metadata, [{":status": "200", h.X_OWNER: "ns/one:new"}, "new"])
    assert sent.headers["mcp-session-id"] == "new"
    assert h.ATTEMPT not in sent.headers
    assert sent.question == {
        ":method": "POST",
        ":path": contract.HEAL_PATH,
        ":authority": "localhost",
        "content-type": "application/json",
        "accept": h.BOTH,
        "mcp-protocol-version": "2025-11-25",
        "mcp-session-id": "upstream",
        h.X_SERVER: "ns/one",
        h.X_SESSION: "token",
        h.X_OWNER: "ns/one:ticket",
        "limit": str(int(1000 * timeouts.healing())),
    }
    assert metadata["mcpgw"]["session"] == "token ns/one:new"
    heal = Filter(script("heal"))
    marked = heal.response({":status": "200", "content-type": h.JSON}, [], heal.table(metadata))
    assert marked.headers[h.X_MEMO] == h.KEPT
    left = memo.response(marked.headers, [], memo.table(metadata))
    assert left.headers == {":status": "200", "content-type": h.JSON}
    assert memo.decided(HEADERS, call()) == "miss", "the session that was replaced is not relied on"
    third, _ = again(metadata, [{":status": "404"}, ""], **{h.ATTEMPT: "3"})
    assert (third.question, third.answer) == (None, None), "its connection broke: it goes out once more"


@pytest.mark.parametrize("session", [{}, {"mcp-session-id": ""}], ids=["it lives", "there is none"])
def test_nothing_is_sent_twice_to_a_session_that_lives(session: dict[str, str]) -> None:
    _, metadata = refusal("400", b'{"a":1}')
    sent, _ = again(metadata, [{":status": "404"}, ""], **session)
    assert sent.answer == ({":status": "400", "content-type": "application/json"}, b'{"a":1}')


def test_another_attempt_without_an_answer_before_is_left_alone() -> None:
    heal = Filter(script("heal"))
    for attempt in ("1", "2"):
        for metadata in ({}, {"mcpgw": {"session": " ns/one:ticket"}}, {"mcpgw": {"id": "1"}}):
            sent = heal.request({h.ATTEMPT: attempt, h.X_MEMO: h.KEPT}, b"", heal.table(metadata))
            assert (sent.question, sent.answer) == (None, None)
            assert h.X_MEMO not in sent.headers


def answered(
    memo: Memo, status: str, body: bytes = b"", *, session: str = "token ns/one:ticket", ident: str = "7", **headers: str
) -> tuple[Exchange, str]:
    """What a client gets of a server's answer, and the reason for the log."""
    metadata = memo.table({"mcpgw": {"id": ident, "session": session}})
    given = {":status": status, "content-type": "application/json", "content-length": str(len(body)), **headers}
    exchange = memo.response(given, [body] if body else [b""], metadata)
    return exchange, (metadata[b"mcpgw"][b"failed"] or b"").decode()


@pytest.mark.parametrize(
    ("status", "reason"),
    [("500", "BadAnswer"), ("404", "BadAnswer"), ("401", "Unauthorized"), ("403", "Unauthorized"), ("307", "Redirect")],
)
def test_a_servers_failure_costs_no_session(memo: Memo, status: str, reason: str) -> None:
    exchange, logged = answered(memo, status, b"<html>", **{"www-authenticate": "Bearer", "location": "http://10.0.0.1/"})
    message = json.loads(exchange.body)
    assert (exchange.headers[":status"], message["id"], message["error"]["code"]) == ("200", 7, -32000)
    assert message["error"]["data"] == {"server": "ns/one", "reason": reason, "status": int(status)}
    assert "10.0.0.1" not in str(exchange)
    assert not {"www-authenticate", "location"} & exchange.headers.keys()
    assert logged == reason


def test_a_servers_own_error_is_its_own(memo: Memo) -> None:
    own = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no such city","data":{"a":"\\u00e9"}}}'
    exchange, reason = answered(memo, "400", own)
    assert (exchange.headers[":status"], exchange.body, reason) == ("200", own, "RpcError")
    for text in (own.replace(b'"id":7', b'"id":null'), own.replace(b'"id":7', b'"id":8')):
        exchange, reason = answered(memo, "400", text)
        error = json.loads(exchange.body)["error"]
        assert (error["message"], reason) == ("MCP server ns/one answered HTTP 400: no such city", "BadAnswer")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"id":7,"error":5}', b'{"jsonrpc":"2.0","id":7,"error":{"message":"\xff"}}', b'[{"id":7}]', b"x" * 70_000],
    ids=["nothing", "half", "no error", "no UTF-8", "an array", "large"],
)
def test_any_body_of_a_failure_becomes_one_error(memo: Memo, body: bytes) -> None:
    exchange, _ = answered(memo, "502", body)
    message = json.loads(exchange.body or b"null")
    if body:
        assert (message["id"], message["error"]["data"]["status"]) == (7, 502)


@pytest.mark.parametrize(("status", "kind"), [("200", "text/html"), ("202", ""), ("204", "application/json")])
def test_a_success_that_is_no_answer_is_a_failure(memo: Memo, status: str, kind: str) -> None:
    exchange, reason = answered(memo, status, b"<html>", **{"content-type": kind})
    assert (exchange.headers[":status"], exchange.headers["content-type"], reason) == ("200", h.JSON, "BadAnswer")
    assert "neither with JSON nor with events" in json.loads(exchange.body)["error"]["message"]


def test_nobody_answers_an_answer(memo: Memo) -> None:
    """A client's answer to a server's request, and a stream that it wants to resume."""
    exchange, reason = answered(memo, "404", b"gone", session=" ns/one:ticket", ident='"x"')
    assert (exchange.headers[":status"], exchange.body, reason) == ("202", b"", "BadAnswer")
    exchange, _ = answered(memo, "404", b"gone", session=" ns/one:ticket", ident="null")
    assert exchange.headers[":status"] == "405"
    exchange, reason = answered(memo, "202", session=" ns/one:ticket", ident='"x"')
    assert (exchange.headers[":status"], reason) == ("202", "")


def test_event_streams_name_their_owner_piece_by_piece(memo: Memo) -> None:
    metadata = memo.table({"mcpgw": {"session": "key ns/one:ticket"}})
    stream = b'id: 5\ndata: {"jsonrpc":"2.0","id":1,"method":"ping"}\n\n'
    pieces = [stream[at : at + 1] for at in range(len(stream))]
    answer = memo.response(
        {":status": "200", "content-type": "text/event-stream", "content-length": "9"}, [*pieces, b""], metadata
    )
    assert (
        answer.body == b'id: mcpgw:ns/one:ticket:5\ndata: {"jsonrpc":"2.0","id":"mcpgw:ns/one:ticket:1","method":"ping"}\n\n'
    )
    assert "content-length" not in answer.headers


def test_istios_routes_say_what_ours_do() -> None:
    istio = Filter(script("istio"))
    sent = istio.request({h.X_SERVER: "ns/one", "x-envoy-max-retries": "9", "x": "y"}, b"", istio.metadata())
    assert sent.headers == {
        h.X_SERVER: "ns/one",
        "x": "y",
        "x-envoy-retry-on": contract.RETRY_ON,
        "x-envoy-retriable-status-codes": AGAIN,
        "x-envoy-max-retries": "2",
    }
    assert istio.request({h.X_SERVER: "mcpBroker"}, b"", istio.metadata()).headers == {h.X_SERVER: "mcpBroker"}
    answer = istio.response({h.SESSION: "upstream"}, [], istio.table({"mcpgw": {"session": "key owner"}}))
    assert answer.headers == {}
