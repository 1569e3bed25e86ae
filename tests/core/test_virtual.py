from __future__ import annotations

import json

import pytest

from mcpgw_sidecar.catalog import views
from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot, fingerprint
from mcpgw_sidecar.catalog.views import state_of, view_of
from mcpgw_sidecar.inbound.virtual import scope_of
from mcpgw_sidecar.model.decisions import Forward, HttpRequest, Reject
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TOOL
from mcpgw_sidecar.model.names import JsonText, Scope, ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.model.sessions import Session, SessionState, UpstreamSession
from tests.climb import decide

ONE, TWO = (
    Server(name=ServerName(f"ns/{name}"), url=f"http://{name}/mcp", hostname=name, tool_prefix=f"{name}_")
    for name in ("one", "two")
)
FEW = VirtualName("ns/few")


def item(name: str) -> Item:
    result = read_item(TOOL, json.dumps({"name": name, "inputSchema": {"type": "object"}}))
    assert isinstance(result, Item)
    return result


@pytest.fixture
def snapshot() -> Snapshot:
    prompt = read_item(PROMPT, '{"name": "p"}')
    assert isinstance(prompt, Item)
    offers = {
        ONE.name: Discovered(
            {"tool": (item("a"), item("b")), "prompt": (prompt,)}, (), "about one", frozenset({"tools", "logging"})
        ),
        TWO.name: Discovered({"tool": (item("c"),)}, (), "about two", frozenset({"tools", "prompts"})),
    }
    few = VirtualServer(name=FEW, tools=("one_b", "one_nothing", "two_c"))
    only = VirtualServer(name=VirtualName("only"), tools=("one_a",))
    return federate((ONE, TWO), offers, (few, only)).snapshot


@pytest.mark.duty("list.virtual")
def test_a_view_holds_its_tools_and_nothing_else(snapshot: Snapshot) -> None:
    few = view_of(snapshot, Scope(FEW))
    assert few is not None
    assert few.of(TOOL).keys == ("one_b", "two_c")
    assert few.of(PROMPT).keys == few.of(RESOURCE).keys == ()
    assert few.state != snapshot.state
    assert view_of(snapshot, Scope(FEW)) is few, "made once"
    assert view_of(snapshot, Scope()) is snapshot
    assert view_of(snapshot, Scope(VirtualName("other"))) is None
    assert state_of(snapshot, Scope(VirtualName("other"))) == EMPTY.state


def test_views_are_bounded(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot) -> None:
    monkeypatch.setattr(views, "MAX_VIEWS", 1)
    for name in (FEW, VirtualName("only"), FEW):
        assert view_of(snapshot, Scope(name)) is not None
        assert list(snapshot.views) == [Scope(name)]


def test_a_view_tells_of_its_own_servers_alone(snapshot: Snapshot) -> None:
    only = view_of(snapshot, Scope(VirtualName("only")))
    assert only is not None
    assert "about one" in only.instructions
    assert "about two" not in only.instructions
    assert only.capabilities == {"logging"}


@pytest.mark.duty("list.virtual", "transport.elsewhere")
@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/mcp", {}, None),
        ("/mcp/ns/few", {}, "ns/few"),
        ("/mcp", {"x-mcp-virtualserver": "ns/few"}, "ns/few"),
        ("/mcp/ns/few", {"x-mcp-virtualserver": "ns/few"}, "ns/few"),
        ("/mcp/", {}, None),
        ("/mcp/ns/few/", {}, "ns/few"),
        ("/mcp/ns%2Ffew", {}, "ns/few"),
        ("/mcp", {"x-mcp-virtualserver": ""}, ""),
        ("/mcp/ns/few", {"x-mcp-virtualserver": "ns/other"}, 400),
        ("/mcpx", {}, 404),
        ("/", {}, 404),
    ],
)
def test_which_is_named(path: str, headers: dict[str, str], expected: str | int | None) -> None:
    scope = scope_of(path, headers)
    assert (scope.status if isinstance(scope, Reject) else scope.virtual) == expected


@pytest.mark.duty("list.virtual-404")
def test_an_unknown_name_is_never_everything(snapshot: Snapshot) -> None:
    for name in ("ns/none", "", "NS/FEW", "ns/few "):
        refused = call(snapshot, "one_b", x_mcp_virtualserver=name)
        assert isinstance(refused, Reject), name
        assert refused.status == 404


def call(snapshot: Snapshot, name: str, **headers: str) -> Forward | Reject:
    session = Session(
        key="k", expires=1, protocol_version="2025-11-25", client_info=JsonText("{}"), capabilities=JsonText("{}")
    )
    upstreams = {server.name: UpstreamSession(id="s", protocol_version="2025-11-25") for server in (ONE, TWO)}
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name}}).encode()
    sent = {"mcp-session-id": "x", **{key.replace("_", "-"): value for key, value in headers.items()}}
    decision = decide(HttpRequest(headers=sent, body=body), snapshot, SessionState(session=session, upstreams=upstreams))
    assert isinstance(decision, Forward | Reject)
    return decision


@pytest.mark.duty("list.virtual", "list.virtual-404")
def test_only_its_tools_can_be_called(snapshot: Snapshot) -> None:
    assert isinstance(call(snapshot, "one_b", x_mcp_virtualserver=FEW), Forward)
    for name in ("one_a", "one_nothing"):
        refused = call(snapshot, name, x_mcp_virtualserver=FEW)
        assert isinstance(refused, Reject)
        assert (refused.status, refused.code, refused.id) == (200, -32601, "7")
    unknown = call(snapshot, "one_b", x_mcp_virtualserver="ns/none")
    assert isinstance(unknown, Reject)
    assert (unknown.status, unknown.id, unknown.method) == (404, "7", "tools/call")


def test_a_fingerprint_changes_with_every_decision(snapshot: Snapshot) -> None:
    """The fingerprint changes with each fact that decisions depend on, and only then.

    The facts are the server behind a name, the URL of a server, a name there, and a view.
    """

    def of(*, url: str = "http://a/mcp", tools: tuple[str, ...] = ("one",), view: str = "one", prefix: str = "a_") -> str:
        server = Server(name=ServerName("ns/a"), url=url, hostname="a", tool_prefix=prefix)
        discovered = {server.name: Discovered({"tool": tuple(item(name) for name in tools)}, (), "", frozenset())}
        virtual = (VirtualServer(name=VirtualName("ns/few"), tools=(prefix + view,)),)
        return repr(fingerprint(federate((server,), discovered, virtual).snapshot))

    same = of()
    assert same == of()
    others = [of(url="http://b/mcp"), of(tools=("one", "two")), of(view="two"), of(prefix="b_")]
    assert len({same, *others, repr(fingerprint(snapshot))}) == 6
