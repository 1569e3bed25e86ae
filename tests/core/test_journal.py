"""The lines of the journal: what another process makes of them."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import AllWishes
from mcpgw_sidecar.sessions.journal import ENDED, TICKET, UNWISH, WISH, Kept, bounded, line, replayed, ticket_text
from mcpgw_sidecar.sessions.tickets import open_wishes, seal_wishes
from mcpgw_sidecar.sessions.tokens import parse_keys

ONE, ODD = ServerName("ns/one"), ServerName("a b=c%\u00e9")
KEYS = parse_keys("k" * 40, "test")


def test_later_lines_count() -> None:
    lines = [
        line("a", 10, TICKET, ticket_text(ONE, "t1")),
        line("a", 10, TICKET, ticket_text(ODD, "t2")),
        line("a", 10, TICKET, ticket_text(ONE, "t3")),
        line("a", 10, WISH, "w1"),
        line("b", 10, WISH, "w2"),
        line("a", 10, WISH, "w3"),
        line("a", 10, UNWISH, "w1"),
        line("b", 10, ENDED),
        line("c", 5, WISH, "expired"),
    ]
    rows = replayed(lines, 5.0)
    assert rows == {"a": Kept(10, False, {ODD: "t2", ONE: "t3"}, {"w3": None}), "b": Kept(10, True)}
    replayed([line("a", 10, TICKET, ticket_text(ODD, None))], 5.0, rows)
    assert rows["a"].tickets == {ONE: "t3"}


@pytest.mark.parametrize(
    "text", ["", "\n", "a 10 wish", "a x wish w", "a 10 wish w w", "\u0660 \u0661 wish w", "a 10 what w"]
)
def test_a_line_that_cannot_be_read_says_nothing(text: str) -> None:
    assert not any(row.tickets or row.wishes or row.ended for row in replayed([text], 0.0).values())


def test_the_oldest_sessions_make_room_and_ends_last() -> None:
    rows = {key: Kept(10, wishes={"w" * 80: None}) for key in "abc"} | {"d": Kept(10, True)}
    size = len(line("a", 10, WISH, "w" * 80))
    ended = line("d", 10, ENDED)
    assert bounded(rows, 10_000) == [*(line(key, 10, WISH, "w" * 80) for key in "abc"), ended]
    assert bounded(rows, 2 * size + len(ended)) == [*(line(key, 10, WISH, "w" * 80) for key in "bc"), ended]
    assert bounded(rows, len(ended)) == [ended]
    assert bounded(rows, 0) == []


LINES = st.lists(
    st.builds(
        line,
        st.sampled_from("ab"),
        st.just(10),
        st.sampled_from([TICKET, WISH, UNWISH, ENDED]),
        st.sampled_from(["ns/one=t1", "ns/one=t2", "ns/two=t3", "ns/one=", "w1", "w2"]),
    )
)


@given(LINES, st.integers(0, 20))
def test_what_is_written_anew_says_the_same(lines: list[str], at: int) -> None:
    """Wherever that was done."""
    first = bounded(replayed(lines[:at], 0.0), 10_000)
    rows = replayed([*first, *lines[at:]], 0.0)
    whole = replayed(lines, 0.0)
    for key, row in whole.items():
        if row.tickets or row.wishes or row.ended:
            assert rows[key] == row


def test_wishes_are_sealed_for_their_session() -> None:
    wishes = AllWishes(level="debug", resources={ONE: frozenset({"file:///a", "file:///b"})})
    sealed = seal_wishes(KEYS, "a", wishes)
    assert open_wishes(KEYS, "a", sealed) == wishes
    for key, text in (("b", sealed), ("a", sealed[:-2] + "AA"), ("a", ""), ("a", "!"), ("a", "\u00e9")):
        assert open_wishes(KEYS, key, text) == AllWishes()
    assert "file" not in sealed
    many = AllWishes(resources={ONE: frozenset(hashlib.sha512(b"%d" % number).hexdigest() for number in range(200))})
    assert seal_wishes(KEYS, "a", many) == ""
