from __future__ import annotations

import json

import attrs
import pytest

from mcpgw_sidecar.catalog.federation import federate, with_access
from mcpgw_sidecar.catalog.items import Item, Unusable, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import EMPTY, PAGE
from mcpgw_sidecar.catalog.views import view_of
from mcpgw_sidecar.model.access import EVERYBODY, Access, Rule
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import Scope, ServerName
from mcpgw_sidecar.model.servers import Desired, Server
from mcpgw_sidecar.model.statuses import Conflict

SCHEMA = '"inputSchema":{"type":"object"}'


def server(name: str, prefix: str = "", **more: object) -> Server:
    values = {"name": ServerName(name), "url": f"http://{name}.example/mcp", "hostname": name, "tool_prefix": prefix}
    return Server(**(values | more))  # type: ignore[arg-type]


def offer(*names: str) -> Discovered:
    tools = [read_item(TOOL, f'{{"name":{json.dumps(name)},{SCHEMA}}}') for name in names]
    return Discovered({"tool": tuple(tool for tool in tools if isinstance(tool, Item))})


def names(page: bytes | None) -> list[str]:
    assert page is not None
    return [tool["name"] for tool in json.loads(page)["tools"]]


@pytest.mark.duty("list.as-written")
def test_everything_but_the_name_is_relayed_as_it_came() -> None:
    text = (
        '{ "x":1e400,"name" : "gr\\u0065et", "y":9007199254740993,"inputSchema":{"type":"object","z":-0.0}, "w":"\\ud800" }'
    )
    tool = read_item(TOOL, text)
    assert isinstance(tool, Item)
    assert tool.key == "greet"
    assert tool.key_text == '"gr\\u0065et"'
    assert tool.with_prefix("test_") == text.replace('"gr', '"test_gr')
    assert tool.with_prefix("") == text


@pytest.mark.duty("list.invalid-left-out")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5", "object"),
        ('{"name":"a"', "expected"),
        ('{"name":"a","name":"b",' + SCHEMA + "}", "twice"),
        ("{" + SCHEMA + "}", '"name"'),
        ('{"name":5,' + SCHEMA + "}", '"name"'),
        ('{"name":"",' + SCHEMA + "}", "0 characters"),
        ('{"name":"' + "a" * 129 + '",' + SCHEMA + "}", "129 characters"),
        ('{"name":"a\\nb",' + SCHEMA + "}", "control"),
        ('{"name":"a"}', "inputSchema"),
        ('{"name":"a","inputSchema":null}', "inputSchema"),
        ('{"name":"a","inputSchema":{"type":"string"}}', "inputSchema"),
        ('{"name":"a",' + SCHEMA + ',"outputSchema":5}', "outputSchema"),
        ('{"name":"a",' + SCHEMA + ',"description":5}', "description"),
        ('{"name":"a",' + SCHEMA + ',"title":7}', "title"),
        ('{"name":"a","execution":{"taskSupport":"required"},' + SCHEMA + "}", "called as a task"),
    ],
)
def test_a_broken_tool_is_left_out_with_its_reason(text: str, reason: str) -> None:
    item = read_item(TOOL, text)
    assert isinstance(item, Unusable)
    assert reason in item.reason


@pytest.mark.parametrize("execution", ['{"taskSupport":"optional"}', '{"taskSupport":"forbidden"}', "{}", "5", '"a"'])
def test_what_a_tool_says_of_tasks_is_cut(execution: str) -> None:
    tool = read_item(TOOL, f'{{"name":"a",{SCHEMA},"execution":{execution},"_meta":{{"execution":1}}}}')
    assert isinstance(tool, Item)
    assert json.loads(tool.text) == {"name": "a", **json.loads(f"{{{SCHEMA}}}"), "_meta": {"execution": 1}}


@pytest.mark.duty("list.prefixed", "list.order")
def test_names_are_prefixed_and_sorted() -> None:
    result = federate(
        (server("b", "b_"), server("a", "a_")), {ServerName("a"): offer("z", "y"), ServerName("b"): offer("x")}
    )
    assert names(result.snapshot.of(TOOL).page(None)) == ["a_y", "a_z", "b_x"]
    assert result.snapshot.of(TOOL).owned[("b_x")].upstream_key == '"x"'


@pytest.mark.duty("list.clash", "list.order")
def test_the_earlier_server_owns_a_clashing_name_whoever_answered_first() -> None:
    first, second = server("first", "t_"), server("second", "t_")
    both = {ServerName("second"): offer("same", "own"), ServerName("first"): offer("same")}
    result = federate((first, second), both)
    assert names(result.snapshot.of(TOOL).page(None)) == ["t_own", "t_same"]
    assert result.snapshot.of(TOOL).owned[("t_same")].server == first
    clash = Conflict(kind="tool", name="t_same", owner=ServerName("first"))
    assert result.shares[ServerName("second")].conflicts == (clash,)
    assert result.shares[ServerName("first")].conflicts == ()


def test_prefixes_that_overlap_meet_in_the_whole_name() -> None:
    """The longest prefix that fits owns a name: nobody takes over another's tools."""
    servers = (server("a", "t"), server("b", "t_"), server("c"))
    tools = {ServerName("a"): offer("_x", "x"), ServerName("b"): offer("x", "y"), ServerName("c"): offer("t_z", "z")}
    result = federate(servers, tools)
    owned = {name: tool.server.name for name, tool in result.snapshot.of(TOOL).owned.items()}
    assert owned == {"tx": "a", "t_x": "b", "t_y": "b", "z": "c"}
    assert [(each.name, each.owner) for each in result.shares[ServerName("a")].conflicts] == [("t_x", "b")]
    assert [(each.name, each.owner) for each in result.shares[ServerName("c")].conflicts] == [("t_z", "b")]


def test_names_that_some_models_refuse_are_told() -> None:
    result = federate((server("a"),), {ServerName("a"): offer("n" * 64, "m" * 65)})
    (warned,) = result.shares[ServerName("a")].warnings
    assert (warned.name, warned.reason) == ("m" * 65, "65 characters; some models take 64")


def test_a_server_that_lists_a_name_twice_keeps_the_first() -> None:
    result = federate((server("a"),), {ServerName("a"): offer("x", "x")})
    assert names(result.snapshot.of(TOOL).page(None)) == ["x"]
    assert result.shares[ServerName("a")].invalid[0].reason == "the server lists this name twice"


@pytest.mark.duty("list.invalid-left-out")
def test_a_name_that_grows_too_long_by_its_prefix_is_left_out() -> None:
    result = federate((server("a", "p_"),), {ServerName("a"): offer("n" * 127)})
    assert names(result.snapshot.of(TOOL).page(None)) == []
    assert "129 characters" in result.shares[ServerName("a")].invalid[0].reason


def test_what_could_not_be_read_is_reported() -> None:
    broken = Discovered(unusable=(Unusable("tool", "x", "why"),))
    assert federate((server("a"),), {ServerName("a"): broken}).shares[ServerName("a")].invalid[0].reason == "why"


@pytest.mark.duty("list.pages")
def test_pages_of_a_thousand_each_tool_once() -> None:
    many = [f"t{number:04}" for number in range(2 * PAGE + 5)]
    snapshot = federate((server("a"),), {ServerName("a"): offer(*many)}).snapshot
    all_names: list[str] = []
    cursor: str | None = None
    sizes = []
    while True:
        page = snapshot.of(TOOL).page(cursor)
        assert page is not None
        all_names += names(page)
        sizes.append(len(names(page)))
        cursor = json.loads(page).get("nextCursor")
        if cursor is None:
            break
    assert all_names == many
    assert sizes == [PAGE, PAGE, 5]


@pytest.mark.duty("list.cursor-outlives")
def test_a_cursor_outlives_its_snapshot() -> None:
    many = [f"t{number:04}" for number in range(PAGE + 5)]
    old = federate((server("a"),), {ServerName("a"): offer(*many)}).snapshot
    page = old.of(TOOL).page(None)
    assert page is not None
    cursor = json.loads(page)["nextCursor"]
    new = federate((server("a"),), {ServerName("a"): offer(*many[500:], "t9999")}).snapshot
    assert names(new.of(TOOL).page(cursor)) == [*many[PAGE:], "t9999"]
    assert [old.of(TOOL).is_prepared(each) for each in (None, cursor, "x")] == [True, True, False]
    assert old.of(TOOL).packed(page) is old.of(TOOL).packed(page), "compressed once"


@pytest.mark.duty("list.cursor-32602")
@pytest.mark.parametrize("cursor", ["", "x", "bm9wZQ==", "WzEsMl0=", "é"])
def test_a_cursor_that_was_never_given_out(cursor: str) -> None:
    assert EMPTY.of(TOOL).page(cursor) is None


def test_the_digest_follows_the_list() -> None:
    one = federate((server("a"),), {ServerName("a"): offer("x")}).snapshot
    same = federate((server("a", url="http://elsewhere.example"),), {ServerName("a"): offer("x")}).snapshot
    other = federate((server("a"),), {ServerName("a"): offer("y")}).snapshot
    assert one.of(TOOL).digest == same.of(TOOL).digest != other.of(TOOL).digest


@pytest.mark.duty("session.capabilities")
def test_instructions_stand_under_their_prefix() -> None:
    talk = attrs.evolve(offer(), instructions="Do.")
    servers = (server("a", "a_"), server("b"), server("c"))
    instructions = federate(servers, {ServerName("a"): talk, ServerName("b"): talk}).snapshot.instructions
    assert instructions == "Tools that start with a_:\nDo.\n\nTools of b:\nDo."


@pytest.mark.duty("header.authority-path")
def test_a_servers_path_keeps_its_query() -> None:
    assert server("a", url="http://h/mcp?x=1").path == "/mcp?x=1"
    assert server("a", url="http://h").path == "/"


@pytest.mark.duty("config.keys")
def test_disabled_servers_take_no_part() -> None:
    desired = Desired(source="s", servers=(server("a"), server("b", enabled=False)))
    assert [each.name for each in desired.enabled] == ["a"]


@pytest.mark.duty("access.rules")
def test_other_rules_leave_the_catalog_and_the_views_of_rules_that_stay() -> None:
    """Merging thousands of tools for them takes a while."""
    before = federate((server("one"),), {ServerName("one"): offer("a", "b")})
    rule, other = (Rule(tools=(name,), allow=EVERYBODY) for name in ("a", "b"))
    scope = Scope(rules=frozenset({rule}))
    view = view_of(before.snapshot, scope)
    after = with_access(before, Access(rules=(rule, other)))
    assert after.snapshot.access.rules == (rule, other)
    assert after.snapshot.lists is before.snapshot.lists
    assert view_of(after.snapshot, scope) is view
    both = view_of(after.snapshot, Scope(rules=frozenset({rule, other})))
    assert both is not None
    assert both.of(TOOL).keys == ("a", "b")
