"""MCP Apps in the catalog: who sees what, and which page is whose."""

from __future__ import annotations

import json

import pytest

from mcpgw_sidecar.catalog.aliases import read_alias, write_alias
from mcpgw_sidecar.catalog.apps import is_for_apps, with_pages
from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.views import view_of
from mcpgw_sidecar.model.kinds import RESOURCE, TOOL, Kind
from mcpgw_sidecar.model.names import JsonText, Scope, ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol.extensions import UI, declares

ONE, TWO = (
    Server(name=ServerName(name), url=f"http://{name}", hostname=name, tool_prefix=f"{name[-1]}_")
    for name in ("ns/a", "ns/b")
)
PAGE = "ui://clock/main"
VIRTUAL = VirtualServer(name=VirtualName("ns/v"), tools=("a_shown", "a_hidden"))


def items(kind: Kind, *objects: dict[str, object]) -> tuple[Item, ...]:
    return tuple(item for item in (read_item(kind, json.dumps(each)) for each in objects) if isinstance(item, Item))


def discovered(*names: str) -> Discovered:
    schema = {"type": "object"}
    shown = {"name": names[0], "inputSchema": schema, "_meta": {"ui": {"resourceUri": PAGE}, "ui/resourceUri": PAGE}}
    hidden = {"name": names[1], "inputSchema": schema, "_meta": {"ui": {"visibility": ["app"]}}}
    return Discovered({"tool": items(TOOL, shown, hidden), "resource": items(RESOURCE, {"uri": PAGE, "name": "x"})})


SNAPSHOT = federate(
    (ONE, TWO), {ONE.name: discovered("shown", "hidden"), TWO.name: discovered("shown", "other")}, (VIRTUAL,)
).snapshot


def test_tools_of_pages_are_for_those_who_show_pages() -> None:
    def names(scope: Scope) -> list[str]:
        view = view_of(SNAPSHOT, scope)
        assert view is not None
        return list(view.of(TOOL).keys)

    assert names(Scope(apps=True)) == ["a_hidden", "a_shown", "b_other", "b_shown"]
    assert names(Scope()) == ["a_shown", "b_shown"]
    assert names(Scope(VIRTUAL.name, apps=True)) == ["a_hidden", "a_shown"]
    assert names(Scope(VIRTUAL.name)) == ["a_shown"]
    assert view_of(SNAPSHOT, Scope()) is view_of(SNAPSHOT, Scope()), "made once"
    other = view_of(SNAPSHOT, Scope())
    assert other is not None
    assert other.virtual_servers == SNAPSHOT.virtual_servers


def test_a_page_of_two_servers_is_told_apart() -> None:
    alias = write_alias(TWO.name, PAGE)
    assert (alias, read_alias(alias)) == ("ui://ns%2Fb/clock/main", (TWO.name, PAGE))
    assert SNAPSHOT.of(RESOURCE).keys == (PAGE, alias) or SNAPSHOT.of(RESOURCE).keys == (alias, PAGE)
    tools = SNAPSHOT.of(TOOL).owned
    for name, uri in (("a_shown", PAGE), ("b_shown", alias)):
        assert json.loads(tools[name].text)["_meta"] == {"ui": {"resourceUri": uri}, "ui/resourceUri": uri}
    found = SNAPSHOT.find(RESOURCE, alias)
    assert found is not None
    assert found.server == TWO
    assert SNAPSHOT.find(RESOURCE, "ui://nobody/main") is None
    assert read_alias("ui://x") is None


def test_a_bare_name_that_one_server_has() -> None:
    found = SNAPSHOT.find_bare("other")
    assert found is not None
    assert found.key == "b_other"
    assert SNAPSHOT.find_bare("shown") is None


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"ui": {"visibility": ["app"]}}, True),
        ({"ui": {"visibility": ["model", "app"]}}, False),
        ({"ui": "visibility"}, False),
        (5, False),
        ({"x": {"visibility": ["app"]}}, False),
    ],
)
def test_what_is_for_pages_alone(meta: object, expected: bool) -> None:
    assert is_for_apps(json.dumps({"name": "x", "_meta": meta})) is expected


@pytest.mark.parametrize("meta", [5, {"ui": 5}, {"ui": {"resourceUri": 5}}, {"ui": {"resourceUri": "ui://other"}}, {}])
def test_a_tool_that_names_no_renamed_page_stays_as_it_is(meta: object) -> None:
    text = json.dumps({"name": "x", "description": PAGE, "_meta": meta}, indent=1)
    assert with_pages(text, {PAGE: "ui://new"}) == text
    assert with_pages(text, {}) == text


def test_a_meta_that_is_too_large_to_look_into_stays_as_it_is() -> None:
    text = json.dumps({"name": "x", "_meta": {"ui": {str(number): PAGE for number in range(20_000)}}})
    assert with_pages(text, {PAGE: "ui://new"}) == text


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"extensions": {UI: {}}}, True),
        ({"extensions": [UI]}, False),
        ({"extensions": {"x": UI}}, False),
        ({"experimental": {UI: {}}}, False),
        ({}, False),
    ],
)
def test_who_declares_an_extension(capabilities: object, expected: bool) -> None:
    session = Session(
        key="k", expires=9, protocol_version="v", client_info=JsonText("{}"), capabilities=JsonText(json.dumps(capabilities))
    )
    assert declares(session, UI) is expected
