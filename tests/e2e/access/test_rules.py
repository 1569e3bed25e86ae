"""Rules: what nobody allows a caller is neither listed nor callable."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.access.issuing import Issuer
from tests.e2e.conftest import quiet
from tests.e2e.stack import Client, Gateway, entry, gateway, listening, succeeded, wait_until
from tests.servers.scripted import ScriptedServer, tool

RULES = [
    {"servers": ["team-a/*"], "tools": ["get_*"], "allow": [{"groups": ["agents"]}]},
    {"servers": ["team-b/one"], "allow": [{"groups": "admins", "realm.role": ["x", "boss"]}]},
    {"virtualServers": ["v/*"], "allow": [{"sub": ["robot"]}]},
]
VIRTUAL = [
    {"name": "v/few", "tools": ["a_get_it", "b_put_it"]},
    {"name": "v/own", "tools": ["a_get_it"], "allow": [{"groups": "admins"}]},
]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as new_issuer:
        yield new_issuer


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ScriptedServer, ScriptedServer]]:
    with ScriptedServer(tool("get_it"), tool("put_it")) as one, ScriptedServer(tool("get_it"), tool("put_it")) as two:
        for server in (one, two):
            server.capabilities |= {"prompts": {}, "resources": {}}
            server.answers["prompts/list"] = answer({"prompts": [{"name": "ask"}]})
            server.answers["resources/list"] = answer({"resources": [{"uri": f"x://{server.port}", "name": "r"}]})
        yield one, two


@pytest.fixture
def running(issuer: Issuer, servers: tuple[ScriptedServer, ScriptedServer], tmp_path: Path) -> Iterator[Gateway]:
    access = tmp_path / "access.yaml"
    write(access, issuer, RULES)
    entries = [entry("team-a/one", servers[0].url, "a_"), entry("team-b/one", servers[1].url, "b_")]
    with gateway(tmp_path, entries, f"--access={access}", virtualServers=VIRTUAL) as new_gateway:
        wait_until(lambda: Client(new_gateway.url, **bearer(issuer)).initialized.status_code == 200, "the keys")
        yield new_gateway


def answer(result: dict[str, Any]) -> Any:
    """What a server answers to a request."""

    def give(handler: Any, message: Any) -> bool:
        handler.send(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())
        return True

    return give


def write(path: Path, issuer: Issuer, rules: list[dict[str, Any]] | None, **more: Any) -> None:
    document = {
        "authentication": {"issuers": [issuer.entry()]},
        **({} if rules is None else {"authorization": rules}),
        **more,
    }
    path.with_suffix(".new").write_text(yaml.safe_dump(document))
    path.with_suffix(".new").replace(path)


def bearer(issuer: Issuer, **claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {issuer.token(**claims)}"}


def callable_tools(client: Client) -> list[str]:
    """The tools that a client can call; each is called three times, so that Envoy knows it."""
    names = [f"{prefix}_{verb}_it" for prefix in "ab" for verb in ("get", "put")]
    results = {name: [client.call(name) for _ in range(3)] for name in names}
    for name, answers in results.items():
        for answer in answers:
            if not succeeded(answer):
                assert answer.json()["error"] == {"code": -32601, "message": "Tool not found", "data": {"name": name}}
    return [name for name, answers in results.items() if all(map(succeeded, answers))]


@pytest.mark.duty("access.rules")
def test_what_is_listed_is_what_can_be_called(running: Gateway, issuer: Issuer) -> None:
    callers: list[tuple[dict[str, Any], list[str]]] = [
        ({"groups": ["agents", "x"]}, ["a_get_it"]),
        ({"groups": "agents"}, ["a_get_it"]),
        ({"groups": "agents x"}, []),
        ({"groups": ["admins"], "realm": {"role": "boss"}}, ["b_get_it", "b_put_it"]),
        ({"groups": ["admins"], "realm.role": ["x"], "realm": {"role": "none"}}, ["b_get_it", "b_put_it"]),
        ({"groups": ["admins"], "realm": {"role": 1}}, []),
        ({"groups": ["agents", "admins"], "realm": {"role": ["x"]}}, ["a_get_it", "b_get_it", "b_put_it"]),
        ({}, []),
    ]
    for claims, names in callers:
        with running.client(**bearer(issuer, **claims)) as client:
            for _ in range(2):
                assert client.tools() == names, claims
                assert callable_tools(client) == names, claims
            prompts = [each["name"] for each in client.post("prompts/list").json()["result"]["prompts"]]
            assert prompts == (["b_ask"] if "b_put_it" in names else []), "a rule with tools gives tools alone"
            asked = client.post("prompts/get", {"name": "a_ask"})
            assert asked.json()["error"]["code"] == -32602
            read = client.post("resources/list").json()["result"]["resources"]
            assert len(read) == (1 if "b_put_it" in names else 0)


@pytest.mark.duty("access.rules", "list.virtual")
def test_virtual_servers(running: Gateway, issuer: Issuer) -> None:
    few, own = f"{running.url}/v/few", f"{running.url}/v/own"
    with Client(few, **bearer(issuer, sub="robot")) as robot:
        assert robot.tools() == ["a_get_it", "b_put_it"]
        assert succeeded(robot.call("b_put_it"))
        robot.url = running.url
        assert robot.tools() == [], "the rule counts at those endpoints alone"
    with Client(few, **bearer(issuer, groups=["agents"])) as agent:
        assert agent.tools() == ["a_get_it"]
    assert Client(own, **bearer(issuer, groups=["agents"])).initialized.status_code == 404
    with Client(own, **bearer(issuer, groups=["admins", "agents"])) as admin:
        assert admin.tools() == ["a_get_it"]


@pytest.mark.duty("access.rules")
def test_one_session_with_tokens_of_other_groups(running: Gateway, issuer: Issuer) -> None:
    """What Envoy remembers for a token is not for another one of the same caller."""
    with running.client(**bearer(issuer, groups=["agents"])) as client:
        for _ in range(3):
            assert succeeded(client.call("a_get_it"))
            assert client.tools() == ["a_get_it"]
        client.headers |= bearer(issuer, groups=[])
        for _ in range(3):
            assert not succeeded(client.call("a_get_it"))
            assert client.tools() == []
    with running.client(**bearer(issuer, sub="bob")) as other:
        for _ in range(3):
            assert not succeeded(other.call("a_get_it")), "nor for another caller"


@pytest.mark.duty("access.rules")
def test_a_rule_is_taken_away_while_its_caller_calls_without_a_pause(
    running: Gateway, issuer: Issuer, servers: tuple[ScriptedServer, ScriptedServer], tmp_path: Path
) -> None:
    access, stop = tmp_path / "access.yaml", threading.Event()
    late: list[str] = []
    acknowledged = threading.Event()

    def call() -> None:
        with running.client(**bearer(issuer, groups=["agents"])) as client:
            while not stop.is_set():
                was_acknowledged = acknowledged.is_set()
                if succeeded(client.call("a_get_it")) and was_acknowledged:
                    late.append("a call passed")

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(servers[0].calls("tools/call")) > 50, "calls")
        generation = running.status()["config"]["generation"]
        write(access, issuer, RULES[1:])
        wait_until(lambda: running.status()["config"]["generation"] > generation, "it counts")
        acknowledged.set()
        seen = len(servers[0].calls("tools/call"))
        stop.wait(1.0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not late
    assert len(servers[0].calls("tools/call")) <= seen + 4, "those that were on their way"
    with running.client(**bearer(issuer, groups=["agents"])) as client:
        assert client.tools() == []
        write(access, issuer, RULES)
        wait_until(lambda: client.tools() == ["a_get_it"], "it counts again")


@pytest.mark.duty("access.rules")
def test_clients_are_told_and_the_bare_endpoint_can_be_closed(running: Gateway, issuer: Issuer, tmp_path: Path) -> None:
    with running.client(**bearer(issuer, groups=["agents"])) as client:
        headers = client.headers | {"accept": "text/event-stream"}
        with client.http.stream("GET", client.url, headers=headers) as stream:
            lines = stream.iter_lines()
            write(tmp_path / "access.yaml", issuer, RULES[1:])
            next(line for line in lines if "notifications/tools/list_changed" in line)
        write(tmp_path / "access.yaml", issuer, None, endpoint={"bare": False})
        wait_until(lambda: client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).status_code == 404, "closed")
    with Client(f"{running.url}/v/few", **bearer(issuer)) as client:
        assert client.tools() == ["a_get_it", "b_put_it"]


def said(server: ScriptedServer, session: str, message: dict[str, Any]) -> None:
    """The server says something on the stream of one of its sessions."""
    for handler in server.streams(session):
        handler.wfile.write(f"data: {json.dumps({'jsonrpc': '2.0', **message})}\n\n".encode())
        handler.wfile.flush()


@pytest.mark.duty("access.rules")
def test_a_server_that_may_not_be_seen_any_more_is_not_heard(
    running: Gateway, issuer: Issuer, servers: tuple[ScriptedServer, ScriptedServer], tmp_path: Path
) -> None:
    """Its messages went on to an open stream, and the client's notifications to it."""
    claims = {"groups": ["admins", "agents"], "realm": {"role": "x"}}
    token = bearer(issuer, **claims)
    can = {"roots": {"listChanged": True}}
    with Client(running.url, capabilities=can, **token) as client, listening(client) as heard:
        assert succeeded(client.call("b_get_it"))
        session = servers[1].calls("tools/call")[-1].headers["mcp-session-id"]
        wait_until(lambda: servers[1].streams(session), "it is heard")
        log = {"method": "notifications/message", "params": {"level": "error", "data": "before"}}
        said(servers[1], session, log)
        wait_until(lambda: [each for each in heard if each.get("params", {}).get("data") == "before"], "a message")
        write(tmp_path / "access.yaml", issuer, [RULES[0], RULES[2]])
        wait_until(lambda: client.tools() == ["a_get_it"], "the rule is gone")
        told = len(servers[1].requests)
        said(servers[1], session, log | {"params": {"level": "error", "data": "SECRET"}})
        said(servers[1], session, {"id": 77, "method": "roots/list"})
        assert client.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).status_code == 202
        quiet(1.0)
        assert not [each for each in heard if "SECRET" in str(each) or each.get("method") == "roots/list"]
        assert len(servers[1].requests) == told
        write(tmp_path / "access.yaml", issuer, RULES)
        wait_until(lambda: "b_get_it" in client.tools(), "it is back")
        said(servers[1], session, log | {"params": {"level": "error", "data": "after"}})
        wait_until(lambda: [each for each in heard if each.get("params", {}).get("data") == "after"], "and heard")


@pytest.mark.duty("access.rules")
def test_streams_end_with_what_they_were_opened_by(running: Gateway, issuer: Issuer, tmp_path: Path) -> None:
    """With the token, with the endpoint, and with the issuer."""

    def ends(client: Client, act: Callable[[], None], seconds: float) -> None:
        headers = client.headers | {"accept": "text/event-stream"}
        with client.http.stream("GET", client.url, headers=headers, timeout=seconds) as stream:
            lines = stream.iter_lines()
            next(lines)
            act()
            for _ in lines:
                pass

    short = bearer(issuer, groups=["agents"], exp=int(time.time()) - 57)  # with the skew some seconds are left
    with running.client(**short) as client:
        ends(client, lambda: None, 30)
        assert client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).status_code == 401
    access = tmp_path / "access.yaml"
    with running.client(**bearer(issuer, groups=["agents"])) as client:
        ends(client, lambda: write(access, issuer, RULES, endpoint={"bare": False}), 10)
        write(access, issuer, RULES)
        wait_until(lambda: client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).status_code == 200, "open")
        with Issuer("https://another.example") as other:
            ends(client, lambda: write(access, other, RULES), 10)
    write(access, issuer, RULES)


@pytest.mark.duty("access.rules")
def test_a_link_that_was_found_is_not_read_without_a_right(
    running: Gateway, issuer: Issuer, servers: tuple[ScriptedServer, ScriptedServer]
) -> None:
    everything = bearer(issuer, groups=["agents", "admins"], realm={"role": "x"})
    contents = answer({"contents": [{"uri": "y://hidden", "text": "top secret"}]})
    servers[1].answers["resources/read"] = contents
    try:
        with running.client(**everything) as client:
            assert succeeded(client.call("b_get_it"))
            for _ in range(2):
                assert succeeded(client.post("resources/read", {"uri": "y://hidden"}))
            client.headers |= bearer(issuer, groups=["agents"])
            for _ in range(2):
                read = client.post("resources/read", {"uri": "y://hidden"})
                assert read.json()["error"]["code"] == -32002
    finally:
        del servers[1].answers["resources/read"]
