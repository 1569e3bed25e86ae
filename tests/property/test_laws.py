"""Laws of the parsers and of the catalog, for any input that Hypothesis can think of."""

from __future__ import annotations

import json
import string
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.model.decisions import Forward, HttpRequest
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, SessionState, UpstreamSession
from mcpgw_sidecar.protocol.jsonrpc import Malformed, Request, parse_message
from mcpgw_sidecar.protocol.jsontext import JsonTextError, parse_array, parse_object
from mcpgw_sidecar.protocol.sse import SseParser, event_bytes
from mcpgw_sidecar.sessions.tokens import parse_keys
from tests.climb import decide

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
SPACES = st.sampled_from(["", " ", "\n", "\t \r\n"])


@given(st.dictionaries(TEXT, JSON, max_size=6), st.booleans(), SPACES)
def test_members_are_what_json_says_and_stand_where_they_say(value: dict[str, object], ascii_only: bool, space: str) -> None:
    text = space + json.dumps(value, ensure_ascii=ascii_only) + space
    members = parse_object(text)
    assert {member.key: json.loads(text[member.start : member.end]) for member in members} == value


@given(st.text(alphabet='{}[]":,\\ntruefalse0123.-eE \n\u00e9', max_size=40))
def test_nothing_but_json_is_read_as_json(text: str) -> None:
    """A text that we read, Python's own parser reads as well, and for objects the reverse holds."""
    try:
        parse_object(text)
        accepted = True
    except JsonTextError:
        accepted = False
    try:
        expected = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        expected = False
    assert accepted == expected


@given(st.lists(JSON, max_size=6))
def test_arrays_fall_into_their_elements(value: list[object]) -> None:
    assert [json.loads(text) for text in parse_array(json.dumps(value, indent=1))] == value


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_fault(body: bytes) -> None:
    message = parse_message(body)
    if isinstance(message, Malformed):
        assert message.code in {-32700, -32600, -32602}


@pytest.mark.duty("call.id")
@given(JSON, JSON, st.dictionaries(TEXT, JSON, max_size=3))
def test_an_id_is_kept_or_refused(ident: object, params: object, more: dict[str, object]) -> None:
    message = parse_message(json.dumps(more | {"jsonrpc": "2.0", "id": ident, "method": "m", "params": params}))
    if isinstance(message, Request):
        assert json.loads(message.id) == ident
        assert not isinstance(ident, bool)


NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30)
PREFIXES = st.text(string.ascii_letters + string.digits, max_size=8)


@pytest.mark.duty("call.name-alone")
@given(NAMES, PREFIXES, st.dictionaries(TEXT, JSON, max_size=3), JSON, st.booleans())
def test_a_call_differs_from_what_the_client_wrote_in_one_name(
    name: str, prefix: str, more: dict[str, object], arguments: object, ascii_only: bool
) -> None:
    server = Server(name=ServerName("s"), url="http://h/mcp", hostname="h", tool_prefix=prefix)
    tool = read_item(TOOL, json.dumps({"name": name, "inputSchema": {"type": "object"}}, ensure_ascii=ascii_only))
    assert isinstance(tool, Item)
    snapshot = federate((server,), {server.name: Discovered({"tool": (tool,)})}).snapshot
    session = Session(key="k", expires=9, protocol_version="x", client_info=JsonText("{}"), capabilities=JsonText("{}"))
    state = SessionState(session=session, upstreams={server.name: UpstreamSession(id="u", protocol_version="x")})
    params = {**{k: v for k, v in more.items() if k != "name"}, "name": prefix + name, "arguments": arguments}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    decision = decide(HttpRequest(headers={}, body=json.dumps(sent).encode()), snapshot, state)
    assert isinstance(decision, Forward)
    assert json.loads(decision.body) == sent | {"params": params | {"name": name}}


@pytest.mark.duty("list.order", "list.clash")
@given(st.lists(NAMES, max_size=8), st.lists(NAMES, max_size=8), PREFIXES, PREFIXES)
def test_who_owns_a_name_does_not_depend_on_who_answered_first(one: list[str], two: list[str], p1: str, p2: str) -> None:
    first = Server(name=ServerName("one"), url="http://1", hostname="1", tool_prefix=p1)
    second = Server(name=ServerName("two"), url="http://2", hostname="2", tool_prefix=p2)

    def offer(names: list[str]) -> Discovered:
        tools = [read_item(TOOL, json.dumps({"name": name, "inputSchema": {"type": "object"}})) for name in names]
        return Discovered({"tool": tuple(tool for tool in tools if isinstance(tool, Item))})

    offers = {first.name: offer(one), second.name: offer(two)}
    together = federate((first, second), offers)
    reversed_arrival = federate((first, second), dict(reversed(offers.items())))
    assert together.snapshot.of(TOOL).page(None) == reversed_arrival.snapshot.of(TOOL).page(None)

    def of(prefix: str, names: list[str]) -> set[str]:
        """The names that begin with no longer prefix of the other server."""
        longer = [other for other in (p1, p2) if len(other) > len(prefix)]
        return {prefix + name for name in names if not any((prefix + name).startswith(other) for other in longer)}

    assert set(together.snapshot.of(TOOL).keys) == of(p1, one) | of(p2, two)
    for name in of(p1, one):
        assert together.snapshot.of(TOOL).owned[name].server == first
    for share in together.shares.values():
        assert set(share.tools) <= set(together.snapshot.of(TOOL).keys)


@given(st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=5), st.lists(st.integers(0, 400), max_size=8))
def test_events_do_not_depend_on_where_the_network_cut_them(messages: list[dict[str, object]], cuts: list[int]) -> None:
    stream = b"".join(event_bytes(json.dumps(message).encode()) for message in messages)
    parser = SseParser(100_000)
    events = []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        events += parser.feed(stream[start:end])
    assert [json.loads(event.data) for event in events] == messages


KEYS = parse_keys("k" * 43, "here")


@pytest.mark.duty("session.id-ascii")
@given(TEXT, st.integers(1, 2**40), TEXT, TEXT)
def test_a_token_says_what_was_sealed(key: str, expires: int, info: str, version: str) -> None:
    session = Session(
        key=key,
        expires=expires,
        protocol_version=version,
        client_info=JsonText(json.dumps(info)),
        capabilities=JsonText("{}"),
    )
    token = KEYS.seal(session)
    assert KEYS.verify(token, expires - 1) == session
    assert token.isascii()


@pytest.mark.duty("session.id-unforgeable")
@given(st.text(max_size=200))
def test_no_text_is_a_token_by_chance(text: str) -> None:
    assert KEYS.verify(text, 0) in {SessionFault.MISSING, SessionFault.UNKNOWN}
