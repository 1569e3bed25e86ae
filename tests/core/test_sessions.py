from __future__ import annotations

import attrs
import pytest

from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, SessionFault, UpstreamSession
from mcpgw_sidecar.sessions import tokens
from mcpgw_sidecar.sessions.tickets import open_ticket, seal_ticket
from mcpgw_sidecar.sessions.tokens import parse_keys

ONE, TWO = "1" * 43, "2" * 43
KEYS = parse_keys(ONE, "f")
UPSTREAM = UpstreamSession(id="u1", protocol_version="2025-06-18")


def session(key: str = "k", expires: int = 1000) -> Session:
    return Session(
        key=key,
        expires=expires,
        protocol_version="2025-11-25",
        client_info=JsonText('{"name":"é","big":9007199254740993}'),
        capabilities=JsonText('{"elicitation":{}}'),
    )


@pytest.mark.duty("session.id-ascii")
def test_a_token_says_what_was_sealed() -> None:
    token = KEYS.seal(session())
    assert KEYS.verify(token, 999.9) == session()
    assert token.isascii()
    assert token.isprintable()
    assert " " not in token


@pytest.mark.duty("session.expired-404")
def test_a_token_expires() -> None:
    assert KEYS.verify(KEYS.seal(session()), 1000) is SessionFault.EXPIRED


@pytest.mark.duty("session.id-unforgeable")
def test_every_changed_character_is_noticed() -> None:
    token = KEYS.seal(session())
    for at, char in enumerate(token):
        forged = token[:at] + ("A" if char != "A" else "B") + token[at + 1 :]
        assert KEYS.verify(forged, 0) is SessionFault.UNKNOWN


@pytest.mark.duty("session.unknown-404")
@pytest.mark.parametrize("token", ["x", ".", "a.b", "é.é", "x" * 9000, "x" * 9000 + ".y"])
def test_what_is_no_token(token: str) -> None:
    assert KEYS.verify(token, 0) is SessionFault.UNKNOWN


@pytest.mark.duty("session.missing-400")
@pytest.mark.parametrize("token", [None, ""])
def test_no_token(token: str | None) -> None:
    assert KEYS.verify(token, 0) is SessionFault.MISSING


@pytest.mark.duty("session.id-unforgeable")
def test_few_session_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_VERIFIED", 2)
    keys = parse_keys(ONE, "f")
    many = [session(key=f"{number}") for number in range(5)]
    for each in [*many, *many]:
        token = keys.seal(each)
        assert [keys.verify(token, 0), keys.verify(token, 0), keys.verify(token, 1000)] == [each, each, SessionFault.EXPIRED]


def test_another_key_does_not_verify() -> None:
    assert parse_keys(TWO, "f").verify(KEYS.seal(session()), 0) is SessionFault.UNKNOWN


@pytest.mark.duty("session.key-rotation")
def test_rotation_keeps_sessions() -> None:
    rotated = parse_keys(f"{TWO}\n\n{ONE}\n", "f")
    assert rotated.verify(KEYS.seal(session()), 0) == session()
    assert KEYS.verify(rotated.seal(session()), 0) is SessionFault.UNKNOWN


def test_a_sealed_token_of_another_version_of_this_program_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpgw_sidecar.sessions.tokens.json.dumps", lambda *_args, **_kwargs: '{"other":1}')
    assert KEYS.verify(KEYS.seal(session()), 0) is SessionFault.UNKNOWN


@pytest.mark.duty("security.credentials")
def test_short_keys_are_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_keys(f"{ONE}\nsecret\n", "f.key")
    assert "f.key:2" in str(refused.value)
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="no session key"):
        parse_keys("\n", "f.key")


@pytest.mark.duty("security.credentials")
def test_keys_and_ids_do_not_show_in_reprs() -> None:
    assert ONE not in repr(KEYS)
    assert "u1" not in repr(UPSTREAM)


def test_an_id_of_none_is_a_server_without_sessions() -> None:
    assert attrs.evolve(UPSTREAM, id=None).id is None


SERVER = Server(name=ServerName("ns/one"), url="http://h/mcp", hostname="h")


@pytest.mark.duty("security.tickets")
@pytest.mark.parametrize("ident", ["up-1", None, "x" * 2000])
def test_a_ticket_opens_what_was_sealed(ident: str | None) -> None:
    upstream = UpstreamSession(id=ident, protocol_version="2025-06-18")
    ticket = seal_ticket(KEYS, "k", SERVER, upstream)
    assert open_ticket(KEYS, "k", SERVER, ticket) == upstream
    assert "up-1" not in ticket
    rotated = parse_keys("n" * 40 + "\n" + ONE, "test")
    assert open_ticket(rotated, "k", SERVER, ticket) == upstream, "keys rotate without a lost session"
    assert seal_ticket(rotated, "k", SERVER, upstream) != ticket


@pytest.mark.duty("security.tickets")
def test_a_ticket_opens_nothing_elsewhere() -> None:
    ticket = seal_ticket(KEYS, "k", SERVER, UPSTREAM)
    moved = attrs.evolve(SERVER, url="http://other/mcp")
    renamed = attrs.evolve(SERVER, name=ServerName("ns/two"))
    assert open_ticket(KEYS, "other", SERVER, ticket) is None
    assert open_ticket(KEYS, "k", moved, ticket) is None
    assert open_ticket(KEYS, "k", renamed, ticket) is None
    assert open_ticket(parse_keys("z" * 40, "test"), "k", SERVER, ticket) is None


@pytest.mark.duty("security.tickets")
@pytest.mark.parametrize("ticket", ["", "A", "!!", "ä", "A" * 43, "A" * 5000])
def test_what_is_no_ticket_opens_nothing(ticket: str) -> None:
    assert open_ticket(KEYS, "k", SERVER, ticket) is None


def test_a_session_id_too_long_for_a_header_has_no_ticket() -> None:
    assert seal_ticket(KEYS, "k", SERVER, attrs.evolve(UPSTREAM, id="x" * 5000)) == ""
