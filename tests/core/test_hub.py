"""The life of sessions, rule by rule."""

from __future__ import annotations

import attrs
import pytest

from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import AllWishes, Session, UpstreamSession, Wishes
from mcpgw_sidecar.sessions import actions as a, events as e, rows, wishes
from mcpgw_sidecar.sessions.hub import SessionCounts, SessionHub

NAME, OTHER = ServerName("a/b"), ServerName("a/c")
SERVER = Server(name=NAME, url="http://b/mcp", hostname="b")
UP, NEW = (UpstreamSession(id=f"u{n}", protocol_version="2025-06-18", ticket=f"t{n}") for n in (1, 2))


def session(key: str = "k", expires: int = 1000, capabilities: str = "{}") -> Session:
    return Session(
        key=key,
        expires=expires,
        protocol_version="2025-11-25",
        client_info=JsonText("{}"),
        capabilities=JsonText(capabilities),
    )


S = session()
ERROR = AllWishes(level="error")
FIRST = {"authorization": "Bearer 1"}
ASKED = session(capabilities='{"elicitation":{}}')


def fed(hub: SessionHub, *events: e.Event) -> list[a.Action]:
    """What the last of the events leads to."""
    actions: list[a.Action] = []
    for event in events:
        actions = hub.apply(event)
    return actions


@pytest.mark.duty("session.upstream-delete")
def test_a_session_with_a_server_is_opened_once_and_closed_at_the_end() -> None:
    hub = SessionHub()
    assert hub.upstreams("k") is None
    assert fed(hub, e.Seen(S)) == []
    assert hub.upstreams("k") == {}
    assert fed(hub, e.Wanted(S, NAME)) == [a.Open(S, NAME)]
    assert fed(hub, e.Wanted(S, NAME)) == [], "it is being opened"
    assert fed(hub, e.Opened(S, NAME, UP), e.OpeningOver("k", NAME)) == []
    assert fed(hub, e.Wanted(S, NAME)) == [], "it is open"
    assert (hub.upstream("k", NAME), hub.upstream("k", OTHER), hub.session("k")) == (UP, None, S)
    assert hub.statistics() == SessionCounts(gateway=1, upstream={NAME: 1})
    ended = fed(hub, e.Brought("k", FIRST), e.Ended(S))
    assert ended == [a.Over("k"), a.Close(NAME, UP), a.ShareEnd(S, frozenset({(NAME, UP.id)}), FIRST)]
    assert (hub.upstreams("k"), hub.session("k")) == (None, None)
    assert fed(hub, e.Seen(S)) == []
    assert hub.upstreams("k") is None
    assert fed(hub, e.Wanted(S, NAME)) == []


def test_an_opening_that_failed_may_be_tried_again() -> None:
    assert fed(SessionHub(), e.Wanted(S, NAME), e.OpeningOver("k", NAME), e.Wanted(S, NAME)) == [a.Open(S, NAME)]


def test_a_session_that_nobody_needs_any_more_is_closed() -> None:
    hub = SessionHub()
    assert fed(hub, e.Wanted(S, NAME), e.Ended(S), e.Opened(S, NAME, UP)) == [a.Close(NAME, UP)]
    assert hub.upstream("k", NAME) is None


def test_one_that_was_opened_counts_for_the_store_names_it() -> None:
    hub = SessionHub(shared=True)
    assert fed(hub, e.Wanted(S, NAME), e.Adopted(S, NAME, UP), e.Opened(S, NAME, NEW)) == []
    assert hub.upstream("k", NAME) == NEW


def test_a_session_that_its_server_forgot_is_not_adopted_again() -> None:
    """Its client, its replicas and the store hold its ticket until there is another one."""
    hub, again = SessionHub(), attrs.evolve(UP, brought=FIRST, ticket="another text")
    fed(hub, e.StreamHere(ASKED), e.Opened(ASKED, NAME, UP), e.CallGoesOut(ASKED, NAME))
    assert fed(hub, e.Forgotten("k", NAME, UP)) == [a.Hush("k", NAME)]
    assert fed(hub, e.Adopted(ASKED, NAME, again, heard=True)) == []
    assert (hub.upstream("k", NAME), hub.hearing("k")) == (None, "")
    assert fed(hub, e.Adopted(ASKED, NAME, NEW)) == []
    assert hub.upstream("k", NAME) == NEW, "what a replica has opened in its place"
    fed(hub, e.Forgotten("k", NAME, NEW), e.ServerGone(SERVER), e.Adopted(ASKED, NAME, NEW))
    assert hub.upstream("k", NAME) == NEW, "a server that comes back"
    fed(hub, e.Forgotten("k", NAME, NEW), e.Ended(ASKED))
    assert hub._state.dead == {}


def test_what_a_replica_opened_in_place_of_a_dead_one_hears_the_wishes_of_here() -> None:
    """The replica may not have known them."""
    hub = SessionHub(shared=True)
    fed(hub, e.Opened(S, NAME, UP), e.Subscribed(S, NAME, "file:///a", wanted=True), e.LevelSet(S, "debug"))
    fed(hub, e.Forgotten("k", NAME, UP))
    told = a.Tell(S, NAME, NEW, Wishes(level="debug", resources=frozenset({"file:///a"})))
    assert fed(hub, e.Adopted(S, NAME, NEW)) == [told]
    assert fed(hub, e.Adopted(S, OTHER, UP)) == [], "the wishes that one knows from its opening"


def test_sessions_with_servers_have_the_newest_credentials() -> None:
    hub = SessionHub()
    assert fed(hub, e.Brought("k", FIRST), e.Opened(S, NAME, UP), e.Brought("k", FIRST | {"authorization": "2"})) == []
    upstream = hub.upstream("k", NAME)
    assert upstream == UP, "it is the same session"
    assert upstream.brought == {"authorization": "2"}
    fed(hub, e.Brought("k", {"authorization": "2"}))
    assert hub.upstream("k", NAME) is upstream
    fed(hub, e.Brought("k", {"x-tenant": "a"}))
    assert hub.upstream("k", NAME).brought == {"authorization": "2", "x-tenant": "a"}


def test_a_session_that_only_envoy_knows_is_not_adopted_again() -> None:
    hub = SessionHub()
    assert fed(hub, e.Seen(S), e.Forgotten("k", NAME, UP), e.Adopted(S, NAME, UP)) == []
    assert hub.upstream("k", NAME) is None
    fed(hub, e.Adopted(S, NAME, NEW))
    assert hub.upstream("k", NAME) == NEW


def test_the_servers_of_links_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wishes, "MAX_LINKS", 2)
    hub = SessionHub()
    assert (hub.links("k"), fed(hub, e.LinkFound("k", "a:", NAME))) == ({}, [])
    fed(hub, e.Seen(S), e.LinkFound("k", "a:" + "x" * 600, NAME))
    assert hub.links("k") == {}
    fed(hub, *(e.LinkFound("k", uri, NAME) for uri in ("a:", "b:", "c:")))
    assert hub.links("k") == {"b:": NAME, "c:": NAME}


def test_a_level_that_was_set_here_is_newer_than_what_was_read() -> None:
    hub = SessionHub(shared=True)
    fed(hub, e.LevelSet(S, "debug"), e.LevelSet(S, "info"), e.LevelShared("k"), e.WishesRead(S, ERROR))
    assert fed(hub, e.Opened(S, NAME, UP)) == [a.Tell(S, NAME, UP, Wishes(level="info"))]
    fed(hub, e.LevelShared("k"), e.WishesRead(S, ERROR))
    assert fed(hub, e.Opened(S, OTHER, UP)) == [a.Tell(S, OTHER, UP, Wishes(level="error"))]


def test_what_replicas_opened_is_taken_over_unless_there_is_one() -> None:
    hub = SessionHub(shared=True)
    assert fed(hub, e.Adopted(S, NAME, UP)) == []
    assert fed(hub, e.Adopted(S, NAME, NEW)) == []
    assert hub.upstream("k", NAME) == UP
    fed(hub, e.Ended(S))
    assert fed(hub, e.Adopted(S, NAME, UP)) == []
    assert fed(hub, e.LeftOpen(OTHER, NEW)) == [a.Close(OTHER, NEW)]


def test_a_dead_session_is_forgotten_once() -> None:
    """Two calls find a session dead; the second must keep the session that the first opens."""
    hub = SessionHub()
    fed(hub, e.Opened(S, NAME, UP), e.Forgotten("k", NAME, UP), e.Opened(S, NAME, NEW), e.Forgotten("k", NAME, UP))
    assert hub.upstream("k", NAME) == NEW
    assert fed(hub, e.Forgotten("unseen", NAME, UP)) == []


@pytest.mark.duty("session.delete-204")
def test_an_ended_session_is_remembered_until_its_token_expires() -> None:
    hub = SessionHub()
    fed(hub, e.Ended(S), e.Due(999), e.Seen(S))
    assert hub.upstreams("k") is None
    fed(hub, e.Due(3600), e.Seen(S))  # the hour of its expiry is over
    assert hub.upstreams("k") == {}, "a token that has expired is refused as such"


@pytest.mark.duty("session.upstream-delete")
def test_sessions_expire() -> None:
    hub = SessionHub()
    fed(hub, e.Opened(S, NAME, UP), e.Opened(session("later", 2000), NAME, NEW))
    assert fed(hub, e.Due(1000)) == [a.Over("k"), a.Close(NAME, UP)]
    assert hub.statistics().gateway == 1


def test_one_that_ended_elsewhere_is_closed_here_too() -> None:
    """That replica may not know what this one has opened."""
    hub = SessionHub(shared=True)
    fed(hub, e.Opened(ASKED, NAME, UP), e.CallGoesOut(ASKED, NAME))
    assert fed(hub, e.EndedElsewhere("k", 1000)) == [a.Over("k"), a.Hush("k", NAME), a.Close(NAME, UP)]
    assert fed(hub, e.EndedElsewhere("k", 1000)) == [], "told again, after the store was away"


def test_one_that_had_ended_before_the_start_is_known_to_envoy() -> None:
    """Telling it anew would have Envoy forget others, too; but a client may have been faster."""
    hub = SessionHub()
    assert fed(hub, e.EndedBefore("k", 1000)) == []
    fed(hub, e.Seen(S))
    assert hub.upstreams("k") is None
    hub = SessionHub()
    fed(hub, e.Opened(S, NAME, UP))
    assert fed(hub, e.EndedBefore("k", 1000)) == [a.Over("k"), a.Close(NAME, UP)]


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_SESSIONS", 2)
    hub = SessionHub()
    for key in "abc":
        fed(hub, e.Seen(session(key)))
    assert hub.statistics().gateway == 2


@pytest.mark.duty("notify.subscription-kept")
def test_wishes_are_told_to_every_session_with_a_server() -> None:
    hub = SessionHub()
    assert fed(hub, e.LevelSet(S, "debug")) == [a.ShareLevel(S, "debug")]
    for uri in ("a:", "b:"):
        assert fed(hub, e.Subscribed(S, NAME, uri, wanted=True)) == [a.ShareSubscription(S, NAME, uri, wanted=True)]
    assert fed(hub, e.Subscribed(S, NAME, "x" * 10_000, wanted=True)) == [], "too long to be kept, or shared"
    fed(hub, e.Subscribed(S, NAME, "a:", wanted=False), e.Subscribed(S, OTHER, "c:", wanted=False))
    wishes = Wishes(level="debug", resources=frozenset({"b:"}))
    assert fed(hub, e.Opened(S, NAME, UP)) == [a.Tell(S, NAME, UP, wishes)]
    assert fed(hub, e.Opened(S, OTHER, NEW)) == [a.Tell(S, OTHER, NEW, Wishes(level="debug"))]
    assert fed(hub, e.ServerTold(S, NAME, UP)) == [a.Listen("k", NAME, UP)]
    assert fed(hub, e.ServerTold(S, NAME, UP)) == [], "once"
    assert fed(hub, e.ServerTold(S, NAME, NEW)) == [], "it was replaced meanwhile"
    assert fed(hub, e.Ended(S), e.ServerTold(S, NAME, UP)) == []
    assert fed(hub, e.LevelSet(S, "debug")) == fed(hub, e.Subscribed(S, NAME, "a:", wanted=True)) == []
    assert fed(hub, e.WishesRead(S, ERROR)) == []


def test_subscriptions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_RESOURCES", 2)
    hub = SessionHub()
    for uri in ("a:", "b:", "c:"):
        fed(hub, e.Subscribed(S, NAME, uri, wanted=True))
    assert fed(hub, e.Opened(S, NAME, UP)) == [a.Tell(S, NAME, UP, Wishes(resources=frozenset({"a:", "b:"})))]


def test_a_subscription_is_shared_and_its_server_heard() -> None:
    hub = SessionHub(shared=True)
    fed(hub, e.Opened(S, NAME, UP))
    share = a.ShareSubscription(S, NAME, "a:", wanted=True)
    assert fed(hub, e.Subscribed(S, NAME, "a:", wanted=True)) == [share, a.Listen("k", NAME, UP)]
    assert fed(hub, e.Subscribed(S, NAME, "a:", wanted=False)) == [attrs.evolve(share, wanted=False)]


@pytest.mark.parametrize("capabilities", ["{}", "[", '{"roots":{}}', '{"sampling":{}}', '{"elicitation":{}}', '{"x":1}'])
def test_a_client_that_can_be_asked_is_listened_for_before_the_call_goes_out(capabilities: str) -> None:
    hub, client = SessionHub(), session(capabilities=capabilities)
    assert fed(hub, e.CallGoesOut(client, NAME)) == [], "it is not open"
    fed(hub, e.Opened(client, NAME, UP))
    listens = fed(hub, e.CallGoesOut(client, NAME))
    assert listens == ([] if capabilities in {"{}", "[", '{"x":1}'} else [a.Listen("k", NAME, UP)])


def test_another_session_is_heard_in_place_of_the_one_before() -> None:
    hub = SessionHub()
    fed(hub, e.StreamHere(ASKED), e.Opened(ASKED, NAME, UP))
    assert fed(hub, e.CallGoesOut(ASKED, NAME)) == [a.Listen("k", NAME, UP), a.Mark("k")]
    assert hub.hearing("k") == "a/b:t1"
    fed(hub, e.Forgotten("k", NAME, UP), e.Opened(ASKED, NAME, NEW))
    assert fed(hub, e.CallGoesOut(ASKED, NAME)) == [a.Listen("k", NAME, NEW), a.Mark("k")]
    fed(hub, e.Opened(ASKED, NAME, UP))
    assert fed(hub, e.CallGoesOut(ASKED, NAME)) == [a.Hush("k", NAME), a.Listen("k", NAME, UP), a.Mark("k")]
    assert fed(hub, e.Silenced("k", NAME, NEW)) == []
    fed(hub, e.Opened(ASKED, NAME, NEW), e.CallGoesOut(ASKED, NAME))
    assert hub.hearing("k") == "a/b:t2"
    fed(hub, e.Silenced("k", NAME, NEW))
    assert hub.hearing("k") == hub.hearing("unseen") == ""


def test_what_a_client_was_told_to_be_heard_is_heard_on() -> None:
    hub = SessionHub()
    assert fed(hub, e.Adopted(S, NAME, UP, heard=True)) == [a.Listen("k", NAME, UP, resumed=True)]
    assert fed(hub, e.Adopted(S, OTHER, NEW, heard=True)) == [a.Listen("k", OTHER, NEW, resumed=True)]
    assert hub.hearing("k") == "a/b:t1,a/c:t2"
    assert fed(hub, e.ServerGone(SERVER)) == [a.Hush("k", NAME)]
    assert (hub.upstream("k", NAME), hub.hearing("k")) == (None, "a/c:t2")
    assert fed(hub, e.ServerGone(SERVER)) == []
    assert a.CloseAt(SERVER, UP) in fed(hub, e.Ended(S)), "calls in flight were not cut"


def test_messages_go_to_the_stream_here_else_to_a_replica_else_they_are_kept() -> None:
    alone, shared = SessionHub(), SessionHub(shared=True)
    assert fed(alone, e.Said("k", b"x")) == [a.Hold("k", b"x")]
    assert fed(shared, e.Said("k", b"x")) == [a.Post("k", b"x")]
    assert fed(shared, e.NotPosted("k", b"x")) == [a.Hold("k", b"x")]
    assert fed(shared, e.MailWaits("k")) == fed(shared, e.RowChanged("k")) == []
    assert fed(alone, e.StreamHere(S)) == [a.FetchRow(S)], "of a process before this one"
    assert fed(shared, e.StreamHere(S)) == [a.FetchRow(S)]
    for hub in (alone, shared):
        fed(hub, e.StreamHere(S), e.StreamGone("k"))
        assert fed(hub, e.Said("k", b"x")) == [a.Deliver("k", b"x")]
        assert fed(hub, e.NotPosted("k", b"x")) == [a.Deliver("k", b"x")], "its stream has come meanwhile"
    assert fed(shared, e.MailWaits("k")) == [a.FetchMail("k")]
    assert fed(shared, e.RowChanged("k")) == [], "the session is not seen"
    assert fed(shared, e.Seen(S), e.RowChanged("k")) == [a.FetchRow(S)]
    assert fed(alone, e.StreamGone("k"), e.Said("k", b"x")) == [a.Hold("k", b"x")]
    assert fed(alone, e.StreamGone("k"), e.Said("k", b"x")) == [a.Hold("k", b"x")], "its session has ended before"


def test_what_a_replica_heard_is_heard_by_the_one_with_the_stream() -> None:
    hub = SessionHub(shared=True)
    fed(
        hub,
        e.Adopted(S, NAME, UP),
        e.Adopted(S, OTHER, NEW),
        e.WishesRead(S, AllWishes(resources={NAME: frozenset({"a:"})})),
    )
    assert fed(hub, e.Shared(S)) == [a.Listen("k", NAME, UP, resumed=True)]
    fed(hub, e.WishesRead(S, AllWishes(level="debug")))
    assert fed(hub, e.Shared(S)) == [a.Listen("k", OTHER, NEW, resumed=True)]
    assert fed(hub, e.Shared(session("unseen"))) == []
    fed(hub, e.WishesRead(S, AllWishes()), e.Forgotten("k", NAME, UP))
    assert fed(hub, e.Opened(S, NAME, NEW)) == [a.Tell(S, NAME, NEW, Wishes(level="debug", resources=frozenset({"a:"})))], (
        "a level that is not in the store stays"
    )


def test_the_id_of_an_event_is_believed_where_nothing_else_is_known() -> None:
    hub, old = SessionHub(), AllWishes(level="error", resources={NAME: frozenset({"a:"})})
    fed(hub, e.Seen(S), e.WishesRead(S, old, old=True))
    assert hub.wishes("k") == old
    fed(hub, e.Subscribed(S, NAME, "a:", wanted=False), e.WishesRead(S, old, old=True))
    assert hub.wishes("k") == ERROR, "the client has unsubscribed since"
    assert hub.wishes("unseen") == AllWishes()


def test_what_is_opened_or_adopted_has_the_clients_newest_credentials() -> None:
    hub = SessionHub()
    fed(hub, e.Seen(S), e.Brought("k", FIRST), e.Opened(S, NAME, UP), e.Adopted(S, OTHER, NEW))
    upstreams = hub.upstreams("k") or {}
    assert [upstream.brought for upstream in upstreams.values()] == [FIRST] * 2


def test_a_replica_that_is_gone_leaves_its_servers_to_whoever_has_the_clients_stream() -> None:
    hub = SessionHub(shared=True)
    fed(hub, e.Seen(S), e.Seen(session("other")), e.StreamHere(S))
    assert fed(hub, e.ReplicaGone()) == [a.FetchRow(S)]


def test_a_client_without_a_stream_is_listened_for_some_minutes_and_again_when_it_is_back() -> None:
    """Each stream costs two sockets; a client that has vanished never ends its session."""
    hub, far = SessionHub(), session(capabilities='{"elicitation":{}}', expires=100_000)
    fed(hub, e.Opened(far, NAME, UP), e.CallGoesOut(far, NAME), e.StreamHere(far))
    assert fed(hub, e.Due(0.0), e.Due(10_000.0)) == []
    fed(hub, e.StreamGone("k"))
    assert fed(hub, e.Due(10_010.0), e.Due(10_300.0)) == []
    assert fed(hub, e.Due(10_310.0)) == [a.Hush("k", NAME)]
    assert fed(hub, e.Due(20_000.0)) == []
    assert hub.upstream("k", NAME) == UP, "it stays open"
    fed(hub, e.StreamHere(far))
    assert fed(hub, e.Shared(far)) == [a.Listen("k", NAME, UP, resumed=True), a.Mark("k")]
    fed(hub, e.StreamGone("k"), e.Due(20_010.0), e.StreamHere(far), e.Due(30_000.0), e.StreamGone("k"))
    assert fed(hub, e.Due(30_010.0)) == [], "it was back meanwhile"
