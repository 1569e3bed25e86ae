from __future__ import annotations

import json

import attrs
import pytest

from mcpgw_sidecar.catalog.aliases import write_alias
from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, Unusable, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.templates import match
from mcpgw_sidecar.model.decisions import Decision, FindServer, Forward, HttpRequest, Reject
from mcpgw_sidecar.model.kinds import KINDS, PROMPT, RESOURCE, TEMPLATE, TOOL, Kind
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionState, UpstreamSession
from tests.climb import decide

ONE = Server(name=ServerName("one"), url="http://one/mcp", hostname="one", tool_prefix="a_")
TWO = Server(name=ServerName("two"), url="http://two/mcp?key=secret", hostname="two", tool_prefix="b_")
SESSION = Session(key="k", expires=9, protocol_version="v", client_info=JsonText("{}"), capabilities=JsonText("{}"))
STATE = SessionState(
    session=SESSION, upstreams={server.name: UpstreamSession(id="u", protocol_version="v") for server in (ONE, TWO)}
)


def items(kind: Kind, *objects: dict[str, object]) -> tuple[Item, ...]:
    read = [read_item(kind, json.dumps(each)) for each in objects]
    return tuple(item for item in read if isinstance(item, Item))


ALIAS = write_alias(TWO.name, "")
OFFERS = {
    ONE.name: Discovered(
        {
            "prompt": items(PROMPT, {"name": "ask"}),
            "resource": items(RESOURCE, {"uri": "file:///x", "name": "x"}),
            "template": items(TEMPLATE, {"uriTemplate": "db://one/{table}", "name": "t"}),
        },
        capabilities=frozenset({"prompts", "resources"}),
    ),
    TWO.name: Discovered(
        {
            "prompt": items(PROMPT, {"name": "ask"}),
            "resource": items(RESOURCE, {"uri": "file:///x", "name": "other"}),
            "template": items(
                TEMPLATE, {"uriTemplate": "db://{+any}", "name": "t"}, {"uriTemplate": "db://one/{table}", "name": "u"}
            ),
        },
        capabilities=frozenset({"completions"}),
    ),
}
FEDERATION = federate((ONE, TWO), OFFERS)
SNAPSHOT = FEDERATION.snapshot


def ask(method: str, params: object, state: SessionState = STATE) -> Decision:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    return decide(HttpRequest(headers={}, body=body.encode()), SNAPSHOT, state)


@pytest.mark.duty("list.prefixed", "list.uri-alias", "session.capabilities")
def test_names_take_the_prefix_and_uris_do_not() -> None:
    assert SNAPSHOT.of(PROMPT).keys == ("a_ask", "b_ask")
    assert SNAPSHOT.of(RESOURCE).keys == ("file:///x", f"{ALIAS}file:///x")
    assert SNAPSHOT.of(RESOURCE).owned["file:///x"].server == ONE
    assert json.loads(SNAPSHOT.of(RESOURCE).owned[f"{ALIAS}file:///x"].text) == {"uri": f"{ALIAS}file:///x", "name": "other"}
    assert FEDERATION.shares[TWO.name].conflicts == ()
    assert FEDERATION.shares[ONE.name].count(RESOURCE) == 1
    assert FEDERATION.shares[ONE.name].tools == ()
    assert SNAPSHOT.capabilities == {"prompts", "resources", "completions"}


@pytest.mark.duty("list.invalid-left-out")
@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (PROMPT, '{"name":"p","arguments":{}}', "arguments"),
        (PROMPT, '{"title":"p"}', '"name"'),
        (RESOURCE, '{"uri":"x:"}', '"name"'),
        (RESOURCE, '{"uri":"","name":"x"}', "0 characters"),
        (RESOURCE, '{"uri":"x:' + "y" * 9000 + '","name":"x"}', "8192"),
        (TEMPLATE, '{"uriTemplate":5,"name":"x"}', '"uriTemplate"'),
        (TEMPLATE, '{"uriTemplate":"x:{y}","name":5}', '"name"'),
        (TEMPLATE, '{"uriTemplate":"' + "{a}b" * 33 + '","name":"t"}', "32 variables"),
    ],
)
def test_what_clients_would_choke_on_is_left_out(kind: Kind, text: str, reason: str) -> None:
    item = read_item(kind, text)
    assert isinstance(item, Unusable)
    assert reason in item.reason


def test_prompts_may_have_arguments() -> None:
    assert isinstance(read_item(PROMPT, '{"name":"p","arguments":[]}'), Item)


@pytest.mark.duty("call.resource")
@pytest.mark.parametrize(
    ("uri", "template"),
    [
        ("db://a/b", "db://a/{x}"),
        ("db://a/b/c", "db://{+x}"),
        ("db://z", "db://{+x}"),
        ("file:///x.txt", "file:///{name}.txt"),
        ("web:q?a=1", "web:q{?a}"),
        ("none:", None),
        ("db", None),
    ],
)
def test_the_template_with_the_most_fixed_text_makes_a_uri(uri: str, template: str | None) -> None:
    templates = ["db://a/{x}", "db://{+x}", "file:///{name}.txt", "web:q{?a}"]
    assert match(templates, uri) == template


def test_a_template_and_a_uri_cannot_be_made_to_take_long() -> None:
    """As a regular expression this is the fourteenth power of the length."""
    assert match(["{+a}x" * 14 + "!", "{a}x" * 14 + "!"], "x" * 8000) is None
    assert match(["{+a}x" * 14], "x" * 8000) is not None
    assert match(["{+a}" * 2000], "x" * 8000) is not None
    assert match(["a{b}{c}"], "axx") == "a{b}{c}"


def test_a_template_is_not_a_pattern_of_its_own() -> None:
    assert match(["a.b/{x}"], "aXb/1") is None
    assert match(["(((/{x}"], "(((/1") == "(((/{x}"


@pytest.mark.duty("call.prompt", "call.resource", "call.completion", "list.uri-alias")
@pytest.mark.parametrize(
    ("method", "params", "server", "sent"),
    [
        ("prompts/get", {"name": "b_ask"}, TWO, {"name": "ask"}),
        ("resources/read", {"uri": "file:///x"}, ONE, {"uri": "file:///x"}),
        ("resources/read", {"uri": "db://one/people"}, ONE, {"uri": "db://one/people"}),
        ("resources/read", {"uri": "db://é/y"}, TWO, {"uri": "db://é/y"}),
        ("resources/read", {"uri": ALIAS + "file:///x"}, TWO, {"uri": "file:///x"}),
        ("resources/subscribe", {"uri": ALIAS + "file:///x"}, TWO, {"uri": "file:///x"}),
        ("resources/read", {"uri": ALIAS + "db://one/people"}, TWO, {"uri": "db://one/people"}),
        ("resources/read", {"uri": ALIAS + "db://other/é"}, TWO, {"uri": "db://other/é"}),
        ("resources/read", {"uri": write_alias(ONE.name, "file:///x")}, ONE, {"uri": "file:///x"}),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": ALIAS + "db://one/{table}"}},
            TWO,
            {"ref": {"type": "ref/resource", "uri": "db://one/{table}"}},
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "a_ask"}},
            ONE,
            {"ref": {"type": "ref/prompt", "name": "ask"}},
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "db://{+any}"}},
            TWO,
            {"ref": {"type": "ref/resource", "uri": "db://{+any}"}},
        ),
    ],
)
def test_requests_find_their_owner(method: str, params: object, server: Server, sent: object) -> None:
    decision = ask(method, params)
    assert isinstance(decision, Forward)
    assert decision.server == server
    assert json.loads(decision.body)["params"] == sent


def test_a_uri_arrives_as_it_was_written() -> None:
    body = '{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"db:\\/\\/one\\u002fpeople", "x":1e400}}'
    decision = decide(HttpRequest(headers={}, body=body.encode()), SNAPSHOT, STATE)
    assert isinstance(decision, Forward)
    assert decision.body.decode() == body


@pytest.mark.duty("error.unknown-item", "error.params-32602")
@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("prompts/get", {"name": "ask"}, -32602),
        ("resources/read", {"uri": ALIAS + "nope:"}, -32002),
        ("resources/read", {"uri": "mcpgw://nobody/file:///x"}, -32002),
        ("resources/read", {"uri": "mcpgw://nobody"}, -32002),
        ("resources/read", {"uri": write_alias(ONE.name, "db://other")}, -32002),
        ("completion/complete", {"ref": 5}, -32602),
        ("completion/complete", {"ref": {"type": "x"}}, -32602),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": 5}}, -32602),
    ],
)
def test_what_nobody_owns(method: str, params: object, code: int) -> None:
    decision = ask(method, params)
    assert isinstance(decision, Reject)
    assert (decision.status, decision.code, decision.method) == (200, code, method)


def test_a_page_may_call_a_tool_by_its_own_name() -> None:
    shows_pages = JsonText('{"extensions":{"io.modelcontextprotocol/ui":{}}}')
    snapshot = federate(
        (ONE,), {ONE.name: Discovered({"tool": items(TOOL, {"name": "x", "inputSchema": {"type": "object"}})})}
    )
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'
    for capabilities, kind in ((shows_pages, Forward), (JsonText("{}"), Reject)):
        state = attrs.evolve(STATE, session=attrs.evolve(SESSION, capabilities=capabilities))
        assert isinstance(decide(HttpRequest(headers={}, body=body), snapshot.snapshot, state), kind)


def test_a_uri_that_nobody_lists_is_looked_for_where_the_session_has_been() -> None:
    assert isinstance(ask("resources/read", {"uri": "nope:"}), FindServer)
    decision = ask("resources/read", {"uri": "nope:"}, attrs.evolve(STATE, links={"nope:": TWO.name}))
    assert isinstance(decision, Forward)
    assert (decision.server, decision.sent_key) == (TWO, None)
    one = attrs.evolve(STATE, upstreams={ONE.name: STATE.upstreams[ONE.name]})
    for uri in ("nope:", "x://elsewhere/x", "no-scheme", "http://[x"):
        decision = ask("resources/read", {"uri": uri}, one)
        assert isinstance(decision, Forward)
        assert decision.server == ONE
    decision = ask("resources/read", {"uri": "nope:"}, attrs.evolve(STATE, upstreams={}))
    assert isinstance(decision, Reject)
    assert decision.code == -32002


def test_the_table_of_kinds_is_without_contradiction() -> None:
    assert len({kind.name for kind in KINDS}) == len({kind.list_method for kind in KINDS}) == len(KINDS)
    assert all(kind.changed.startswith(f"notifications/{kind.capability}/") for kind in KINDS)


@pytest.mark.duty("security.credentials")
def test_the_query_of_a_url_is_not_shown() -> None:
    assert (ONE.shown_url, TWO.shown_url) == ("http://one/mcp", "http://two/mcp?...")


@pytest.mark.duty("notify.updated")
def test_an_update_is_told_under_the_uri_that_clients_know() -> None:
    assert SNAPSHOT.shown_uri(ONE.name, "file:///x") == "file:///x"
    assert SNAPSHOT.shown_uri(TWO.name, "file:///x") == f"{ALIAS}file:///x"
    assert SNAPSHOT.shown_uri(TWO.name, "file:///unheard-of") == "file:///unheard-of"


def test_a_server_may_list_a_uri_that_looks_like_an_alias() -> None:
    uri = write_alias(TWO.name, "file:///x")
    offers = {ONE.name: Discovered({"resource": items(RESOURCE, {"uri": uri, "name": "x"})}, capabilities=frozenset())}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}}).encode()
    decision = decide(HttpRequest(headers={}, body=body), federate((ONE,), offers).snapshot, STATE)
    assert isinstance(decision, Forward)
    assert (decision.server, json.loads(decision.body)["params"]) == (ONE, {"uri": uri})
