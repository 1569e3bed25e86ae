"""The stateless era (2026-07-28): its envelope, its ladder, its decisions."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from mcpgw_sidecar.catalog.federation import federate_eras
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.front import stateless as broker
from mcpgw_sidecar.front.answers import Result
from mcpgw_sidecar.inbound.classify import Inbound, classify
from mcpgw_sidecar.inbound.eras import Era, offers
from mcpgw_sidecar.inbound.guard import LOOPBACK, Guard
from mcpgw_sidecar.model.access import Access, Rule
from mcpgw_sidecar.model.decisions import Carry, Forward, HttpRequest, Reject, ToBroker
from mcpgw_sidecar.model.kinds import KINDS, RESOURCE, TOOL
from mcpgw_sidecar.model.names import ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.model.sessions import SessionFault
from mcpgw_sidecar.protocol.envelope import encode_value
from mcpgw_sidecar.protocol.statuses import for_era
from mcpgw_sidecar.routing.decide import decide

ONE = Server(name=ServerName("ns/one"), url="http://one/mcp", hostname="one", tool_prefix="a_")
TWO = Server(name=ServerName("ns/two"), url="http://two/mcp", hostname="two")
OLD = "2025-11-25"
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
ALWAYS = Guard(hosts=LOOPBACK, prefer_era="stateless")


def discovered(*names: str, uris: tuple[str, ...] = (), version: str = "2026-07-28") -> Discovered:
    tools = [read_item(TOOL, json.dumps({"name": name, "inputSchema": {"type": "object"}})) for name in names]
    resources = [read_item(RESOURCE, json.dumps({"uri": uri, "name": "r"})) for uri in uris]
    items = {TOOL.name: tools, RESOURCE.name: resources}
    read = {kind: tuple(item for item in found if isinstance(item, Item)) for kind, found in items.items()}
    return Discovered(read, (), "about", frozenset({"tools", "resources"}), (version,))


MODERN = {ONE.name: discovered("greet", uris=("x://1",))}
VIRTUAL = VirtualServer(name=VirtualName("ns/few"), tools=("a_greet",))


def catalog(modern: dict[ServerName, Discovered] = MODERN, access: Access = Access()) -> Snapshot:  # noqa: B008  # frozen
    old = {ONE.name: discovered("greet", "old", version=OLD), TWO.name: discovered("there", version=OLD)}
    return federate_eras((ONE, TWO), old, modern, (VIRTUAL,), access).snapshot


def climb(
    method: str = "tools/list",
    params: dict[str, Any] | None = None,
    guard: Guard = ALWAYS,
    snapshot: Snapshot | None = None,
    **headers: str | None,
) -> Inbound | Reject:
    params = {"_meta": META} if params is None else params
    sent: dict[str, Any] = {
        ":method": "POST", ":path": "/mcp", ":authority": "localhost", "content-type": "application/json",
        "mcp-protocol-version": "2026-07-28", "mcp-method": method,
        **({"mcp-name": params["name"]} if isinstance(params.get("name"), str) else {}),
        **{name.replace("__", ":").replace("_", "-"): value for name, value in headers.items()},
    }  # fmt: skip
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()
    request = HttpRequest(headers={name: value for name, value in sent.items() if value is not None}, body=body)
    return classify(request, SessionFault.UNKNOWN, snapshot or catalog(), guard)


def refused(climbed: Inbound | Reject) -> tuple[int, int, str]:
    assert isinstance(climbed, Reject)
    return climbed.status, climbed.code, climbed.id


@pytest.mark.duty("era.offer")
def test_where_it_is_offered() -> None:
    """Only where calls of a client of both eras go straight; any other is served all the same."""
    both = catalog({**MODERN, TWO.name: discovered("there")})
    alone = federate_eras((ONE, TWO), {ONE.name: discovered("greet", version=OLD), TWO.name: Discovered()},
                          {TWO.name: discovered("there")}).snapshot  # fmt: skip
    third = attrs.evolve(TWO, name=ServerName("ns/three"), tool_prefix="c_")
    mostly = federate_eras((ONE, TWO, third), {ONE.name: discovered("greet", version=OLD)},
                           {TWO.name: discovered("there"), third.name: discovered("x")}).snapshot  # fmt: skip
    # a server that has not answered yet speaks for no era
    waiting = federate_eras((ONE, TWO), {}, {ONE.name: discovered("greet")}).snapshot
    nothing = federate_eras((), {}, {}).snapshot
    for snapshot, era, offered in (
        (both, "auto", True), (catalog(), "auto", False), (catalog({}), "auto", False), (both, "stateful", False),
        (catalog({}), "stateless", True), (alone, "auto", False), (mostly, "auto", True), (waiting, "auto", True), (nothing, "auto", False), (EMPTY, "stateless", True),
        (EMPTY, "auto", False),
    ):  # fmt: skip
        guard = attrs.evolve(ALWAYS, prefer_era=era)
        assert offers(snapshot, guard) is offered
        for method in ("server/discover", "tools/list"):
            climbed = climb(method, guard=guard, snapshot=snapshot)
            if offered or (method == "tools/list" and era != "stateful"):
                assert isinstance(climbed, Inbound)
                assert (climbed.era, climbed.session) == (Era.STATELESS, None)
            else:
                assert refused(climbed) == (400, -32601, "7"), "every SDK initializes then"


@pytest.mark.duty("era.envelope")
@pytest.mark.parametrize(
    ("method", "params", "headers", "status", "code"),
    [
        ("tools/list", {}, {}, 400, -32602),
        ("tools/list", {"_meta": {"io.modelcontextprotocol/protocolVersion": 7}}, {}, 400, -32602),
        ("tools/list", {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}, {}, 400, -32602),
        ("tools/list", {"_meta": META | {"io.modelcontextprotocol/protocolVersion": "2027-01-01"}}, {}, 400, -32020),
        ("tools/list", {"_meta": META}, {"mcp_method": "tools/call"}, 400, -32020),
        ("tools/list", {"_meta": META}, {"mcp_method": None}, 400, -32020),
        ("tools/list", {"_meta": META}, {"mcp_protocol_version": "2025-11-25"}, 400, -32020),
        ("tools/list", {"_meta": META}, {"mcp_protocol_version": None}, 400, -32020),
        ("tools/list", {"_meta": META}, {"mcp_protocol_version": "2027-01-01"}, 400, -32022),
        ("tools/call", {"name": "a_greet", "_meta": META}, {"mcp_name": "a_other"}, 400, -32020),
        ("tools/call", {"name": "a_greet", "_meta": META}, {"mcp_name": None}, 400, -32020),
        ("tools/call", {"name": "a_greet", "_meta": META}, {"mcp_name": "=?base64?!?="}, 400, -32020),
        ("tools/call", {"name": "a_greet", "_meta": META}, {"mcp_name": "=?base64?/w==?="}, 400, -32020),
        ("tools/call", {"name": 7, "_meta": META}, {}, 400, -32020),
        ("ping", {"_meta": META}, {}, 404, -32601),
        ("initialize", {"_meta": META}, {}, 404, -32601),
        ("tools/list", {"_meta": META | {"io.modelcontextprotocol/logLevel": "loud"}}, {}, 400, -32602),
        ("tools/list", {"_meta": META}, {"__path": "/mcp/ns/none"}, 404, -32600),
    ],
)
def test_the_envelope(method: str, params: dict[str, Any], headers: dict[str, Any], status: int, code: int) -> None:
    climbed = climb(method, params, **headers)
    assert refused(climbed)[:2] == (status, code)
    assert refused(climbed)[2] == "7"


@pytest.mark.duty("era.envelope")
def test_what_is_no_request() -> None:
    head = {":path": "/mcp", ":authority": "localhost", "mcp-protocol-version": "2026-07-28"}
    for method, body, status in (
        ("GET", "", 405), ("DELETE", "", 405),
        ("POST", '{"jsonrpc":"2.0","id":"x","result":{}}', 400),
        ("POST", '{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{},"_meta":{}}}', 400),
    ):  # fmt: skip
        request = HttpRequest(headers={**head, ":method": method}, body=body.encode())
        climbed = classify(request, SessionFault.UNKNOWN, catalog(), ALWAYS)
        assert isinstance(climbed, Reject)
        assert climbed.status == status
    told = HttpRequest(headers={**head, ":method": "POST"}, body=b'{"jsonrpc":"2.0","method":"notifications/cancelled"}')
    inbound = classify(told, SessionFault.UNKNOWN, catalog(), ALWAYS)
    assert isinstance(inbound, Inbound)
    assert isinstance(decide(inbound), ToBroker)
    assert broker.answer(inbound) is None


def call(name: str, **more: str) -> Forward | Reject | ToBroker | Carry:
    climbed = climb("tools/call", {"name": name, "arguments": {}, "_meta": META}, **more)
    assert isinstance(climbed, Inbound), climbed
    decision = decide(climbed)
    assert isinstance(decision, Forward | Reject | ToBroker | Carry)
    return decision


@pytest.mark.duty("era.direct")
def test_a_call_goes_to_the_server_that_speaks_it() -> None:
    """Without a session; the name is exchanged in the body and in its header."""
    for header in ("a_greet", " a_greet ", "=?base64?YV9ncmVldA==?="):
        forward = call("a_greet", mcp_name=header)
        assert isinstance(forward, Forward)
        assert (forward.server, forward.session, forward.session_id) == (ONE, None, None)
        assert (forward.protocol_version, forward.name_header) == ("2026-07-28", "greet")
        assert json.loads(forward.body)["params"] == {"name": "greet", "arguments": {}, "_meta": META}
    unknown = call("nope")
    assert isinstance(unknown, Reject)
    assert (unknown.status, unknown.code, unknown.data) == (200, -32602, {"name": "nope"})
    carried = call("there")
    assert isinstance(carried, Carry)
    assert (carried.server, carried.session, carried.headers) == (TWO, None, {})
    read = climb("resources/read", {"uri": "x://1", "_meta": META}, mcp_name="x://1")
    assert isinstance(read, Inbound)
    forward = decide(read)
    assert isinstance(forward, Forward)
    assert (forward.name_header, forward.sent_key) == ("x://1", None)
    complete = climb("completion/complete", {"ref": {"type": "ref/prompt"}, "_meta": META})
    assert isinstance(complete, Inbound)
    assert isinstance(decide(complete), Reject)
    twice = HttpRequest(
        headers={
            ":method": "POST", ":path": "/mcp", ":authority": "localhost", "mcp-protocol-version": "2026-07-28",
            "mcp-method": "completion/complete",
        },
        body=json.dumps({"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": {"_meta": META}}).encode()[:-2]
        + b',"ref":{},"ref":{}}}',
    )  # fmt: skip
    climbed = classify(twice, SessionFault.UNKNOWN, catalog(), ALWAYS)
    assert isinstance(climbed, Inbound)
    assert refused(decide(climbed))[:2] == (400, -32600)  # type: ignore[arg-type]


@pytest.mark.duty("era.direct")
def test_names_as_header_values() -> None:
    for name, value in (("x", "x"), ("é", "=?base64?w6k=?="), (" x", "=?base64?IHg=?="), ("=?base64?eA==?=", None)):
        encoded = encode_value(name)
        assert encoded == value or value is None
        assert encoded.startswith("=?base64?") == (name != "x")


@pytest.mark.duty("era.direct")
def test_what_the_broker_answers() -> None:
    def answered(method: str, params: dict[str, Any] | None = None, **headers: str) -> Any:
        climbed = climb(method, params, **headers)
        assert isinstance(climbed, Inbound), climbed
        assert isinstance(decide(climbed), ToBroker | Reject | Forward)
        result = broker.answer(climbed)
        assert result is not None
        return json.loads(result.body) if isinstance(result, Result) else result

    discovery = answered("server/discover")
    assert discovery["supportedVersions"] == ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"]
    assert discovery["capabilities"] == {"tools": {"listChanged": True}, "resources": {"listChanged": True}}
    assert discovery["instructions"].endswith("about")
    assert discovery["resultType"] == "complete"
    for kind in KINDS:
        listed = answered(kind.list_method)
        assert (listed["resultType"], listed["cacheScope"], listed["ttlMs"]) == ("complete", "private", 0)
        count = {TOOL.member: 2, RESOURCE.member: 1}  # one of the tools is of the other era
        assert len(listed[kind.member]) == count.get(kind.member, 0)
        assert listed["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "mcpgw-sidecar"
    few = answered("tools/list", __path="/mcp/ns/few")
    assert [each["name"] for each in few["tools"]] == ["a_greet"]
    for cursor in (7, "x"):
        assert answered("tools/list", {"cursor": cursor, "_meta": META}).code == -32602
    called = answered("tools/call", {"name": "a_greet", "_meta": META})
    assert (called.status, called.code) == (200, -32603)
    twice = climb("tools/list", {"cursor": "x", "_meta": META})
    assert isinstance(twice, Inbound)
    assert twice.message is not None
    doubled = attrs.evolve(twice.message, params=[*twice.message.params, twice.message.params[0]])  # type: ignore[union-attr]
    reject = broker.answer(attrs.evolve(twice, message=doubled))
    assert isinstance(reject, Reject)
    assert reject.code == -32600


@pytest.mark.duty("era.direct", "access.rules")
def test_rules_hold_here_too() -> None:
    closed = catalog(access=Access(rules=(Rule(servers=("ns/two",), allow=((),)),)))
    climbed = climb("tools/call", {"name": "a_greet", "_meta": META}, snapshot=closed)
    assert isinstance(climbed, Inbound)
    assert isinstance(decide(climbed), Reject)


@pytest.mark.duty("era.direct")
def test_a_server_that_speaks_it_alone_has_its_share() -> None:
    only = {TWO.name: discovered("there")}
    federation = federate_eras((ONE, TWO), {ONE.name: discovered("greet", version=OLD), TWO.name: Discovered()}, only)
    assert federation.shares[TWO.name].tools == ("there",)
    assert federation.shares[ONE.name].tools == ("a_greet",)
    assert list(federation.snapshot.of(TOOL).owned) == ["a_greet", "there"]
    stateless = federation.snapshot.stateless
    assert stateless is not None
    assert list(stateless.of(TOOL).owned) == ["a_greet", "there"]


@pytest.mark.duty("era.envelope")
def test_codes_that_the_era_does_not_use() -> None:
    for code, version, expected in (
        (-32000, "2026-07-28", -32603), (-32019, "2026-07-28", -32603), (-32020, "2026-07-28", -32020),
        (-32602, "2026-07-28", -32602), (-32000, "2025-11-25", -32000), (-32000, None, -32000),
    ):  # fmt: skip
        assert for_era(Reject(status=200, code=code, message="x"), version).code == expected
