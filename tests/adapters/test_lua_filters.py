"""The assembled Lua filters, run against a handle like Envoy's and the router's own answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from google.protobuf.json_format import MessageToDict

from mcpgw_sidecar.envoy import contract
from mcpgw_sidecar.envoy.entries import Audience, Keep, list_mark, refused_mark
from mcpgw_sidecar.envoyfiles.scripts import messages, script
from mcpgw_sidecar.extproc import codec
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.decisions import Carry, Forward, HttpRequest, Reject
from mcpgw_sidecar.model.exchanges import Given, TokenClient, TokenExchange
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.ports import Stamp
from mcpgw_sidecar.model.servers import ForwardedHeader, Server
from mcpgw_sidecar.model.sessions import NOTHING, Session
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.envelope import META_CAPABILITIES
from mcpgw_sidecar.protocol.extensions import UI
from mcpgw_sidecar.protocol.gzipped import gzip_around, packed
from mcpgw_sidecar.protocol.jsonrpc import around_result
from mcpgw_sidecar.protocol.versions import META_VERSION
from tests.adapters.lua import Exchange, Filter, plain

FOREVER = 1 << 40
BOUNDS = "= 10000, 50000, 1000, 512 --"
AGAIN = str(contract.AGAIN)
STAMP, PART, MARK = "0123456789abcdef", 3, "abcdef01"
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


ANY = Audience.stateless(apps=False)


class Memo(Filter):
    """A filter with the file of stamps, and the router and the broker behind it."""

    def __init__(self, directory: Path, bounds: str = BOUNDS) -> None:
        self.stamps, self.mark, self.lists = directory / "stamps", MARK, MARK
        self.change(STAMP)
        source = messages(str(self.stamps))
        assert BOUNDS in source
        super().__init__(source.replace(BOUNDS, bounds))

    def change(self, stamp: str) -> None:
        """Put another stamp into every slot; the file's length says so."""
        turns = self.stamps.stat().st_size % 16 + 1 if self.stamps.exists() else 0
        file = bytearray(contract.MARKS + (contract.PARTS + 1) * 8)
        file[:64] = stamp.encode() * 4
        for part, mark in ((PART, self.mark), (contract.PARTS, self.lists)):
            file[contract.MARKS + part * 8 : contract.MARKS + part * 8 + 8] = mark.encode()
        self.stamps.write_bytes(bytes(file) + bytes(turns))

    def decided(
        self, headers: Mapping[str, str], body: bytes, status: str = "200", added: Mapping[str, str] = NOTHING, **more: Any
    ) -> str:
        """A call and its answer; what the lookup was. `added` are headers that the router adds."""
        metadata = self.metadata()
        request = self.request(headers, body, metadata)
        before = metadata[b"mcpgw"]
        if request.headers.get(h.X_SERVER):
            return "hit"
        lookup = str(before[b"lookup"].decode())
        if lookup == "miss":
            name = json.loads(body)["params"]["name"]
            values: dict[str, Any] = {
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
            session = decision.session
            audience = Audience.of(session) if session is not None else Audience.stateless(apps=decision.apps)
            asked = HttpRequest(headers={**headers, **added}, body=body)
            keep = Keep(request=asked, stamp=Stamp(1, STAMP, PART, MARK), audience=audience)
            fields = MessageToDict(codec.encode(decision, keep.request, keep=keep).dynamic_metadata)
            metadata[b"mcpgw"] = self.table(fields["mcpgw"])
            self.response({":status": status, "content-type": h.JSON, h.X_MEMO: h.KEPT}, [], metadata)
        return lookup

    def listed(
        self, headers: Mapping[str, str], body: bytes, answer: bytes, audience: Audience | None = None, **more: str
    ) -> Exchange:
        """A request for a list; what the broker says to it, unless the filter answers."""
        metadata = self.metadata()
        request = self.request(headers, body, metadata)
        if request.answer is None:
            mark = list_mark(audience or Audience.of(SESSION), Stamp(1, STAMP, contract.PARTS, MARK), None)
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
        "mcp-session-id": "upstream",
        "mcp-protocol-version": "2025-06-18",
        h.X_SERVER: "ns/one",
        h.X_METHOD: "tools/call",
        h.X_TOOL: "one_greet",
    }
    assert json.loads(again.body) == {"jsonrpc": "2.0", "id": "é", "method": "tools/call", "params": {"name": "greet"}}
    assert metadata[b"mcpgw"][b"id"].decode() == '"é"'
    assert metadata[b"mcpgw"][b"who"][b"owner"] == b"token ns/one:ticket"


@pytest.mark.duty("header.to-server")
def test_a_server_gets_of_a_client_what_all_get_and_what_it_wants(memo: Memo) -> None:
    wanted = attrs.evolve(
        SERVER,
        forwarded=(ForwardedHeader("x-tenant", "authorization"), ForwardedHeader("x-user", "x-user", required=True)),
    )
    mine = {"authorization": "mine", "x-tenant": "a", "x-user": "b", "cookie": "c", "x-forwarded-for": "1.2.3.4"}
    headers = HEADERS | mine | {"traceparent": "00", "mcp-param-x": "1"}
    assert memo.decided(headers, call(), server=wanted) == "miss"
    again = memo.request(headers, call(), memo.metadata())
    passed = {name: value for name, value in again.headers.items() if name in {*mine, "traceparent", "mcp-param-x"}}
    assert passed == {"authorization": "a", "x-user": "b", "traceparent": "00", "mcp-param-x": "1"}
    for other in ({}, {"x-user": ""}, {"x-user": "c"}, {"x-tenant": "b"}):
        changed = {name: value for name, value in headers.items() if other or name != "x-user"} | other
        assert memo.decided(changed, call(), server=wanted, session_id=None) == "miss", "the router refuses or learns it"
        assert memo.decided(headers, call(), server=wanted) == "miss"
        assert memo.decided(headers, call(), server=wanted) == "hit"


@pytest.mark.duty("header.to-server")
@pytest.mark.parametrize("added", [None, "http 97", "http  ", " 97 keep-alive", "https  close"])
def test_headers_that_are_all_known_are_not_walked_over(memo: Memo, added: str | None) -> None:
    """Envoy says how long a client's headers are, with what it adds or removes afterwards."""
    known = HEADERS | {"user-agent": "x", "accept-encoding": "gzip", "authorization": "mine", "origin": "http://localhost"}
    scheme, size, connection = f"{added or ''}  ".split(" ")[:3]
    by_envoy = {":scheme": scheme, "content-length": size, "connection": connection}
    own = {name: value for name, value in by_envoy.items() if value}
    length = sum(len(name) + len(value) for name, value in (known | own).items())
    arrived = known | {":scheme": "http", "content-length": "97", "x-request-id": "i"}
    assert memo.decided(arrived, call()) == "miss"
    for more in range(3):
        sizes = {h.X_SIZE: f"{length + more} {added}"} if added else {}
        again = memo.request(arrived | sizes | {"x-unseen": "by the filter"}, call(), memo.metadata()).headers
        assert again[h.X_SERVER] == "ns/one"
        assert not {"authorization", "origin", "accept-encoding"} & set(again)
        assert ("x-unseen" in again) == (bool(added) and more == 0), "all are known: nothing else is looked for"


@pytest.mark.duty("header.to-server")
def test_in_istio_headers_are_taken_away_behind_its_own_filters() -> None:
    headers = HEADERS | {"cookie": "c", "x-tenant": "a", h.X_PASSED: "x-tenant=x-org", "x-envoy-retry-on": "5xx"}
    passed = Filter(script("last")).request(headers, b"", None)
    assert passed.headers == HEADERS | {"x-org": "a", "x-envoy-retry-on": "5xx"}
    for text, kept in (("-", {}), ("x-mcp-subject=x-mcp-subject", {h.X_SUBJECT: "alice"})):
        named = HEADERS | {h.X_SUBJECT: "alice", h.X_PASSED: text}
        assert Filter(script("last")).request(named, b"", None).headers == HEADERS | kept
    untouched = HEADERS | {"cookie": "c"}
    assert Filter(script("last")).request(untouched, b"", None).headers == untouched, "another route of that gateway"


@pytest.mark.parametrize("name", [*contract.DEPENDS, *contract.PERSONAL, contract.ACCEPTED, h.SESSION])
def test_it_depends_on_each_header_of_the_contract(memo: Memo, name: str) -> None:
    assert memo.decided(HEADERS, call()) == "miss"
    assert memo.decided(HEADERS, call()) == "hit"
    assert memo.decided(HEADERS | {name: "another"}, call()) == "miss"
    without = {header: value for header, value in HEADERS.items() if header != name}
    if without != HEADERS:
        assert memo.decided(without, call()) == ("hit" if name == contract.ACCEPTED else "miss")


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


@pytest.mark.duty("era.translated")
def test_the_log_hears_of_calls_that_the_broker_carried_in_vain(memo: Memo) -> None:
    away = Reject(
        status=200, code=-32603, message="x", method="tools/call", server="ns/one", tool="a b", reason="Unreachable"
    )
    unknown = Reject(status=200, code=-32602, message="x", method="tools/call", data={"name": "c"})
    for reject, refusal, failed in (
        (away, [b"unavailable", b"-32603", b"tools/call", b"ns/one", b"a b"], b"Unreachable"),
        (unknown, [b"rejected", b"-32602", b"tools/call", None, b"c"], None),
    ):
        metadata = memo.table({"mcpgw": {"id": "7"}})
        answer = memo.response({":status": "200", "content-type": h.JSON, h.X_MEMO: refused_mark(reject)}, [b"{}"], metadata)
        assert h.X_MEMO not in answer.headers
        said = metadata[b"mcpgw"][b"refusal"]
        assert [said[name.encode()] for name in contract.REFUSAL_MEMBERS] == refusal
        assert metadata[b"mcpgw"][b"failed"] == failed
    of_a_server = memo.table({"mcpgw": {"id": "7", "session": "t ns/one:x"}})
    memo.response({":status": "200", "content-type": h.JSON, h.X_MEMO: refused_mark(away)}, [b"{}"], of_a_server)
    assert of_a_server[b"mcpgw"][b"refusal"] is None, "a server cannot say so"


MODERN = {
    **{name: value for name, value in HEADERS.items() if name != "mcp-session-id"},
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "one_greet",
}


def modern(method: str = "tools/call", capabilities: str = "{}", **params: str) -> bytes:
    meta = {META_VERSION: "2026-07-28", META_CAPABILITIES: json.loads(capabilities)}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": meta}}).encode()


ANYBODY = {"session": None, "session_id": None, "protocol_version": "2026-07-28", "name_header": "greet"}


@pytest.mark.duty("era.direct", "call.memo-same")
def test_without_sessions_a_decision_is_everybodys_who_shows_the_same(memo: Memo) -> None:
    body = modern(name="one_greet")
    assert memo.decided(MODERN, body, **ANYBODY) == "miss"
    # what decides nothing: a session of the other era, and a credential that nobody has verified
    for stray in ({}, {"mcp-session-id": "stray", "last-event-id": "3"}, {"user-agent": "another"}):
        request = memo.request(MODERN | stray, body, memo.metadata())
        assert request.headers[h.X_SERVER] == "ns/one"
        assert (request.headers["mcp-name"], request.headers["mcp-protocol-version"]) == ("greet", "2026-07-28")
        assert not {"mcp-session-id", "last-event-id"} & request.headers.keys()
        assert json.loads(request.body)["params"]["name"] == "greet"
    for name in (*contract.DEPENDS, "accept"):
        assert memo.decided(MODERN | {name: "another"}, body, **ANYBODY) == "miss", name
    for other in ({"mcp-method": "tools/list"}, {"mcp-name": "another"}, {"mcp-name": "=?base64?b25lX2dyZWV0?="}):
        assert memo.decided(MODERN | other, body, **ANYBODY) == "declined"
    assert memo.decided(MODERN | {"mcp-protocol-version": "2025-11-25"}, body, **ANYBODY) == "declined"
    assert memo.decided(MODERN, modern(capabilities="[]", name="one_greet"), **ANYBODY) == "declined"
    pages = modern(capabilities=json.dumps({"extensions": {UI: {}}}), name="one_greet")
    assert [memo.decided(MODERN, pages, **ANYBODY, apps=True) for _ in range(2)] == ["miss", "hit"]


@pytest.mark.duty("access.login", "call.memo-same")
def test_without_sessions_a_verified_caller_is_known_by_the_token(memo: Memo) -> None:
    body = modern(name="one_greet")

    def looked(**headers: str) -> str:
        return memo.decided(MODERN | {name.replace("_", "-"): value for name, value in headers.items()}, body, **ANYBODY)

    assert looked() == "miss"
    assert [looked(authorization="a"), looked(authorization="a"), looked(authorization="b")] == ["miss", "hit", "hit"]
    assert [looked(authorization="a", x_mcp_claims="c") for _ in range(2)] == ["miss", "hit"]
    assert [looked(authorization="b", x_mcp_claims="c") for _ in range(2)] == ["miss", "hit"]


EXCHANGING = attrs.evolve(SERVER, token_exchange=TokenExchange(client=TokenClient(token_url="http://i", client_id="g")))


@pytest.mark.duty("access.exchange", "call.memo-same")
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_token_of_a_server_is_repeated_for_its_caller_until_it_ends(memo: Memo, is_ours: bool) -> None:
    """In Istio other filters may read the request: there it has a header of its own."""
    size = {h.X_SIZE: "1 http 1"} if is_ours else {}
    name = EXCHANGING.exchanged_header
    sent = "authorization" if is_ours else name

    def looked(token: str, given: str, until: float = FOREVER) -> str:
        headers = MODERN | size | {"authorization": token, h.X_CLAIMS: "c"}
        more = {**ANYBODY, "server": EXCHANGING, "given": Given(given, until)}
        was = memo.decided(headers, modern(name="one_greet"), added={name: given}, **more)
        if was == "hit":
            assert memo.request(headers, modern(name="one_greet"), memo.metadata()).headers[sent] == given
        return was

    assert [looked("alice", "Bearer a") for _ in range(2)] == ["miss", "hit"]
    assert [looked("bob", "Bearer b") for _ in range(2)] == ["miss", "hit"]
    assert looked("alice", "Bearer a") == "hit"
    assert [looked("carol", "Bearer c", until=1.0) for _ in range(2)] == ["miss", "miss"]
    session = HEADERS | size | {"authorization": "alice", h.X_CLAIMS: "c"}
    more: Any = {"server": EXCHANGING, "given": Given("Bearer a", FOREVER), "added": {name: "Bearer a"}}
    assert [memo.decided(session, call(), **more) for _ in range(2)] == ["miss", "hit"]
    assert memo.request(session, call(), memo.metadata()).headers[sent] == "Bearer a"
    assert memo.decided(session | {"authorization": "again"}, call(), **more) == "miss"


@pytest.mark.duty("access.exchange", "access.credentials", "call.memo-same")
def test_in_istio_what_a_server_gets_is_not_that_of_before(memo: Memo) -> None:
    """What others renew is not hers: after a rotation, or when the server was changed or moved."""
    Filter.__init__(memo, messages(""))

    def looked(token: str, given: str, server: Server) -> str:
        headers = MODERN | {"authorization": token, h.X_CLAIMS: token}
        more = {**ANYBODY, "server": server, "given": Given(given, FOREVER), "added": {server.exchanged_header: given}}
        return memo.decided(headers, modern(name="one_greet"), **more)

    keyed = attrs.evolve(SERVER, credential="k", credential_use="always", credential_header="x-api-key")
    assert [looked("alice", "old", keyed) for _ in range(2)] == ["miss", "hit"]
    memo.now = 600
    assert looked("bob", "new", keyed) == "miss"
    memo.now = 1100
    assert looked("bob", "new", keyed) == "hit"
    assert looked("alice", "new", keyed) == "miss", "hers is of longer ago"
    for number, other in enumerate((EXCHANGING, attrs.evolve(EXCHANGING, url="http://moved/there"))):
        assert looked(f"caller {number}", "another", other) == "miss"
        assert looked("alice", "another", other) == "miss", "hers is another header's"
        assert looked("alice", "another", other) == "hit"


@pytest.mark.duty("era.direct", "header.to-server")
def test_without_sessions_what_a_server_wants_is_the_requests(memo: Memo) -> None:
    body, wants = modern(name="one_greet"), attrs.evolve(SERVER, forwarded=(ForwardedHeader("x-key", "x-other", True),))
    keys = {"x-key": "1"}
    assert memo.decided(MODERN | keys, body, **ANYBODY, server=wants) == "miss"
    request = memo.request(MODERN | {"x-key": "2"}, body, memo.metadata())
    assert request.headers["x-other"] == "2"
    assert memo.decided(MODERN, body, **ANYBODY, server=wants) == "miss", "the router refuses it"


@pytest.mark.duty("era.direct")
def test_lists_without_sessions(memo: Memo) -> None:
    headers = MODERN | {"mcp-method": "tools/list"}
    said = b'{"jsonrpc":"2.0","id":7,"result":{"tools":[],"resultType":"complete"}}'
    assert memo.listed(headers, modern("tools/list"), said, audience=ANY).answer is None
    again = memo.listed(headers | {"mcp-session-id": "stray"}, modern("tools/list"), b"").answer
    assert again is not None
    assert again[1] == said
    assert memo.listed(headers, modern("tools/list", cursor="abc"), said, audience=ANY).answer is None
    assert memo.listed(headers, modern("tools/list", cursor="abc"), b"").answer is not None
    assert memo.listed(headers, modern("tools/list", more="x"), said, audience=ANY).answer is None
    assert memo.listed(headers, modern("tools/list", more="x"), b"").answer is None
    assert memo.listed(headers | {"mcp-method": "x"}, modern("tools/list"), b"").answer is None
    of_a_session = HEADERS | {"mcp-protocol-version": "2025-11-25"}
    assert memo.listed(of_a_session, listing(), b"{}").answer is None
    discover = headers | {"mcp-method": "server/discover"}
    assert memo.listed(discover, modern("server/discover"), said, audience=ANY).answer is None
    assert memo.listed(discover, modern("server/discover"), b"").answer is not None


@pytest.mark.duty("era.translated", "call.memo-same")
def test_a_call_that_the_broker_carries_goes_there_at_once(memo: Memo) -> None:
    """As the client sent it: the broker decides once more, and exchanges the name."""
    headers, metadata = HEADERS | {h.X_SIZE: "1 http 1 "}, memo.metadata()
    memo.request(headers, call(), metadata)
    decision = Carry(
        server=SERVER, kind=TOOL, key="one_greet", method="tools/call", id=JsonText("7"), session=SESSION, text="{}"
    )
    asked = HttpRequest(headers=headers, body=call())
    keep = Keep(request=asked, stamp=Stamp(1, STAMP, PART, MARK), audience=Audience.of(SESSION))
    fields = MessageToDict(codec.encode(decision, asked, keep=keep).dynamic_metadata)
    metadata[b"mcpgw"] = memo.table(fields["mcpgw"])
    memo.response({":status": "200", "content-type": h.JSON, h.X_MEMO: h.KEPT}, [], metadata)
    again = memo.request(headers, call(ident="9"), memo.metadata())
    kept = {name: value for name, value in again.headers.items() if not name.startswith("x-mcp-")}
    assert kept == HEADERS
    assert (again.headers[h.X_SERVER], again.headers[h.X_CARRIED], again.headers[h.X_TOOL]) == ("ns/one", "1", "one_greet")
    assert again.body == call(ident="9")
    memo.mark = "00000000"
    memo.change(STAMP)
    assert h.X_SERVER not in memo.request(headers, call(), memo.metadata()).headers


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


def test_decisions_hold_as_long_as_their_server_and_lists_as_long_as_all(memo: Memo) -> None:
    page = b'{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}'
    assert [memo.decided(HEADERS, call()) for _ in range(2)] == ["miss", "hit"]
    assert memo.listed(HEADERS, listing(), page).answer is None
    assert memo.listed(HEADERS, listing(), b"").answer is not None
    memo.lists = "ffffffff"
    memo.change(STAMP)
    assert memo.decided(HEADERS, call()) == "hit", "another server has changed"
    assert memo.listed(HEADERS, listing(), page).answer is None
    assert memo.listed(HEADERS, listing(), page).answer is None, "the answer was older than the change"
    memo.mark, memo.lists = "ffffffff", MARK
    memo.change(STAMP)
    assert memo.listed(HEADERS, listing(), b"").answer is not None
    assert [memo.decided(HEADERS, call()) for _ in range(2)] == ["miss", "miss"], "the decision was older, too"


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
    _, after = again(refusal(status, b"", plain(metadata)["mcpgw"])[1])
    memo.response({":status": "200", "content-type": h.JSON, h.X_MEMO: h.KEPT}, [], memo.table(after))
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
    memo.response(
        {":status": "200", h.X_MEMO: list_mark(Audience.of(SESSION), Stamp(1, STAMP, contract.PARTS, MARK), body), **size},
        [answer],
        metadata,
    )
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


CALL = {"id": "7", "session": "token ns/one:ticket"}


def refusal(status: str, body: bytes = b"", call: Any = None, **headers: str) -> tuple[Exchange, dict[str, Any]]:
    """What refused.lua makes of an answer, and the metadata afterwards."""
    refused = Filter(script("refused"))
    metadata = refused.table({"mcpgw": CALL if call is None else call})
    given = {":status": status, "content-type": "application/json", "content-length": str(len(body)), **headers}
    return refused.response(given, [body], metadata), plain(metadata)


def again(before: Any, answer: Any = None, **headers: str) -> tuple[Exchange, dict[str, Any]]:
    """The next attempt at a call, with the sidecar's answer to the question about its session."""
    heal = Filter(script("heal"))
    metadata = heal.table(before)
    sent = HEADERS | {"mcp-session-id": "upstream", h.X_SERVER: "ns/one", h.ATTEMPT: "2", "content-length": "9"}
    return heal.request(sent | headers, b"", metadata, heal.table(answer or [{":status": "404"}, ""])), plain(metadata)


def told(status: str, body: bytes = b"", call: Any = None, **headers: str) -> tuple[str, bytes, str]:
    """What a client gets of an answer that is none: status and body, and the reason for the log."""
    refused, metadata = refusal(status, body, call, **headers)
    assert refused.headers[":status"] == AGAIN
    exchange, metadata = again(metadata)
    assert exchange.answer is not None
    assert exchange.answer[0]["content-type"] == h.JSON
    return exchange.answer[0][":status"], exchange.answer[1], metadata["mcpgw"]["failed"]


def test_answers_are_left_alone() -> None:
    """JSON and event streams with 200 do not even meet this filter in listeners of ours."""
    for kind in ("application/json", "Application/JSON; charset=utf-8", "text/event-stream"):
        assert refusal("200", b"{}", **{"content-type": kind})[0].headers[":status"] == "200"
    assert refusal("500", b"", {})[0].headers[":status"] == "500", "the broker's, or in Istio another gateway's"
    assert refusal("202", b"", {"id": '"x"', "session": " ns/one:ticket"})[0].headers[":status"] == "202"


def test_a_server_cannot_ask_for_another_attempt() -> None:
    assert refusal(AGAIN, b"", {})[0].headers[":status"] == "500"
    assert told(AGAIN)[1].count(b"HTTP 500") == 1


def test_an_attempt_gets_a_session_that_lives(memo: Memo) -> None:
    assert [memo.decided(HEADERS, call()) for _ in range(2)] == ["miss", "hit"]
    _, metadata = refusal("404", b'{"id":null,"error":{"message":"x"}}')
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
        "x-envoy-retry-on": "connect-failure,reset",
        "x-envoy-max-retries": "60",
        "limit": str(int(1000 * timeouts.healing())),
    }
    assert metadata["mcpgw"]["session"] == "token ns/one:new"
    heal = Filter(script("heal"))
    marked = heal.response({":status": "200", "content-type": h.JSON}, [], heal.table(metadata))
    assert marked.headers[h.X_MEMO] == h.KEPT
    left = memo.response(marked.headers, [], memo.table(metadata))
    assert left.headers == {":status": "200", "content-type": h.JSON}
    assert memo.decided(HEADERS, call()) == "miss", "the session that was replaced is not relied on"
    third, _ = again(metadata)
    assert (third.question, third.answer) == (None, None), "its connection broke: it goes out once more"
    _, metadata = refusal("404", b"", metadata["mcpgw"])
    fourth, _ = again(metadata)
    assert fourth.question is None, "a session is healed once in a call"
    assert fourth.answer is not None


@pytest.mark.parametrize("status", [str(status) for status in contract.FORGOTTEN])
def test_nothing_is_asked_where_no_session_can_be_over(status: str) -> None:
    own = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"mine"}}'
    for body, headers in ((b"", {"mcp-session-id": ""}), (own, {})):
        exchange, _ = again(refusal(status, body)[1], **headers)
        assert (exchange.question is None) == bool(body), "the server's own answer to the call: it has run"
    exchange, _ = again(refusal("500")[1])
    assert exchange.question is None
    assert again(refusal(status)[1])[0].question is not None


def test_another_attempt_without_an_answer_before_is_left_alone() -> None:
    heal = Filter(script("heal"))
    for attempt in ("1", "2"):
        for metadata in ({}, {"mcpgw": {"session": " ns/one:ticket"}}, {"mcpgw": {"id": "1"}}):
            sent = heal.request({h.ATTEMPT: attempt, h.X_MEMO: h.KEPT}, b"", heal.table(metadata))
            assert (sent.question, sent.answer) == (None, None)
            assert h.X_MEMO not in sent.headers


@pytest.mark.parametrize(
    ("status", "reason"),
    [("500", "BadAnswer"), ("404", "BadAnswer"), ("401", "Unauthorized"), ("403", "Unauthorized"), ("307", "Redirect")],
)
def test_a_servers_failure_costs_no_session(status: str, reason: str) -> None:
    code, body, logged = told(status, b"<html>", **{"www-authenticate": "Bearer", "location": "http://10.0.0.1/"})
    message = json.loads(body)
    assert (code, message["id"], message["error"]["code"], logged) == ("200", 7, -32000, reason)
    assert message["error"]["data"] == {"server": "ns/one", "reason": reason, "status": int(status)}
    assert b"10.0.0.1" not in body


def test_a_servers_own_error_is_its_own() -> None:
    own = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no such city","data":{"a":"\\u00e9"}}}'
    assert told("400", own) == ("200", own, "RpcError")
    for text in (own.replace(b'"id":7', b'"id":null'), own.replace(b'"id":7', b'"id":8')):
        _, body, reason = told("400", text)
        error = json.loads(body)["error"]
        assert (error["message"], reason) == ("MCP server ns/one answered HTTP 400: no such city", "BadAnswer")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"id":7,"error":5}', b'{"jsonrpc":"2.0","id":7,"error":{"message":"\xff"}}', b'[{"id":7}]', b"x" * 70_000],
    ids=["nothing", "half", "no error", "no UTF-8", "an array", "large"],
)
@pytest.mark.parametrize("more", [{}, {"content-encoding": "gzip"}, {"content-length": ""}], ids=["", "gzip", "chunked"])
def test_any_body_of_a_failure_becomes_one_error(body: bytes, more: dict[str, str]) -> None:
    message = json.loads(told("502", body, **more)[1])
    assert (message["id"], message["error"]["data"]["status"]) == (7, 502)


@pytest.mark.parametrize(("status", "kind"), [("200", "text/html"), ("202", ""), ("204", "application/json")])
def test_a_success_that_is_no_answer_is_a_failure(status: str, kind: str) -> None:
    code, body, reason = told(status, b"<html>", **{"content-type": kind})
    assert (code, reason) == ("200", "BadAnswer")
    assert "neither with JSON nor with events" in json.loads(body)["error"]["message"]


def test_nobody_answers_an_answer() -> None:
    """A client's answer to a server's request, and a stream that it wants to resume."""
    assert told("404", b"gone", {"id": '"x"', "session": " ns/one:ticket"}) == ("202", b"", "BadAnswer")
    assert told("404", b"gone", {"id": "null", "session": " ns/one:ticket"})[:2] == ("405", b"")


def test_an_answer_that_envoy_can_make_no_other_attempt_after(memo: Memo) -> None:
    _, metadata = refusal("404")
    given = {":status": AGAIN, "content-type": "text/html", "content-length": "6"}
    exchange = memo.response(given, [b"<h", b"tml>", b""], memo.table(metadata))
    assert json.loads(exchange.body)["error"]["data"]["status"] == 404
    assert (exchange.headers[":status"], exchange.headers["content-type"]) == ("200", h.JSON)


def test_other_credentials_make_no_session_of_before(memo: Memo) -> None:
    """A list that is read with another Accept says nothing of calls."""
    page = b'{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}'
    assert [memo.decided(HEADERS, call()) for _ in range(2)] == ["miss", "hit"]
    alone = HEADERS | {"accept": "application/json"}
    assert memo.listed(alone, listing(), page).answer is None
    assert memo.decided(alone, call()) == "miss"


def streamed(memo: Memo, chunks: list[bytes], ident: str = "7") -> Exchange:
    """An event stream for a client that takes JSON alone."""
    call = {"id": ident, "session": "token ns/one:ticket", "plain": "1"}
    given = {":status": "200", "content-type": "text/event-stream", h.X_MEMO: h.KEPT}
    return memo.response(given, chunks, memo.table({"mcpgw": call}))


@pytest.mark.parametrize(
    ("ident", "written"), [('"\u00e9"', '"\\u00e9"'), ('"a/b"', '"a\\/b"'), ("7", "7.0"), ("7", "7")], ids=str
)
@pytest.mark.parametrize("ends", [True, False], ids=["with an end", "without"])
def test_the_answer_of_a_stream_as_json(memo: Memo, ident: str, written: str, ends: bool) -> None:
    """It is written as soon as it is there: over HTTP/2 no empty chunk may follow."""
    said = b'\xef\xbb\xbfid: 1\r\ndata: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\r\n\r\n: ping\r\n\r\n'
    answer = b'data: {"jsonrpc":"2.0","id":%s,"result":{"x":[1]}}\r\n\r\n' % written.encode()
    stream = said + answer
    pieces = [stream[at : at + 7] for at in range(0, len(stream), 7)]
    exchange = streamed(memo, [*pieces, *([b""] if ends else [])], ident)
    assert exchange.body.decode() == f'{{"jsonrpc":"2.0","id":{ident},"result":{{"x":[1]}}}}'
    assert exchange.headers["content-type"] == h.JSON


def test_a_stream_without_its_answer_and_one_that_is_too_large(memo: Memo) -> None:
    error = json.loads(streamed(memo, [b": x\n\n", b""]).body)["error"]
    assert error["data"] == {"server": "ns/one", "reason": "BrokenOff"}
    deep = b'{"jsonrpc":"2.0","id":7,"result":' + b"[" * 200 + b"]" * 200 + b"}"
    assert streamed(memo, [b"data: " + deep + b"\n\n", b""]).body.strip() == deep
    large = streamed(memo, [b"data: " + b"x" * 1_000_000] * 6)
    assert "too large an event" in json.loads(large.body)["error"]["message"]
    comments = streamed(memo, [b": " + b"x" * 1_000_000 + b"\n\n"] * 6 + [b'data: {"jsonrpc":"2.0","id":7,"result":{}}\n\n'])
    assert json.loads(comments.body)["result"] == {}


def test_event_streams_name_their_owner_piece_by_piece(memo: Memo) -> None:
    metadata = memo.table({"mcpgw": {"session": "key ns/one:ticket"}})
    stream = b'id: 5\ndata: {"jsonrpc":"2.0","id":1,"method":"ping"}\n\n'
    pieces = [stream[at : at + 1] for at in range(len(stream))]
    answer = memo.response(
        {":status": "200", "content-type": "text/event-stream", "content-length": "9"}, [*pieces, b""], metadata
    )
    assert (
        answer.body
        == b'id: mcpgw:ns/one:ticket:~~5\ndata: {"jsonrpc":"2.0","id":"mcpgw:ns/one:ticket:1","method":"ping"}\n\n'
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
        "x-envoy-max-retries": "3",
    }
    assert istio.request({h.X_SERVER: "mcpBroker"}, b"", istio.metadata()).headers == {h.X_SERVER: "mcpBroker"}
    answer = istio.response({h.SESSION: "upstream"}, [], istio.table({"mcpgw": {"session": "key owner"}}))
    assert answer.headers == {}
