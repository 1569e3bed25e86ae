"""Login: who gets in with which token, by which request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.access.issuing import AUDIENCE, Issuer
from tests.e2e.stack import PLAIN, Client, Gateway, entry, gateway, succeeded, wait_until
from tests.servers.scripted import ScriptedServer, tool

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a_one", "arguments": {}}}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as new_issuer:
        new_issuer.new_key("rsa", alg="RS256")
        yield new_issuer


@pytest.fixture(scope="module")
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("one"), tool("two")) as server:
        yield server


@pytest.fixture(scope="module")
def running(issuer: Issuer, one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory, authentication = tmp_path_factory.mktemp("login"), {"issuers": [issuer.entry()]}
    with gateway(directory, [entry("ns/one", one.url, "a_")], authentication=authentication) as new_gateway:
        wait_until(lambda: Client(new_gateway.url, **bearer(issuer.token())).initialized.status_code == 200, "the keys")
        yield new_gateway


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


BAD: dict[str, Callable[[Issuer], str]] = {
    "malformed": lambda _issuer: "x.y",
    "wrong signature": lambda issuer: issuer.token()[:-8] + "AAAAAAAA",
    "wrong issuer": lambda issuer: issuer.token(iss=f"{issuer.name}/"),
    "wrong audience": lambda issuer: issuer.token(aud="https://other.example"),
    "no audience": lambda issuer: issuer.token(aud=None),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 90),
    "not yet valid": lambda issuer: issuer.token(nbf=int(time.time()) + 90),
    "unknown key": lambda issuer: issuer.token(header={"kid": "k9"}),
    "alg none": lambda issuer: issuer.unsigned(),
    "HS256 with the public key": lambda issuer: issuer.confused(),
    "no subject": lambda issuer: issuer.token(sub=None),
    "a subject that is no text": lambda issuer: issuer.token(sub=["alice"]),
    "no end": lambda issuer: issuer.token(exp=None),
    "a subject of two lines": lambda issuer: issuer.token(sub="alice\r\nx-mcp-claims: y"),
    "a subject with blanks": lambda issuer: issuer.token(sub=" alice "),
}


def requests(client: Client) -> dict[str, Callable[[dict[str, str]], httpx2.Response]]:
    """Each kind of request in the client's session, with headers."""

    def post(message: Any) -> Callable[[dict[str, str]], httpx2.Response]:
        return lambda headers: client.http.post(client.url, json=message, headers={**client.headers, **headers})

    answer = {"jsonrpc": "2.0", "id": "mcpgw:ns/one:x:1", "result": {}}
    get = {**client.headers, "accept": "text/event-stream"}
    resumed = {**get, "last-event-id": "mcpgw:ns/one:x:~~1"}
    return {
        "initialize": lambda headers: PLAIN.post(client.url, json=INITIALIZE, headers={**client.headers, **headers}),
        "list": post(LIST),
        "miss": post(CALL | {"params": {"name": "a_two", "arguments": {}}}),
        "hit": post(CALL),
        "answer": post(answer),
        "GET": lambda headers: client.http.get(client.url, headers={**get, **headers}),
        "resumed": lambda headers: client.http.get(client.url, headers={**resumed, **headers}),
        "DELETE": lambda headers: client.http.delete(client.url, headers={**client.headers, **headers}),
    }


@pytest.mark.duty("access.login")
@pytest.mark.parametrize("bad", ["none", *BAD])
def test_a_bad_token_gets_401_whatever_it_asks(running: Gateway, issuer: Issuer, one: ScriptedServer, bad: str) -> None:
    good = bearer(issuer.token())
    with running.client(**good) as client:
        for _ in range(3):
            assert succeeded(client.send(CALL))
        before = len(one.calls("tools/call"))
        headers = bearer(BAD[bad](issuer)) if bad != "none" else {}
        client.headers.pop("authorization")
        for what, ask in requests(client).items():
            refused = ask(headers)
            assert refused.status_code == 401, what
            assert (refused.json()["id"], refused.json()["error"]["code"]) == (None, -32001)
            challenge = refused.headers["www-authenticate"]
            assert challenge.startswith(
                f'Bearer resource_metadata="{running.url.removesuffix("/mcp")}/.well-known/oauth-protected-resource/mcp"'
            )
            assert ('error="invalid_token"' in challenge) == (bad != "none")
        assert len(one.calls("tools/call")) == before
        assert succeeded(client.http.post(client.url, json=CALL, headers=client.headers | good)), "the session goes on"


@pytest.mark.duty("access.login")
def test_a_good_token_gets_in(running: Gateway, issuer: Issuer, one: ScriptedServer) -> None:
    for token in (
        issuer.token(),
        issuer.token("rsa", "RS256"),
        issuer.token("rsa", "PS256"),
        issuer.token(aud=["x", AUDIENCE]),
    ):
        with running.client(**bearer(token)) as client:
            for _ in range(3):
                assert succeeded(client.send(CALL))
            assert client.tools() == ["a_one", "a_two"]
    assert 'mcpgw_memo_lookups_total{result="hit"}' in running.metrics()
    seen = one.calls("tools/call")[-1].headers
    assert "authorization" not in seen
    assert not any("claims" in name or "subject" in name for name in seen)
    lines = [json.loads(line) for line in running.envoy.text.splitlines() if line.startswith("{")]
    assert {(line["subject"], line["issuer"]) for line in lines if line["tool"] == "a_one" and line["status"] == 200} == {
        ("alice", issuer.name)
    }
    assert issuer.token() not in running.envoy.text
    query = PLAIN.post(f"{running.url}?access_token={issuer.token()}", json=INITIALIZE)
    assert query.status_code == 401, "a token in the query is none"


@pytest.mark.duty("access.owner")
def test_a_session_belongs_to_its_caller(running: Gateway, issuer: Issuer, one: ScriptedServer) -> None:
    """Whoever knew the id of a session had it: its calls, its streams, its end."""
    alice, bob = bearer(issuer.token()), bearer(issuer.token(sub="bob"))
    forged = {"x-mcp-claims": issuer.token().split(".")[1]}
    with running.client(**alice) as client:
        for _ in range(3):
            assert succeeded(client.send(CALL))
        before = len(one.calls("tools/call"))
        for headers in (bob, bob | forged):
            for what, ask in requests(client).items():
                if what != "initialize":
                    refused = ask(headers)
                    assert (what, refused.status_code) == (what, 404)
                    assert refused.json()["error"]["code"] == -32001
        assert len(one.calls("tools/call")) == before
        renewed = bearer(issuer.token(iat=1, jti="another"))
        for _ in range(2):
            assert succeeded(client.http.post(client.url, json=CALL, headers=client.headers | renewed)), "a refreshed token"


@pytest.mark.duty("access.metadata")
def test_the_metadata_say_where_to_log_in(running: Gateway, issuer: Issuer) -> None:
    origin = running.url.removesuffix("/mcp")
    for path, resource in (("", "/mcp"), ("/mcp", "/mcp"), ("/mcp/ns/few", "/mcp/ns/few")):
        answered = PLAIN.get(f"{origin}/.well-known/oauth-protected-resource{path}", headers={"origin": origin})
        assert answered.status_code == 200
        assert answered.json() == {
            "resource": f"{origin}{resource}",
            "authorization_servers": [issuer.name],
            "bearer_methods_supported": ["header"],
        }
        assert answered.headers["access-control-allow-origin"] == origin
    for path in ("/other", "/mcp2"):
        assert PLAIN.get(f"{origin}/.well-known/oauth-protected-resource{path}").status_code == 404
    stranger = PLAIN.get(f"{origin}/.well-known/oauth-protected-resource", headers={"host": "evil.example"})
    assert stranger.status_code == 421
    preflight = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    assert PLAIN.request("OPTIONS", running.url, headers=preflight).status_code == 200
    assert (
        PLAIN.post(running.url, json=INITIALIZE, headers={"origin": origin}).headers["access-control-allow-origin"] == origin
    )


@pytest.mark.duty("access.keys")
def test_keys_come_and_go(one: ScriptedServer, tmp_path: Path) -> None:
    """An issuer that is away at the start, and later; a key that is published, and withdrawn."""
    with Issuer() as issuer:
        issuer.status = 500
        authentication = {"issuers": [issuer.entry()]}
        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], authentication=authentication) as running:

            def asked(token: str) -> httpx2.Response:
                headers = {"accept": "application/json, text/event-stream", **bearer(token)}
                return PLAIN.post(running.url, json=INITIALIZE, headers=headers)

            first = asked(issuer.token())
            assert (first.status_code, first.headers["retry-after"]) == (503, "5")
            (shown,) = running.status()["authentication"]["issuers"]
            assert (shown["issuer"], shown["keys"]) == (issuer.name, False)
            assert "answered HTTP 500" in shown["error"]
            issuer.status = 200
            wait_until(lambda: asked(issuer.token()).status_code == 200, "its keys")
            issuer.new_key("k2")
            wait_until(lambda: asked(issuer.token("k2")).status_code == 200, "a new key")
            used = bearer(issuer.token("k1"))
            with running.client(**used) as client:
                for _ in range(3):
                    assert succeeded(client.send(CALL)), "Envoy knows the token, and the call"
                issuer.published.remove("k1")
                wait_until(lambda: asked(issuer.token("k1")).status_code == 401, "a key that was withdrawn")
                wait_until(lambda: client.send(CALL).status_code == 401, "also for the token that Envoy knows")
                assert asked(used["authorization"].removeprefix("Bearer ")).status_code == 401
                renewed = client.http.post(client.url, json=CALL, headers=client.headers | bearer(issuer.token("k2")))
                assert succeeded(renewed)
            issuer.status = 500
            wait_until(lambda: running.status()["authentication"]["issuers"][0]["error"], "it is away")
            assert asked(issuer.token("k2")).status_code == 200, "the keys of before stay"
            running.kill()
            assert asked(issuer.token("k1")).status_code == 401
            running.start_sidecar()


@pytest.mark.duty("access.login")
def test_scopes_and_callers_without_a_token(issuer: Issuer, one: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(issuer.jwks())
    authentication = {
        "issuers": [issuer.entry(Path("keys.json"), subject="client_id")],
        "required": False,
        "scopes": ["mcp"],
        "resource": AUDIENCE,
    }
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")], authentication=authentication) as running:
        good = bearer(issuer.token(scope="other mcp", client_id="robot"))
        wait_until(lambda: Client(running.url, **good).initialized.status_code == 200, "the keys")
        with running.client() as nobody, running.client(**good) as robot:
            for _ in range(2):
                assert succeeded(nobody.send(CALL))
                assert succeeded(robot.send(CALL))
            assert nobody.http.post(nobody.url, json=CALL, headers=nobody.headers | good).status_code == 404
            assert nobody.http.post(nobody.url, json=CALL, headers=nobody.headers | bearer("x")).status_code == 401
            few = robot.http.post(robot.url, json=CALL, headers=robot.headers | bearer(issuer.token(client_id="robot")))
            assert few.status_code == 403
            assert few.headers["www-authenticate"] == (
                'Bearer resource_metadata="https://gw.example/.well-known/oauth-protected-resource/mcp", '
                'error="insufficient_scope", scope="mcp"'
            )
        shown = PLAIN.get(f"{running.url.removesuffix('/mcp')}/.well-known/oauth-protected-resource/mcp/ns/v").json()
        assert (shown["resource"], shown["scopes_supported"]) == (f"{AUDIENCE}/ns/v", ["mcp"])


@pytest.mark.duty("access.login", "limits.calls")
def test_servers_and_limits_know_the_caller(issuer: Issuer, one: ScriptedServer, tmp_path: Path) -> None:
    """By the subject of the token, never by what a client says."""
    wants = {"forwardHeaders": ["x-mcp-subject"]}
    limits = {"calls": [{"perMinute": 1, "burst": 4, "each": ["caller"]}]}
    servers = [entry("ns/one", one.url, "a_") | wants]
    with gateway(tmp_path, servers, authentication={"issuers": [issuer.entry()]}, limits=limits) as running:
        wait_until(lambda: Client(running.url, **bearer(issuer.token())).initialized.status_code == 200, "the keys")
        for name in ("alice", "bob"):
            with running.client(**bearer(issuer.token(sub=name)), x_mcp_subject="root") as client:
                for _ in range(4):
                    assert succeeded(client.send(CALL))
                    assert one.calls("tools/call")[-1].headers["x-mcp-subject"] == name
                assert client.send(CALL).json()["error"]["data"]["reason"] == "Limited"


@pytest.mark.duty("access.login", "limits.calls")
def test_callers_of_two_issuers_and_without_a_token_are_limited_apart(
    issuer: Issuer, one: ScriptedServer, tmp_path: Path
) -> None:
    limits = {"calls": [{"perMinute": 1, "burst": 3, "each": ["caller"]}]}
    with Issuer("https://second.example") as second:
        authentication = {"issuers": [issuer.entry(), second.entry()], "required": False}
        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], authentication=authentication, limits=limits) as running:
            for each in (issuer, second):
                wait_until(
                    lambda each=each: Client(running.url, **bearer(each.token())).initialized.status_code == 200, "keys"
                )
            for headers in (bearer(issuer.token()), bearer(second.token()), {}):
                with running.client(**headers) as client:
                    for _ in range(3):
                        assert succeeded(client.send(CALL))
                    assert client.send(CALL).json().get("error", {}).get("data", {}).get("reason") == "Limited", headers


@pytest.mark.duty("access.login")
def test_ways_to_write_a_token(running: Gateway, issuer: Issuer) -> None:
    good = issuer.token()
    for scheme in ("bearer", "BEARER"):
        assert Client(running.url, authorization=f"{scheme} {good}").initialized.status_code == 200
    for first, second in ((f"Basic {good}", f"Bearer {good}"), (f"Bearer {good}", "Basic eDp5")):
        headers = [("authorization", first), ("authorization", second), ("accept", "application/json, text/event-stream")]
        assert PLAIN.post(running.url, json=INITIALIZE, headers=headers).status_code in {400, 401}
    assert Client(running.url, authorization=f"Negotiate x Bearer {good}").initialized.status_code == 401
