"""Rules: what a caller sees is what it can call, and nothing else."""

from __future__ import annotations

import json
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.rights import allows, fits, rules_of
from mcpgw_sidecar.catalog.views import view_of
from mcpgw_sidecar.model.access import Access, Rule
from mcpgw_sidecar.model.decisions import HttpRequest, Reject
from mcpgw_sidecar.model.kinds import KINDS, PROMPT, RESOURCE, TOOL
from mcpgw_sidecar.model.names import JsonText, Scope, ServerName, VirtualName
from mcpgw_sidecar.model.servers import Server, VirtualServer
from mcpgw_sidecar.model.sessions import Session, SessionState, UpstreamSession
from tests.climb import decide

GLOBS = st.text("ab*/", max_size=6)
NAMES = st.text("ab/", max_size=6)
VALUES = st.sampled_from(["g", "h", "i"])
SERVERS = tuple(
    Server(name=ServerName(name), url=f"http://{name[-1]}/mcp", hostname=name[-1], tool_prefix=f"{name[-1]}_")
    for name in ("x/a", "x/b", "y/c")
)
TOOLS = ("get", "put", "list")
SESSION = Session(
    key="k", expires=10, protocol_version="2025-11-25", client_info=JsonText("{}"), capabilities=JsonText("{}")
)


def items(server: Server) -> Discovered:
    texts = {
        TOOL: [f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}' for name in TOOLS],
        PROMPT: ['{"name":"ask"}'],
        RESOURCE: [f'{{"uri":"r://{server.hostname}","name":"r"}}'],
    }
    read = {kind.name: tuple(read_item(kind, text) for text in of_kind) for kind, of_kind in texts.items()}
    return Discovered({name: tuple(item for item in found if isinstance(item, Item)) for name, found in read.items()})


VIRTUAL = VirtualServer(name=VirtualName("v/one"), tools=("a_get", "c_put"))
CATALOG = federate(SERVERS, {server.name: items(server) for server in SERVERS}, (VIRTUAL,)).snapshot
ALLOW = st.lists(
    st.dictionaries(st.sampled_from(["groups", "sub"]), st.frozensets(VALUES, min_size=1), max_size=2), max_size=2
)
RULES = st.builds(
    Rule,
    servers=st.lists(st.sampled_from(["x/*", "*", "x/a", "*/c", "z"]), max_size=2).map(tuple),
    virtual_servers=st.lists(st.sampled_from(["v/*", "w"]), max_size=1).map(tuple),
    tools=st.lists(st.sampled_from(["get", "p*", "*t", "*"]), max_size=2).map(tuple),
    allow=ALLOW.map(lambda each: tuple(tuple(one.items()) for one in each)),
)
CLAIMS = st.none() | st.dictionaries(
    st.sampled_from(["groups", "sub"]), VALUES | st.lists(VALUES | st.integers(), max_size=2)
)


@given(GLOBS, NAMES)
def test_a_glob_fits_as_a_regular_expression_would(glob: str, name: str) -> None:
    pattern = ".*".join(re.escape(part) for part in glob.split("*"))
    assert fits(glob, name) == (re.fullmatch(pattern, name, re.DOTALL) is not None)


def is_given(rule: Rule, virtual: str | None, server: str, tool: str | None) -> bool:
    """What interface.md says of one rule."""
    if rule.virtual_servers and (virtual is None or not any(fits(glob, virtual) for glob in rule.virtual_servers)):
        return False
    if rule.servers and not any(fits(glob, server) for glob in rule.servers):
        return False
    return not rule.tools or (tool is not None and any(fits(glob, tool) for glob in rule.tools))


@pytest.mark.duty("access.rules")
@given(st.none() | st.lists(RULES, max_size=4).map(tuple), CLAIMS, st.sampled_from([None, "v/one"]))
def test_a_name_is_listed_if_and_only_if_it_can_be_called(
    rules: tuple[Rule, ...] | None, claims: dict[str, object] | None, virtual: str | None
) -> None:
    held = rules_of(Access(rules=rules), claims)
    assert (held is None) == (rules is None)
    view = view_of(CATALOG, Scope(None if virtual is None else VirtualName(virtual), rules=held))
    assert view is not None
    listed = [tool["name"] for tool in json.loads(view.of(TOOL).page(None) or b"{}")["tools"]]
    state = SessionState(
        session=SESSION,
        upstreams={server.name: UpstreamSession(id="u", protocol_version="2025-11-25") for server in SERVERS},
    )
    for server in SERVERS:
        for tool in TOOLS:
            name = f"{server.tool_prefix}{tool}"
            holds = held is None or any(is_given(rule, virtual, server.name, tool) for rule in held)
            there = holds and (virtual is None or name in VIRTUAL.tools)
            assert (name in listed) == there
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name}}).encode()
            decided = decide(HttpRequest(headers={":path": "/mcp"}, body=body), view, state)
            assert isinstance(decided, Reject) != there
        reads = held is None or any(is_given(rule, virtual, server.name, None) for rule in held)
        assert (f"r://{server.hostname}" in view.of(RESOURCE).owned) == (reads and virtual is None)
        assert (f"{server.tool_prefix}ask" in view.of(PROMPT).owned) == (reads and virtual is None)
        assert held is None or (server.name in (view.readable or ())) == reads
    assert held is None or all(set(view.of(kind).owned) <= set(CATALOG.of(kind).owned) for kind in KINDS)


@pytest.mark.duty("access.rules")
def test_claims() -> None:
    def holds(claims: dict[str, object] | None, **wanted: str) -> bool:
        return allows((tuple((name.replace("__", "."), frozenset({value})) for name, value in wanted.items()),), claims)

    assert holds({"groups": ["a", "b"]}, groups="b")
    assert holds({"groups": "a"}, groups="a")
    assert not holds({"groups": "a b"}, groups="a")
    assert holds({"scope": "a b"}, scope="b")
    assert holds({"scp": ["a"]}, scp="a")
    assert holds({"realm_access": {"roles": ["r"]}}, realm_access__roles="r")
    assert holds({"realm_access.roles": "x", "realm_access": {"roles": ["r"]}}, realm_access__roles="x")
    assert not holds({"realm_access.roles": "x", "realm_access": {"roles": ["r"]}}, realm_access__roles="r")
    assert not holds({"groups": 1}, groups="1")
    assert not holds({"groups": [1, None, {"a": 1}]}, groups="1")
    assert not holds({"groups": "A"}, groups="a")
    assert not holds(None, groups="a")
    assert allows(((),), None), "everybody"
    assert not allows((), {"groups": "a"}), "nobody"
