"""The route memo in a real Envoy, with calls that never reach the sidecar.

None of them goes where the router would not send it.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from mcpgw_sidecar.protocol.gzipped import WORTH
from tests.e2e.stack import Client, Gateway, answer, entry, gateway, text_of, wait_until
from tests.e2e.test_virtual import write
from tests.servers.scripted import ScriptedServer, tool

DECIDED = "mcpgw_ext_proc_duration_seconds_count"


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]) as new_gateway:
        yield new_gateway


def decided(running: Gateway) -> float:
    """How many requests the router has decided."""
    return running.metric(DECIDED)


def lookups(running: Gateway) -> dict[str, float]:
    return {
        result: running.metric(f'mcpgw_memo_lookups_total{{result="{result}"}}') for result in ("hit", "miss", "declined")
    }


@pytest.mark.duty("metrics.requests")
def test_the_end_of_an_opening_never_reaches_the_broker(running: Gateway) -> None:
    """Envoy has learned the session by the answer to initialize."""
    note = r'mcpgw_requests_total\{method="notifications/initialized",outcome="ok",server="%s",tool=""\}'
    with running.client() as first:
        assert first.tools()
        for _ in range(3):
            with running.client() as another:
                assert another.tools()
        wait_until(lambda: running.metric(note % "mcpEnvoy") == 4, "Envoy's counters")
        assert running.metric(note % "mcpBroker") == 0
        unknown = first.send({"jsonrpc": "2.0", "method": "notifications/initialized"}, mcp_session_id="unknown")
        assert unknown.status_code == 404
        with_id = first.post("notifications/initialized")
        assert answer(with_id)["error"]["code"] == -32601


@pytest.mark.duty("header.names", "call.id")
def test_what_is_known_never_reaches_the_router(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        assert text_of(client.call("a_one"))
        before, opened = decided(running), len(one.calls("initialize"))
        for number in range(5):
            response = client.call("a_one", number, x=[number, "ü", {"y": "\n\\"}])
            assert json.loads(text_of(response)) == {
                "server": one.port,
                "name": "one",
                "arguments": {"x": [number, "ü", {"y": "\n\\"}]},
            }
            assert answer(response)["id"] == number
        client.tools()
        assert client.post("ping").status_code == 200
        assert decided(running) == before
        arrived = one.calls("tools/call")[-1].headers
        assert (arrived["x-mcp-toolname"], arrived["x-mcp-servername"]) == ("a_one", "ns/one")
        assert arrived["mcp-session-id"] in one.sessions
        assert len(one.calls("initialize")) == opened
        client.send('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\\u0061me":"a_one"}}')
        assert decided(running) == before + 1
    wait_until(lambda: lookups(running) == {"hit": 5, "miss": 1, "declined": 1}, "counted")


@pytest.mark.parametrize("option", ["--route-memo=off", "--log-level=debug"])
def test_it_can_be_switched_off(one: ScriptedServer, tmp_path: Path, option: str) -> None:
    with gateway(tmp_path, [entry("ns/one", one.url)], option) as running, running.client() as client:
        before = decided(running)
        for _ in range(3):
            assert text_of(client.call("one"))
            client.tools()
        assert decided(running) == before + 6
        assert not (tmp_path / "envoy" / "stamps").exists()


@pytest.mark.duty("header.memo-hidden")
@pytest.mark.parametrize("option", ["--route-memo=on", "--route-memo=off"])
def test_no_client_sees_the_word_that_envoy_gets(one: ScriptedServer, tmp_path: Path, option: str) -> None:
    """Whoever says it: the broker, the router with a decision, a server that makes it up."""

    def answered(handler: Any, message: Any) -> bool:
        text = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}})
        handler.send(200, text.encode(), [("x-mcp-memo", message["params"]["arguments"]["said"])])
        return True

    with gateway(tmp_path, [entry("ns/one", one.url)], option) as running, running.client() as client:
        responses = [client.call("one"), client.call("one"), client.post("tools/list"), client.post("ping")]
        one.answers["tools/call"] = answered
        responses += [client.call("one", said=value) for value in ("", " ", "call", "5 00 9999999999")]
        assert [(each.status_code, "x-mcp-memo" in each.headers) for each in responses] == [(200, False)] * 8


@pytest.mark.duty("session.delete-204")
def test_a_session_that_ends_is_over_in_every_worker(one: ScriptedServer, tmp_path: Path) -> None:
    """Also at a server that keeps no sessions, and so would have taken the call."""
    one.keeps_sessions = False
    with gateway(tmp_path, [entry("ns/one", one.url)]) as running:
        running.workers = 4
        assert running.envoy is not None
        running.envoy.stop()
        running.start_envoy()
        for _ in range(5):
            with ExitStack() as stack:
                first = stack.enter_context(running.client())
                others = [stack.enter_context(running.client()) for _ in range(8)]  # connections, over the workers
                for other in others:
                    other.headers = first.headers
                    assert text_of(other.call("one"))
                    assert text_of(other.call("one"))
                assert first.http.delete(first.url, headers=first.headers).status_code == 204
                arrived = len(one.calls("tools/call"))
                assert {other.call("one").status_code for other in others} == {404}
                assert len(one.calls("tools/call")) == arrived


@pytest.mark.duty("session.heal")
def test_a_session_that_its_server_forgot_is_replaced(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        for _ in range(2):
            assert text_of(client.call("a_one"))
        one.sessions.clear()
        assert text_of(client.call("a_one")), "healed"
        assert text_of(client.call("a_one")), "decided anew"
        before, arrived = decided(running), len(one.requests)
        assert text_of(client.call("a_one"))
        assert (decided(running), len(one.requests)) == (before, arrived + 1)


@pytest.mark.duty(
    "security.host-421",
    "security.origin-403",
    "transport.version-400",
    "session.unknown-404",
    "session.missing-400",
    "list.virtual-404",
)
def test_headers_that_the_decision_depends_on(running: Gateway, one: ScriptedServer) -> None:
    """The router checks Host, Origin, version and virtual server, even if the memo has an entry."""
    with running.client() as client:
        for _ in range(2):
            assert text_of(client.call("a_one"))
        arrived = len(one.calls("tools/call"))
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one", "arguments": {}}}
        for status, headers in (
            (421, {"host": "evil.example"}),
            (403, {"origin": "https://evil.example"}),
            (400, {"mcp-protocol-version": "1999-01-01"}),
            (404, {"x-mcp-virtualserver": "ns/none"}),
            (404, {"mcp-session-id": "forged." + "x" * 43}),
        ):
            assert client.send(call, **headers).status_code == status, headers
        twice = [*client.headers.items(), ("mcp-session-id", "other")]
        assert client.http.post(client.url, json=call, headers=twice).status_code == 400
        missing = {name: value for name, value in client.headers.items() if name != "mcp-session-id"}
        assert client.http.post(client.url, json=call, headers=missing).status_code == 400
        assert len(one.calls("tools/call")) == arrived
        for _ in range(2):
            page = client.send(call, origin="http://localhost:6274")
            assert page.status_code == 200
            assert page.headers["access-control-allow-origin"] == "http://localhost:6274"
            assert "origin" not in one.calls("tools/call")[-1].headers


@pytest.mark.duty("list.memo", "transport.media-415", "list.cursor-32602", "metrics.requests")
def test_lists_are_known_too(running: Gateway, one: ScriptedServer) -> None:
    """Lists are kept for all clients with the same view, also for one whose session has just begun.

    Each client gets its own id.
    """
    with running.client() as first:
        response = first.post("tools/list", ident='a"\\b')
        assert "x-mcp-memo" not in response.headers
        with running.client() as second:
            wait_until(
                lambda: (
                    running.metric('mcpgw_requests_total{method="tools/list",outcome="ok",server="mcpBroker",tool=""}') == 1
                )
            )
            running.sidecar.signal(signal.SIGSTOP)
            try:
                again = second.post("tools/list", ident='x"\\y')
                assert again.json() == {**response.json(), "id": 'x"\\y'}
                assert again.headers["content-type"] == "application/json"
                assert first.send('{"jsonrpc":"2.0","method":"tools/list","id":1e2}').text.startswith(
                    '{"jsonrpc":"2.0","id":1e2,"result":{"tools":['
                )
            finally:
                running.sidecar.signal(signal.SIGCONT)
            for params in ({"_meta": {"progressToken": 1}}, {"cursor": "WyJhZnRlciIsImEiXQ=="}):
                assert "x-mcp-memo" not in second.post("tools/list", params).headers
            listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
            assert second.send(listing, content_type="text/plain").status_code == 415
            forged = second.send(listing, x_mcp_memo="1 0 9999999999")
            assert (forged.status_code, "x-mcp-memo" in forged.headers) == (200, False)
            for bad in ("nonsense", 7):
                assert second.post("tools/list", {"cursor": bad}).json()["error"]["code"] == -32602
            one.tools.append(tool("added"))
            one.notify("notifications/tools/list_changed")
            wait_until(lambda: "a_added" in second.tools())
            assert "a_added" in first.tools()
            assert second.http.delete(second.url, headers=second.headers).status_code == 204
            assert second.post("tools/list").status_code == 404
    wait_until(
        lambda: running.metric('mcpgw_requests_total{method="tools/list",outcome="ok",server="mcpEnvoy",tool=""}') >= 2
    )


@pytest.mark.duty("list.pages")
def test_long_lists_are_compressed_once(one: ScriptedServer, tmp_path: Path) -> None:
    one.tools = [tool(f"t{number}", description=f"What {number} is good for. " * 4) for number in range(1200)]
    with gateway(tmp_path, [entry("ns/one", one.url)]) as running, running.client() as client:

        def listed(accepted: str, cursor: str | None = None) -> Any:
            response = client.send(
                {"jsonrpc": "2.0", "id": "i", "method": "tools/list", **({"params": {"cursor": cursor}} if cursor else {})},
                accept_encoding=accepted,
            )
            assert response.headers.get("content-encoding") == ("gzip" if accepted == "gzip" else None)
            assert response.headers.get("vary", "accept-encoding") == "accept-encoding"
            return response.json()

        for _ in range(3):
            page = listed("gzip")
            assert (len(page["result"]["tools"]), page["id"]) == (1000, "i")
            assert listed("identity") == listed("gzip;q=0, br") == page
            rest = listed("gzip", page["result"]["nextCursor"])
            assert listed("identity", page["result"]["nextCursor"]) == rest
            assert len({each["name"] for each in page["result"]["tools"] + rest["result"]["tools"]}) == 1200


@pytest.mark.parametrize(("more", "packed"), [(-1, False), (0, True)])
def test_broker_and_envoy_agree_on_what_is_worth_compressing(
    one: ScriptedServer, tmp_path: Path, more: int, packed: bool
) -> None:
    around = len('{"tools":[]}') + len(json.dumps(tool("t", description="")))  # the tool is relayed as its server wrote it
    one.tools = [tool("t", description="x" * (WORTH + more - around))]
    with gateway(tmp_path, [entry("ns/one", one.url)]) as running, running.client() as client:
        for number, accepted in enumerate(("identity", "gzip", "identity", "gzip")):
            response = client.send(
                {"jsonrpc": "2.0", "id": f"id {number}", "method": "tools/list"}, accept_encoding=accepted
            )
            assert response.json()["id"] == f"id {number}"
            assert response.headers.get("vary") == ("accept-encoding" if packed else None)
            assert len(response.text.partition('"result":')[2]) - 1 == WORTH + more
            assert response.headers.get("content-encoding") == ("gzip" if packed and accepted == "gzip" else None)
        by_envoy = 'mcpgw_requests_total{method="tools/list",outcome="ok",server="mcpEnvoy",tool=""}'
        wait_until(lambda: running.metric(by_envoy) == (2 if packed else 3))


@pytest.mark.duty("list.memo")
def test_a_large_list_is_given_in_gzip_while_the_sidecar_is_away(one: ScriptedServer, tmp_path: Path) -> None:
    """A client gets it if it asks as an earlier client did, with any id.

    The broker answers a request with another Accept-Encoding.
    """
    one.tools = [tool(f"t{number}", description="x" * 500) for number in range(300)]
    with gateway(tmp_path, [entry("ns/one", one.url)]) as running, running.client() as client:
        listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        first = client.send(listing, accept_encoding="gzip, deflate")
        assert len(first.json()["result"]["tools"]) == 300
        running.sidecar.signal(signal.SIGSTOP)
        try:
            for ident in ("another", 2**60, "x" * 60_000):
                response = client.send({**listing, "id": ident}, accept_encoding="gzip, deflate")
                assert (response.status_code, response.headers["content-encoding"]) == (200, "gzip")
                assert response.json() == {**first.json(), "id": ident}
        finally:
            running.sidecar.signal(signal.SIGCONT)
        other = client.send(listing, accept_encoding="gzip;q=0, deflate")
        assert ("content-encoding" in other.headers, other.json()) == (False, first.json())
        for number in range(40):  # makes Envoy forget who takes gzip, and nothing else
            again = client.send(listing, accept_encoding=f"gzip, x{number}")
            assert (again.headers["content-encoding"], again.json()) == ("gzip", first.json())
        one.tools.append(tool("added"))
        one.notify("notifications/tools/list_changed")
        wait_until(lambda: "added" in client.send(listing, accept_encoding="gzip, deflate").text)


@pytest.mark.duty("error.silent", "error.unreachable")
def test_envoys_own_answers_name_id_and_tool(one: ScriptedServer, tmp_path: Path) -> None:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--call-timeout=500ms") as running, running.client() as client:
        assert text_of(client.call("a_one"))
        one.delay = 2.0
        slow = client.call("a_one", "i\u00e4")
        assert (slow.status_code, slow.json()["id"]) == (200, "i\u00e4")
        assert slow.json()["error"]["message"] == "MCP server ns/one was silent for more than 0.5 s in a call of a_one"
        one.stop()
        refused = client.call("a_one", 2**60)
        assert (refused.status_code, refused.json()["id"], refused.json()["error"]["data"]) == (
            200,
            2**60,
            {"server": "ns/one", "reason": "Unreachable"},
        )


def test_a_change_of_one_server_costs_calls_to_another_nothing(running: Gateway, two: ScriptedServer) -> None:
    """Nor while the sidecar is away."""
    with running.client() as client:
        assert text_of(client.call("a_one"))
        assert text_of(client.call("b_two"))
        before = decided(running)
        two.tools = [*two.tools, tool("new")]
        two.notify("notifications/tools/list_changed")
        wait_until(lambda: "b_new" in client.tools(), "the new tool is listed")
        assert text_of(client.call("a_one"))
        assert decided(running) == before
        assert text_of(client.call("b_two"))
        assert decided(running) == before + 1
        two.tools = two.tools[:1]
        two.notify("notifications/tools/list_changed")
        wait_until(lambda: "b_new" not in client.tools(), "the tool is gone")
        running.kill()
        assert text_of(client.call("a_one"))


def test_a_file_that_is_gone_or_replaced(running: Gateway) -> None:
    """Envoy relies on nothing that it cannot read; who restarts the sidecar gets it back."""
    stamps = running.directory / "envoy" / "stamps"
    with running.client() as client:
        for _ in range(2):
            assert text_of(client.call("a_one"))
        stamps.unlink()

        def asks() -> bool:
            before = decided(running)
            return bool(text_of(client.call("a_one"))) and decided(running) > before

        wait_until(asks, "the router is asked")
        stamps.write_bytes(b"nonsense")
        wait_until(asks, "the router is asked")
        running.sidecar.signal(signal.SIGTERM)
        running.sidecar.wait()
        running.start_sidecar()
        wait_until(lambda: text_of(client.call("a_one")) and not asks(), "it is remembered")


class MemoMachine(RuleBasedStateMachine):
    """A gateway with a memo and one without, in front of the same servers.

    Whatever changes, both give the same answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        home = Path(tempfile.mkdtemp(prefix="mcpgw-memo-"))
        self.stack.callback(shutil.rmtree, home, ignore_errors=True)
        self.servers = [self.stack.enter_context(ScriptedServer(tool("same"), tool(f"own{number}"))) for number in range(2)]
        self.servers[1].keeps_sessions = False
        self.config: list[dict[str, Any]] = [entry(f"ns/s{n}", each.url, f"p{n}_") for n, each in enumerate(self.servers)]
        self.virtual: dict[str, list[str]] = {}
        self.gateways = []
        for option in ("on", "off"):
            (home / option).mkdir()
            options = (f"--route-memo={option}", "--refresh-interval=100ms")
            self.gateways.append(self.stack.enter_context(gateway(home / option, self.config, *options)))
        self.clients: list[list[Client]] = []

    @initialize()
    def a_client(self) -> None:
        self.open()

    @precondition(lambda self: len(self.clients) < 3)
    @rule()
    def open(self) -> None:
        self.clients.append([self.stack.enter_context(running.client()) for running in self.gateways])

    @rule(
        which=st.integers(0, 2),
        name=st.sampled_from(["p0_same", "p1_same", "p0_own0", "same", "q_same", "own1", "p1_new", "nothing"]),
        virtual=st.sampled_from([None, None, None, "v/one", "v/two"]),
        by_path=st.booleans(),
        times=st.integers(1, 3),
    )
    def call(self, which: int, name: str, virtual: str | None, by_path: bool, times: int) -> None:
        for _ in range(times):
            responses = [self.said(pair, name, virtual, by_path=by_path) for pair in self.clients[which % len(self.clients)]]
            assert responses[0] == responses[1]

    def said(self, client: Client, name: str, virtual: str | None, *, by_path: bool) -> Any:
        call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": {}}}
        headers = {"x-mcp-virtualserver": virtual} if virtual and not by_path else {}
        url = f"{client.url}/{virtual}" if virtual and by_path else client.url
        response = client.http.post(url, json=call, headers={**client.headers, **headers})
        return response.status_code, response.json()

    @rule(which=st.integers(0, 2), virtual=st.sampled_from([None, None, "v/one", "v/two"]))
    def lists(self, which: int, virtual: str | None) -> None:
        found = []
        for client in self.clients[which % len(self.clients)]:
            headers = {"x-mcp-virtualserver": virtual} if virtual else {}
            answered = client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, **headers)
            found.append((answered.status_code, answered.json()))
        assert found[0] == found[1]

    @rule(number=st.integers(0, 1), prefix=st.sampled_from(["p0_", "p1_", "q_", ""]), enabled=st.booleans())
    def configure(self, number: int, prefix: str, enabled: bool) -> None:
        changed = entry(f"ns/s{number}", self.servers[number].url, prefix, enabled=enabled)
        self.config = [*self.config[:number], changed, *self.config[number + 1 :]]
        self.apply()

    @rule(number=st.integers(0, 1), elsewhere=st.integers(0, 1))
    def move(self, number: int, elsewhere: int) -> None:
        changed = {**self.config[number], "url": self.servers[elsewhere].url}
        self.config = [*self.config[:number], changed, *self.config[number + 1 :]]
        self.apply()

    @rule(
        name=st.sampled_from(["v/one", "v/two"]),
        tools=st.lists(st.sampled_from(["p0_same", "p1_same", "same"]), unique=True),
    )
    def virtual_server(self, name: str, tools: list[str]) -> None:
        self.virtual = {**self.virtual, name: tools}
        self.apply()

    @rule(
        number=st.integers(0, 1), names=st.lists(st.sampled_from(["same", "own0", "own1", "new"]), unique=True, min_size=1)
    )
    def change_tools(self, number: int, names: list[str]) -> None:
        self.servers[number].tools = [tool(name) for name in names]
        self.settle()

    @rule()
    def forget(self) -> None:
        self.servers[0].sessions.clear()

    @precondition(lambda self: len(self.clients) > 1)
    @rule(which=st.integers(0, 2))
    def end(self, which: int) -> None:
        for client in self.clients[which % len(self.clients)]:
            assert client.http.delete(client.url, headers=client.headers).status_code in {204, 404}

    def apply(self) -> None:
        for running in self.gateways:
            before = running.status()["config"]["generation"]
            text = running.config.read_text()
            write(running, self.config, self.virtual)
            if running.config.read_text() != text:
                wait_until(lambda: running.status()["config"]["generation"] > before, "the configuration")  # noqa: B023
        self.settle()

    def settle(self) -> None:
        """Wait until both gateways give the same lists, twice.

        One of them may have a change a moment earlier, which is no difference of the memo's.
        """
        clients = [running.client() for running in self.gateways]
        try:

            def lists() -> list[Any]:
                names = (None, *self.virtual)
                return [[client.http.post(client.url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, headers={
                    **client.headers, **({"x-mcp-virtualserver": name} if name else {})}).json() for name in names]
                    for client in clients]  # fmt: skip

            def expected() -> bool:
                first = lists()
                return first[0] == first[1] and all(self.current(running) for running in self.gateways) and lists() == first

            wait_until(expected, "both have followed")
        finally:
            for client in clients:
                client.close()

    def current(self, running: Gateway) -> bool:
        """Whether a gateway has listed what its servers offer now."""
        by_port = {server.port: len(server.tools) for server in self.servers}
        servers = {server["name"]: server for server in running.status()["servers"]}
        return all(
            servers[each["name"]]["tools"] + len(servers[each["name"]]["conflicts"])
            == by_port[int(each["url"].split(":")[2].split("/")[0])]
            for each in self.config
            if each.get("enabled", True)
        )

    def teardown(self) -> None:
        self.stack.close()


@pytest.mark.duty("call.memo-same")
def test_memo_on_and_off_give_the_same_answers() -> None:
    run_state_machine_as_test(
        MemoMachine,
        settings=settings(
            max_examples=6, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        ),
    )
