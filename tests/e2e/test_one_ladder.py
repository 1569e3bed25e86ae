"""Router and broker give one verdict on a request, and each request is counted once."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.e2e.stack import Gateway, entry, succeeded, wait_until
from tests.servers.scripted import ScriptedServer, tool

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "a_one"}}
LIST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
ANSWER = {"jsonrpc": "2.0", "id": "mcpgw:ns/one:x:1", "result": {}}
BODIES: dict[str, Any] = {
    "call": CALL,
    "list": LIST,
    "answer": ANSWER,
    "batch": [LIST],
    "GET": None,
    "DELETE": None,
    "resume": None,
}
VERSIONS = [None, "2025-06-18", "1900-01-01"]
VIRTUAL = [None, "ns/few", "ns/none"]
SESSIONS = ["live", "none", "forged"]
ORIGINS = [None, "http://evil.example"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with ScriptedServer(tool("one")) as one:
        directory = tmp_path_factory.mktemp("ladder")
        gateway = WithFew(directory, [entry("ns/one", one.url, "a_")], "--route-memo=off")
        try:
            yield gateway
        finally:
            gateway.stop()


class WithFew(Gateway):
    """A gateway with a virtual server."""

    def write(self, servers: list[dict[str, Any]]) -> None:
        virtual = [{"name": "ns/few", "tools": ["a_one"]}]
        self.config.write_text(yaml.safe_dump({"servers": servers, "virtualServers": virtual}))


def ask(url: str, host: str, what: str, headers: dict[str, str]) -> tuple[int, Any, Any]:
    """Status, code and id of the answer; of a stream the status alone."""
    method = {"GET": "GET", "DELETE": "DELETE", "resume": "GET"}.get(what, "POST")
    body = BODIES[what]
    accept = {"accept": "text/event-stream" if method == "GET" else "application/json, text/event-stream"}
    if what == "resume":  # which the router decides
        accept["last-event-id"] = "mcpgw:ns/one:no-ticket:7"
    kind = {} if body is None else {"content-type": "application/json"}
    sent = {"host": host, **accept, **kind, **headers}
    content = None if body is None else json.dumps(body)
    with (
        httpx2.Client(trust_env=False, timeout=20) as http,
        http.stream(method, url, content=content, headers=sent) as answer,
    ):
        if answer.status_code != 200 and "json" in answer.headers.get("content-type", ""):
            document = json.loads(answer.read())
            return answer.status_code, document["error"]["code"], document["id"]
        return answer.status_code, None, None


@pytest.mark.duty("session.missing-400", "session.unknown-404", "transport.version-400")
@pytest.mark.parametrize("what", BODIES)
def test_router_and_broker_give_one_verdict(running: Gateway, what: str) -> None:
    """Through Envoy (where the router meets calls, answers and batches first) and around it."""
    host = f"127.0.0.1:{running.ports['gateway']}"
    verdicts: Counter[int] = Counter()
    for session in SESSIONS:
        for version in VERSIONS:
            for virtual in VIRTUAL:
                for origin in ORIGINS:
                    headers = {
                        "mcp-protocol-version": version,
                        "x-mcp-virtualserver": virtual,
                        "origin": origin,
                        "mcp-session-id": {"live": live(running), "none": None, "forged": "forged"}[session],
                    }
                    sent = {name: value for name, value in headers.items() if value is not None}
                    place = (session, version, virtual, origin)
                    through = ask(running.url, host, what, sent)
                    if session == "live":
                        sent["mcp-session-id"] = live(running)  # a DELETE has ended the one before
                    assert ask(running.broker_url, host, what, sent) == through, place
                    assert through[0] == expect(what, *place), place
                    verdicts[through[0]] += 1
    assert len(verdicts) >= 2


def live(running: Gateway) -> str:
    with running.client() as client:
        return client.session


def expect(what: str, session: str, version: str | None, virtual: str | None, origin: str | None) -> int:
    """The ladder of inbound/classify.py, for these cases."""
    if origin is not None:
        return 403
    if what == "batch":
        return 400  # this session's version has none
    if version == "1900-01-01":
        return 400
    if virtual == "ns/none":
        return 404
    if session != "live":
        return {"none": 400, "forged": 404}[session]
    return {"answer": 400, "DELETE": 204}.get(what, 200)


def counted(running: Gateway) -> Counter[tuple[str, str, str, str]]:
    """Requests by method, server, tool and outcome."""
    samples = re.findall(r"^mcpgw_requests_total\{(.*)\} (\S+)$", running.metrics(), re.MULTILINE)
    found: Counter[tuple[str, str, str, str]] = Counter()
    for labels, value in samples:
        values = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[values["method"], values["server"], values["tool"], values["outcome"]] += int(float(value))
    return found


def wait_counted(running: Gateway, before: Counter[Any], expected: dict[tuple[str, str, str, str], int]) -> None:
    """Exactly these requests come to what was counted before."""

    def news() -> dict[Any, int]:
        return dict(counted(running) - before)

    try:
        wait_until(lambda: news() == expected)
    except AssertionError:
        assert news() == expected


@pytest.mark.duty("metrics.requests")
def test_each_request_is_counted_once_wherever_it_ended(running: Gateway) -> None:
    with running.client(version="2025-03-26") as client:
        client.call("a_one")
        before = counted(running)
        call, unknown = CALL, {**CALL, "id": 8, "params": {"name": "a_other"}}
        notification = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
        batch = [call, unknown, LIST, notification, {"jsonrpc": "2.0", "id": 9, "method": "initialize"}, 7]
        assert client.send(batch).status_code == 200
        wait_counted(
            running,
            before,
            {
                ("tools/call", "ns/one", "a_one", "ok"): 1,
                ("tools/call", "", "", "rpc_error"): 1,
                ("tools/list", "mcpBroker", "", "ok"): 1,
                ("notifications/roots/list_changed", "mcpBroker", "", "ok"): 1,
                ("initialize", "", "", "rejected"): 1,
                ("other", "", "", "rejected"): 1,
            },
        )
        before = counted(running)
        assert succeeded(client.call("a_one"))
        assert client.call("a_other").json()["error"]["code"] == -32601
        assert client.http.delete(client.url, headers=client.headers | {"origin": "http://evil.example"}).status_code == 403
        assert client.http.get(client.url, headers=client.headers | {"host": "evil.example"}).status_code == 421
        assert client.send(CALL, origin="http://evil.example").status_code == 403
        assert client.http.get(client.url, headers=client.headers | {"accept": "application/json"}).status_code == 406
        assert client.http.put(client.url, headers=client.headers).status_code == 405
        assert client.send(b"x" * (5 << 20)).status_code == 413, "which Envoy answers"
        assert client.http.delete(client.url, headers=client.headers).status_code == 204
        assert client.call("a_one").status_code == 404
        wait_counted(
            running,
            before,
            {
                ("tools/call", "ns/one", "a_one", "ok"): 1,
                ("tools/call", "", "", "rpc_error"): 1,
                ("tools/call", "ns/one", "a_one", "rejected"): 2,
                ("DELETE", "", "", "rejected"): 1,
                ("GET", "", "", "rejected"): 2,
                ("other", "", "", "rejected"): 1,
                ("", "", "", "rejected"): 1,
                ("DELETE", "mcpBroker", "", "ok"): 1,
            },
        )


@pytest.mark.duty("metrics.requests")
def test_what_fails_at_a_server_is_counted_with_it(tmp_path: Path) -> None:
    with ScriptedServer(tool("two")) as two:
        gateway = Gateway(tmp_path, [entry("ns/two", two.url, "b_")], "--route-memo=off")
    try:
        with gateway.client() as client:
            before = counted(gateway)
            reject = client.call("b_two").json()
            wait_counted(gateway, before, {("tools/call", "ns/two", "b_two", "unavailable"): 1})
            assert reject["error"]["data"]["server"] == "ns/two"
            gateway.sidecar.signal(signal.SIGKILL)
            gateway.sidecar.wait()
            for answer in (client.call("b_two"), client.post("tools/list"), client.post("ping")):
                assert answer.status_code == 503
            gateway.start_sidecar()
            assert counted(gateway)["", "", "", "unavailable"] == 3, "Envoy's own answers"
    finally:
        gateway.stop()


@pytest.mark.duty("session.delete-version")
@pytest.mark.parametrize("version", ["1900-01-01", "2026-07-28"])
def test_a_delete_with_an_unknown_version_ends_nothing(running: Gateway, version: str) -> None:
    with running.client() as client:
        headers = client.headers | {"mcp-protocol-version": version}
        refused = 405 if version == "2026-07-28" else 400  # that era has no sessions
        assert client.http.delete(client.url, headers=headers).status_code == refused
        assert succeeded(client.call("a_one"))
