"""A server gets a token of its own in place of the caller's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest

from tests.e2e.access.issuing import Issuer
from tests.e2e.access.zitadel import PEOPLE, logged_in, person, zitadel
from tests.e2e.clients import NODE, NODE_PARTS
from tests.e2e.stack import PLAIN, Client, Gateway, Process, answer, entry, free_ports, gateway, succeeded, wait_until
from tests.e2e.test_eras import META, modern
from tests.e2e.test_replicas import redis, redis_program
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with zitadel(tmp_path_factory.mktemp("provider")) as url:
        yield url


def exchange(provider: str, directory: Path) -> dict[str, Any]:
    (directory / "secret").write_text("s/cret+\n")
    client = {"tokenUrl": f"{provider}oauth/token", "clientId": "gateway", "clientSecretFile": "secret"}
    return {"tokenExchange": {**client, "subjectTokenType": "id_token", "scope": "openid"}}


def login(provider: str) -> dict[str, Any]:
    return {"authentication": {"issuers": [{"issuer": provider, "jwksUri": f"{provider}keys", "audiences": ["web"]}]}}


def stateless(running: Gateway, name: str, token: str) -> httpx2.Response:
    headers = {
        "accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call",
        "mcp-name": name, "authorization": f"Bearer {token}", "x-mcp-token-0": "forged",
    }  # fmt: skip
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": {}, "_meta": META}}
    return PLAIN.post(running.url, json=message, headers=headers, timeout=20)


def exchanges(running: Gateway, outcome: str) -> float:
    pattern = rf'^mcpgw_token_exchanges_total{{outcome="{outcome}",server="[^"]*"}} (\S+)$'
    return sum(float(found) for found in re.findall(pattern, running.metrics(), re.MULTILINE))


@pytest.mark.duty("access.exchange")
@pytest.mark.parametrize("option", ["--route-memo=on", "--log-level=debug"])
def test_each_caller_has_a_token_of_its_own_at_a_server(provider: str, tmp_path: Path, option: str) -> None:
    """Envoy's memo shares decisions of clients without sessions: not the tokens in them."""
    tokens = {name: logged_in(provider, name) for name in PEOPLE}
    with ScriptedServer(tool("one")) as one, ScriptedServer(tool("two")) as two, ScriptedServer(tool("three")) as three:
        modern(three)
        servers = [
            entry("ns/one", one.url, "a_") | exchange(provider, tmp_path),
            entry("ns/two", two.url, "b_"),
            entry("ns/three", three.url, "c_") | exchange(provider, tmp_path),
        ]
        with gateway(tmp_path, servers, option, **login(provider)) as running, ExitStack() as open_clients:
            wait_until(lambda: running.status()["authentication"]["issuers"][0]["keys"], "the keys")
            clients = {
                name: open_clients.enter_context(running.client(authorization=f"Bearer {token}"))
                for name, token in tokens.items()
            }

            def arrived(server: ScriptedServer) -> set[str | None]:
                values = {
                    each.headers.get("authorization")
                    for each in server.requests
                    if each.headers.get("user-agent", "").find("listing") < 0
                }
                server.requests.clear()
                return values

            one.requests.clear()
            three.requests.clear()
            for name in ("alice", "bob"):
                for _ in range(4):
                    assert succeeded(clients[name].call("a_one"))
                (value,) = arrived(one)  # of initialize, of calls
                assert value is not None
                assert person(provider, value) == name
            for _ in range(3):
                for name in ("alice", "bob"):
                    for ask in (
                        lambda name: clients[name].call("c_three"),
                        lambda name: stateless(running, "c_three", tokens[name]),
                    ):
                        assert succeeded(ask(name))
                        (value,) = arrived(three)
                        assert value is not None
                        assert person(provider, value) == name
                    assert succeeded(stateless(running, "a_one", tokens[name])), "carried into a session"
                    (value,) = arrived(one)
                    assert value is not None
                    assert person(provider, value) == name
            assert exchanges(running, "ok") == 4, "one for each caller and server"
            refused = answer(clients["carol"].call("a_one"))["error"]
            assert refused["data"] == {"server": "ns/one", "reason": "Unauthorized"}, "that server says 500"
            assert answer(stateless(running, "c_three", tokens["carol"]))["error"]["data"]["reason"] == "Unauthorized"
            assert one.requests == three.requests == []
            assert succeeded(clients["carol"].call("b_two"))
            shown = (
                running.sidecar.text + running.envoy.text + str(running.status()) + running.ask_envoy("/config_dump").text
            )
            for secret in ("s/cret+", value.partition(" ")[2], *tokens.values()):
                assert secret not in shown


@contextmanager
def renewing(directory: Path, issuer: Issuer, seconds: int) -> Iterator[tuple[str, Process]]:
    """oidc-provider, whose tokens live for some seconds; its URL."""
    (port,) = free_ports(1)
    command = [str(NODE), str(NODE_PARTS / "exchange.mjs"), str(port), issuer.url, issuer.name, str(seconds)]
    process = Process(command, directory / "exchange.log")
    try:
        wait_until(lambda: "listening" in process.text, "the authorization server")
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.stop()


def profile(name: str, url: str) -> dict[str, Any]:
    client = {"tokenUrl": f"{url}/token", "clientSecretFile": "secret"}
    if name == "entra-obo":
        return {**client, "clientId": "body", "profile": name, "scope": "openid"}
    return {**client, "clientId": "basic", "profile": name, "audience": url, "grant": {**client, "clientId": "basic"}}


def introspected(url: str, authorization: str) -> dict[str, Any]:
    data = {"token": authorization.partition(" ")[2]}
    got = PLAIN.post(f"{url}/token/introspection", data=data, auth=("basic", "secret"))
    return dict(got.json())


@pytest.mark.duty("access.exchange")
@pytest.mark.parametrize("name", ["entra-obo", "id-jag"])
def test_other_profiles_and_a_token_that_ends(tmp_path: Path, name: str) -> None:
    """The memo has the token, too: it asks the router again before the token ends."""
    (tmp_path / "secret").write_text("secret")
    with Issuer() as issuer, renewing(tmp_path, issuer, 3) as (url, process), ScriptedServer(tool("one")) as one:
        servers = [entry("ns/one", one.url, "a_") | {"tokenExchange": profile(name, url)}]
        with gateway(tmp_path, servers, authentication={"issuers": [issuer.entry()]}) as running:
            wait_until(lambda: running.status()["authentication"]["issuers"][0]["keys"], "the keys")

            def last_token() -> str:
                return str(one.calls("tools/call")[-1].headers["authorization"])

            with running.client(authorization=f"Bearer {issuer.token()}") as client:
                assert succeeded(client.call("a_one"))
                first, end = last_token(), time.monotonic() + 20
                assert introspected(url, first)["sub"] == "alice"
                while last_token() == first:
                    assert time.monotonic() < end
                    assert succeeded(client.call("a_one"))
                assert introspected(url, last_token())["sub"] == "alice"
                one.status = 401  # the server takes it no longer
                last = last_token()
                assert answer(client.call("a_one"))["error"]["data"]["reason"] == "Unauthorized"
                one.status = None
                wait_until(lambda: succeeded(client.call("a_one")) and last_token() != last, "another is asked for")
            with running.client(authorization=f"Bearer {issuer.token(sub='mallory')}") as client:
                error = answer(client.call("a_one"))["error"]
                assert error["data"] == {"server": "ns/one", "reason": "Unauthorized", "error": "invalid_grant"}
                assert "not this one" not in str(error) + running.sidecar.text
                process.stop()
                error = answer(client.call("a_one"))["error"]
                assert error["data"] == {"server": "ns/one", "reason": "Unauthorized"}
                assert "127.0.0.1" not in str(error)
            assert exchanges(running, "refused") == exchanges(running, "failed") == 1
            assert len(running.logged("WARN.*No token for a server")) == 2, "each fault once"


@pytest.mark.duty("access.exchange")
@pytest.mark.skipif(redis_program() is None, reason="needs Redis")
def test_replicas_share_tokens_sealed(provider: str, tmp_path: Path) -> None:
    token = logged_in(provider, "alice")
    (port,) = free_ports(1)
    for name in ("redis", "first", "second"):
        (tmp_path / name).mkdir()
    with ExitStack() as parts:
        parts.enter_context(redis(tmp_path / "redis", port))
        one = parts.enter_context(ScriptedServer(tool("one")))
        (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
        options = [f"--session-store=redis://:s3cret@127.0.0.1:{port}", f"--session-key-file={tmp_path / 'key'}"]
        gateways = []
        for name in ("first", "second"):
            servers = [entry("ns/one", one.url, "a_") | exchange(provider, tmp_path / name)]
            gateways.append(parts.enter_context(gateway(tmp_path / name, servers, *options, **login(provider))))
        for running in gateways:
            wait_until(lambda running=running: running.status()["authentication"]["issuers"][0]["keys"], "the keys")
            with Client(running.url, authorization=f"Bearer {token}") as client:
                assert succeeded(client.call("a_one"))
        assert [exchanges(running, "ok") for running in gateways] == [1, 0]
        (value,) = {each.headers["authorization"] for each in one.calls("tools/call")}
        stored = b"".join(each.read_bytes() for each in (tmp_path / "redis").rglob("*") if each.is_file())
        assert b"mcpgw:t:" in stored
        assert value.partition(" ")[2].encode() not in stored


@contextmanager
def slow(seconds: float) -> Iterator[str]:
    """The URL of a token endpoint whose tokens name their audience: no real one can be so slow."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            fields = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            time.sleep(seconds)
            body = json.dumps({"access_token": f"for-{fields['audience'][0]}", "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/token"
    http.shutdown()
    http.server_close()


@pytest.mark.duty("access.exchange")
def test_a_server_that_moves_meanwhile_gets_no_token_of_the_one_before(tmp_path: Path) -> None:
    """It got the old audience's token, and then Envoy remembered to call it without any."""
    with Issuer() as issuer, slow(2.0) as url, ScriptedServer(tool("t")) as old, ScriptedServer(tool("t")) as new:

        def servers(server: ScriptedServer, audience: str) -> list[dict[str, Any]]:
            return [
                entry("ns/one", server.url, "a_")
                | {"tokenExchange": {"tokenUrl": url, "clientId": "g", "audience": audience}}
            ]

        with gateway(tmp_path, servers(old, "old"), authentication={"issuers": [issuer.entry()]}) as running:
            wait_until(lambda: running.status()["authentication"]["issuers"][0]["keys"], "the keys")
            with running.client(authorization=f"Bearer {issuer.token()}") as client, ThreadPoolExecutor(1) as pool:
                under_way = pool.submit(client.call, "a_t")
                wait_until(lambda: client.tools() == ["a_t"], "it waits for its token")
                running.write(servers(new, "new"))
                under_way.result()
                wait_until(lambda: succeeded(client.call("a_t")), "a call")
                for _ in range(3):
                    assert succeeded(client.call("a_t"))
            for server, token in ((old, "Bearer for-old"), (new, "Bearer for-new")):
                assert {each.headers["authorization"] for each in server.calls("tools/call")} <= {token}
            assert len(new.calls("tools/call")) >= 4
