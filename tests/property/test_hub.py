"""Events of sessions in any order: an opened session is closed or in use, and is heard once."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import Session, UpstreamSession
from mcpgw_sidecar.sessions import actions as a, events as e
from mcpgw_sidecar.sessions.hub import SessionHub

SERVERS = st.sampled_from([ServerName("s/one"), ServerName("s/two")])
SESSIONS = [
    Session(
        key=key,
        expires=expires,
        protocol_version="2025-11-25",
        client_info=JsonText("{}"),
        capabilities=JsonText(capabilities),
    )
    for key, expires, capabilities in (("a", 10, "{}"), ("b", 10, '{"elicitation":{}}'), ("c", 20, '{"roots":{}}'))
]
CLIENTS = st.sampled_from(SESSIONS)
Place = tuple[str, ServerName]


class Life(RuleBasedStateMachine):
    """The driver's part: it does what the actions say, and keeps its own account of it."""

    upstreams = Bundle("upstreams")

    def __init__(self) -> None:
        super().__init__()
        self.hub = SessionHub(shared=True)
        self.count = 0
        self.now = 0.0
        self.opening: set[Place] = set()
        self.standing: set[tuple[str, ServerName, str]] = set()  # opened here and not yet closed
        self.former: set[tuple[str, ServerName, str]] = set()  # those with servers that have gone
        self.heard: dict[Place, UpstreamSession] = {}
        self.here: dict[str, int] = {}
        self.dead: dict[Place, UpstreamSession] = {}

    def feed(self, event: e.Event) -> list[a.Action]:
        before = self.ended()
        actions = self.hub.apply(event)
        for action in actions:
            self.do(action)
        for session in SESSIONS:
            gone = session.key in self.ended() - before
            assert not gone or actions[0] == a.Over(session.key), "the end is the first that anybody learns of"
        return actions

    def ended(self) -> set[str]:
        return {each.key for each in SESSIONS if self.hub._state.ended.has(each.key, each.expires)}

    def do(self, action: a.Action) -> None:
        match action:
            case a.Open(session, server):
                assert (session.key, server) not in self.opening, "opened twice at the same time"
                assert self.hub.upstream(session.key, server) is None
                self.opening.add((session.key, server))
            case a.CloseAt(_, upstream):
                self.former = {each for each in self.former if each[2] != upstream.id}
            case a.Close(_, upstream):
                self.standing = {each for each in self.standing if each[2] != upstream.id}
            case a.Listen(key, server, upstream):
                assert (key, server) not in self.heard, "heard twice"
                assert self.hub.upstream(key, server) == upstream, "heard where it is not open"
                self.heard[key, server] = upstream
            case a.Hush(key, server):
                del self.heard[key, server]
            case a.Over(key):
                self.here.pop(key, None)
                self.dead = {place: upstream for place, upstream in self.dead.items() if place[0] != key}
            case a.Deliver(key):
                assert self.here.get(key, 0) > 0, "delivered to nobody"
            case a.Post(key) | a.Hold(key):
                assert self.here.get(key, 0) == 0, "there is a stream here"
            case a.Mark(key):
                assert self.here.get(key, 0) > 0
            case _:
                pass

    @rule(session=CLIENTS)
    def see(self, session: Session) -> None:
        self.feed(e.Seen(session))

    @rule(session=CLIENTS, server=SERVERS)
    def want(self, session: Session, server: ServerName) -> None:
        self.feed(e.Wanted(session, server))

    def fresh(self) -> UpstreamSession:
        self.count += 1
        return UpstreamSession(id=f"u{self.count}", protocol_version="2025-11-25", ticket=f"t{self.count}")

    @rule(target=upstreams, data=st.data(), stands=st.booleans())
    def finish_opening(self, data: st.DataObject, stands: bool) -> UpstreamSession:
        upstream = self.fresh()
        if self.opening:
            key, server = data.draw(st.sampled_from(sorted(self.opening)))
            session = next(session for session in SESSIONS if session.key == key)
            if stands:
                self.standing.add((key, server, str(upstream.id)))
                self.feed(e.Opened(session, server, upstream))
            self.opening.remove((key, server))
            self.feed(e.OpeningOver(key, server))
        return upstream

    @rule(target=upstreams, session=CLIENTS, server=SERVERS, heard=st.booleans())
    def adopt(self, session: Session, server: ServerName, heard: bool) -> UpstreamSession:
        upstream = self.fresh()
        self.feed(e.Adopted(session, server, upstream, heard))
        return upstream

    @rule(session=CLIENTS, server=SERVERS, upstream=upstreams)
    def adopt_again(self, session: Session, server: ServerName, upstream: UpstreamSession) -> None:
        """A ticket is used again, also that of a session that its server has forgotten."""
        self.feed(e.Adopted(session, server, upstream))

    @rule(session=CLIENTS, server=SERVERS)
    def call(self, session: Session, server: ServerName) -> None:
        self.feed(e.CallGoesOut(session, server))

    @rule(session=CLIENTS, server=SERVERS, upstream=upstreams)
    def forget(self, session: Session, server: ServerName, upstream: UpstreamSession) -> None:
        if self.hub.upstream(session.key, server) == upstream:
            self.standing = {each for each in self.standing if each[2] != upstream.id}  # it is dead: nothing to close
            self.dead[session.key, server] = upstream
        self.feed(e.Forgotten(session.key, server, upstream))

    @rule(session=CLIENTS, elsewhere=st.booleans())
    def end(self, session: Session, elsewhere: bool) -> None:
        if elsewhere:
            self.feed(e.EndedElsewhere(session.key, session.expires))
        else:
            self.feed(e.Ended(session))
        assert self.hub.upstreams(session.key) is None

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(e.Due(self.now))

    @rule(session=CLIENTS, server=SERVERS, wanted=st.booleans())
    def subscribe(self, session: Session, server: ServerName, wanted: bool) -> None:
        self.feed(e.Subscribed(session, server, "a:", wanted))

    @rule(session=CLIENTS)
    def set_level(self, session: Session) -> None:
        self.feed(e.LevelSet(session, "debug"))

    @rule(session=CLIENTS, server=SERVERS, upstream=upstreams)
    def server_is_told(self, session: Session, server: ServerName, upstream: UpstreamSession) -> None:
        self.feed(e.ServerTold(session, server, upstream))

    @rule(session=CLIENTS)
    def open_stream(self, session: Session) -> None:
        self.here[session.key] = self.here.get(session.key, 0) + 1
        self.feed(e.StreamHere(session))
        self.feed(e.Shared(session))

    @rule(session=CLIENTS)
    def close_stream(self, session: Session) -> None:
        if self.here.get(session.key):
            self.here[session.key] -= 1
        self.feed(e.StreamGone(session.key))

    @rule(session=CLIENTS)
    def say(self, session: Session) -> None:
        self.feed(e.Said(session.key, b"x"))
        self.feed(e.NotPosted(session.key, b"x"))

    @rule(session=CLIENTS, server=SERVERS)
    def silence(self, session: Session, server: ServerName) -> None:
        upstream = self.heard.pop((session.key, server), None)
        if upstream is not None:
            self.feed(e.Silenced(session.key, server, upstream))

    @rule(server=SERVERS)
    def lose_server(self, server: ServerName) -> None:
        self.former |= {each for each in self.standing if each[1] == server}
        self.standing -= self.former
        self.dead = {place: upstream for place, upstream in self.dead.items() if place[1] != server}
        self.feed(e.ServerGone(Server(name=server, url="http://x/mcp", hostname="x")))

    @invariant()
    def what_stands_is_in_use(self) -> None:
        for key, server, ident in self.standing:
            upstream = self.hub.upstream(key, server)
            assert upstream is not None, "left open at a server"
            assert upstream.id == ident

    @invariant()
    def what_is_dead_is_not_used(self) -> None:
        for (key, server), upstream in list(self.dead.items()):
            standing = self.hub.upstream(key, server)
            if standing is not None and standing != upstream:
                del self.dead[key, server]  # it was replaced
            assert standing != upstream

    @invariant()
    def what_is_heard_is_said(self) -> None:
        for session in SESSIONS:
            upstreams = sorted((server, up.ticket) for (key, server), up in self.heard.items() if key == session.key)
            assert self.hub.hearing(session.key) == ",".join(f"{server}:{ticket}" for server, ticket in upstreams)

    @invariant()
    def what_is_over_holds_nothing(self) -> None:
        for session in SESSIONS:
            if session.key in self.ended():
                assert self.hub.upstreams(session.key) is None
                assert not [each for each in self.former if each[0] == session.key], "left open at a server that has gone"
                assert not [key for key, _ in self.heard if key == session.key]


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
