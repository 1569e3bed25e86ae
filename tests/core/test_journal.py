"""The lines of the journal: what another process makes of them."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.sessions import AllWishes
from mcpgw_sidecar.sessions import journal, tickets
from mcpgw_sidecar.sessions.journal import ENDED, TICKET, UNWISH, WISH, Kept, bounded, line, ticket_text, wish_name
from mcpgw_sidecar.sessions.tickets import open_token, open_wishes, seal_token, seal_wishes
from mcpgw_sidecar.sessions.tokens import parse_keys

ONE, ODD = ServerName("ns/one"), ServerName("a b=c%\u00e9")
KEYS = parse_keys("k" * 40, "test")


def replayed(lines: list[str], now: float, rows: dict[str, Kept] | None = None) -> dict[str, Kept]:
    rows = {} if rows is None else rows
    keys = journal.replayed([text.rstrip("\n") for text in lines], now, rows)
    assert set(keys) <= set(rows)
    return rows


def test_later_lines_count() -> None:
    lines = [
        line("a", 10, TICKET, ticket_text(ONE, "t1")),
        line("a", 10, TICKET, ticket_text(ODD, "t2")),
        line("a", 10, TICKET, ticket_text(ONE, "t3")),
        line("a", 10, WISH, "w1=s1"),
        line("b", 10, WISH, "w2=s2"),
        line("a", 10, WISH, "w3=s3"),
        line("a", 10, UNWISH, "w1"),
        line("b", 10, ENDED),
        line("c", 5, WISH, "expired"),
    ]
    rows = replayed(lines, 5.0)
    assert rows == {"a": Kept(10, False, {ODD: "t2", ONE: "t3"}, {"w3": "s3"}), "b": Kept(10, True)}
    replayed([line("a", 10, TICKET, ticket_text(ODD, ""))], 5.0, rows)
    assert rows["a"].tickets == {ONE: "t3"}, "one that was too long to be sealed"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "a 10 wish .",
        "a x wish w=s .",
        "a 10 wish w=s w .",
        "\u0660 \u0661 wish w=s .",
        "a 10 what w .",
        "a 10 ticket ns/one=hal",
        f"a {'9' * 5000} ended - .",
    ],
)
def test_a_line_that_cannot_be_read_says_nothing(text: str) -> None:
    assert not any(row.tickets or row.wishes or row.ended for row in replayed([text], 0.0).values())


def test_the_oldest_sessions_make_room_and_ends_last() -> None:
    rows = {key: Kept(10, wishes={"w": "s" * 80}) for key in "abc"} | {"d": Kept(10, True)}
    size = len(line("a", 10, WISH, "w=" + "s" * 80))
    ended = line("d", 10, ENDED)
    assert bounded(rows, 10_000) == [*(line(key, 10, WISH, "w=" + "s" * 80) for key in "abc"), ended]
    assert bounded(rows, 2 * size + len(ended)) == [*(line(key, 10, WISH, "w=" + "s" * 80) for key in "bc"), ended]
    assert bounded(rows, len(ended)) == [ended]
    assert bounded(rows, 0) == []


def test_one_session_takes_no_other_along() -> None:
    """A client that subscribes to very much costs itself what is kept."""
    rows = {"old": Kept(10, tickets={ONE: "t"}), "new": Kept(10, wishes={f"w{n}": "s" * 100 for n in range(100)})}
    assert bounded(rows, 1000) == [line("old", 10, TICKET, ticket_text(ONE, "t"))]
    lines = [line("a", 10, WISH, f"w{number}=s") for number in range(journal.MAX_WISHES + 1)]
    assert next(iter(replayed(lines, 0.0)["a"].wishes)) == "w1", "and only the last are kept"


def test_a_wish_has_one_name_whatever_key_seals_it() -> None:
    names = {wish_name(key, field) for key in ("k", "k" * 100) for field in ((ONE, "file:///a"), (ONE, "file:///b"), None)}
    assert len(names) == 5
    assert "level" in names


LINES = st.lists(
    st.builds(
        line,
        st.sampled_from("ab"),
        st.just(10),
        st.sampled_from([TICKET, WISH, UNWISH, ENDED]),
        st.sampled_from(["ns/one=t1", "ns/one=t2", "ns/two=t3", "ns/one=", "w1", "w2=s"]),
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


def test_a_few_bytes_do_not_become_megabytes() -> None:
    """Wishes are compressed: 100 URIs of a megabyte took 142 kB, and 95 MB to read."""
    huge = AllWishes(resources={ONE: frozenset({"a" * (1 << 20)})})
    sealed = seal_wishes(KEYS, "a", huge)
    assert 0 < len(sealed) < tickets.MAX_TICKET
    assert open_wishes(KEYS, "a", sealed) == AllWishes()


@pytest.mark.duty("access.exchange")
def test_a_token_is_opened_for_its_caller_and_server_alone() -> None:
    sealed = seal_token(KEYS, "a", "secret" * 1000)
    assert open_token(KEYS, "a", sealed) == "secret" * 1000
    for key, text in (("b", sealed), ("a", sealed[:-1]), ("a", ""), ("a", "x" * 20000)):
        assert open_token(KEYS, key, text) is None
