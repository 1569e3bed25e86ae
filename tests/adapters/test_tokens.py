"""What authorization servers may answer when a token is exchanged, and who asks them how often."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from mcpgw_sidecar.app.settings import Settings, warn_of_login
from mcpgw_sidecar.config.source import load
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.inbound.callers import Caller
from mcpgw_sidecar.model.access import Access, Authentication, Issuer
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.exchanges import TokenClient, TokenExchange
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Desired, Server
from mcpgw_sidecar.sessions.tokens import SessionKeys, parse_keys
from mcpgw_sidecar.upstream import tokens
from mcpgw_sidecar.upstream.tokens import SharedTokens, TokenExchanger

KEYS = parse_keys("0123456789abcdef0123456789abcdef", "k")
ALICE, BOB = Caller("https://idp", "alice", {}), Caller("https://idp", "bob", {})
SENT = {"authorization": "Bearer mine", "x-mcp-token-0": "forged"}
GOOD = {"access_token": "theirs", "token_type": "bearer", "expires_in": 300}


@attrs.define
class Answering:
    """A token endpoint that says what a test wants, after some seconds."""

    server: Server
    answer: tuple[int, bytes] = (200, json.dumps(GOOD).encode())
    pause: float = 0.0
    asked: list[tuple[str | None, dict[str, list[str]]]] = attrs.field(factory=list)
    counted: list[str] = attrs.field(factory=list)
    kept: dict[str, str] = attrs.field(factory=dict)
    exchanger: TokenExchanger = attrs.field(default=None)

    def say(self, status: int = 200, **members: Any) -> None:
        self.answer = status, json.dumps(members).encode()

    async def wait_headers(self, caller: Caller | None = ALICE) -> dict[str, str] | Reject:
        return await self.exchanger.wait_headers(self.server, caller, SENT)

    @property
    def until(self) -> float:
        kept = self.exchanger.kept(self.server, ALICE)
        assert kept is not None
        return kept.until

    async def wait_refused(self, caller: Caller | None = ALICE) -> tuple[str, Any]:
        refused = await self.wait_headers(caller)
        assert isinstance(refused, Reject)
        return refused.message, refused.data


@asynccontextmanager
async def answering(**client: Any) -> AsyncIterator[Answering]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            here.asked.append((self.headers["authorization"], parse_qs(body)))
            time.sleep(here.pause)
            self.send_response(here.answer[0])
            self.send_header("content-length", str(len(here.answer[1])))
            self.end_headers()
            self.wfile.write(here.answer[1])

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, daemon=True).start()
    where = TokenClient(**{"token_url": f"http://127.0.0.1:{http.server_port}/token", "client_id": "a:b", **client})
    exchange = TokenExchange(client=where, audience="aud", resource="https://h/mcp")
    here = Answering(Server(name=ServerName("ns/one"), url="http://one", hostname="one", token_exchange=exchange))

    async def wait_read(key: str) -> str | None:
        return here.kept.get(key)

    async def wait_written(key: str, text: str, _seconds: int) -> None:
        here.kept[key] = text

    async with trio.open_nursery() as nursery:
        here.exchanger = TokenExchanger(
            keys=lambda: KEYS,
            shared=SharedTokens(wait_read=wait_read, wait_written=wait_written),
            nursery=nursery,
            counted=lambda _server, outcome: here.counted.append(outcome),
        )
        yield here
        nursery.cancel_scope.cancel()
    http.shutdown()
    http.server_close()


@pytest.mark.duty("access.exchange")
async def test_it_is_asked_once_for_each_caller(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s e\n")
    async with answering(client_secret_file=str(tmp_path / "secret")) as here:
        here.pause = 0.2
        got: list[dict[str, str] | Reject] = []

        async def ask(caller: Caller) -> None:
            got.append(await here.wait_headers(caller))

        async with trio.open_nursery() as nursery:
            for caller in (ALICE, ALICE, BOB, ALICE):
                nursery.start_soon(ask, caller)
        name = here.server.exchanged_header
        assert got == [SENT | {name: "Bearer theirs"}] * 4
        assert await here.wait_headers() == got[0]
        assert len(here.asked) == 2
        assert here.counted == ["ok", "ok"]
        authorization, fields = here.asked[0]
        assert authorization == "Basic YSUzQWI6cytl", "a:b and `s e`, each encoded as a form field is"
        assert fields == {
            "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
            "subject_token": ["mine"],
            "subject_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
            "requested_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
            "audience": ["aud"],
            "resource": ["https://h/mcp"],
        }
        assert time.time() + 260 < here.until <= time.time() + 270
        assert here.exchanger.kept(here.server, None) is None
        for other_caller in (Caller("other", "alice", {}), Caller("https://idp", "alice", {"scope": "admin"})):
            assert here.exchanger.kept(here.server, other_caller) is None
        other = attrs.evolve(here.exchanger, counted=lambda *_: None)
        here.asked.clear()
        assert await other.wait_headers(here.server, ALICE, SENT) == got[0], "a replica has kept it"
        assert not here.asked


@pytest.mark.duty("access.exchange")
async def test_what_an_authorization_server_may_say(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering() as here:
        needs, data = (
            "needs a token of its own for this caller, and its authorization server",
            {"server": "ns/one", "reason": "Unauthorized"},
        )
        here.say(400, error="invalid_grant", error_description="secret words")
        message, said = await here.wait_refused()
        assert message.endswith(f"{needs} refuses it (invalid_grant): log in again, or ask for access")
        assert said == {**data, "error": "invalid_grant"}
        assert here.asked[0] == (None, here.asked[0][1] | {"client_id": ["a:b"]}), "a client without a secret says who it is"
        here.say(401, error="invalid_client")
        assert (await here.wait_refused())[0].endswith(f"{needs} refuses this gateway (invalid_client): tell its operator")
        for status, members in (
            (500, {"error": "server_error"}),
            (400, {"error": "no word"}),
            (400, {"error": ["x"]}),
            (302, {}),
            (200, {}),
            (200, GOOD | {"token_type": "N_A"}),
            (200, GOOD | {"token_type": None}),
            (200, GOOD | {"access_token": "a b"}),
            (200, GOOD | {"access_token": "x" * 9000}),
            (200, GOOD | {"more": "x" * 70000}),
        ):
            here.say(status, **members)
            assert await here.wait_refused() == (
                f"MCP server ns/one {needs} gives none at the moment: try again, and tell the operator of this gateway if that lasts",
                data,
            ), members
        here.answer = 200, b"no JSON"
        assert (await here.wait_refused())[1] == data
        assert here.counted == ["refused", "refused", *["failed"] * 11], "a failure is not kept"
        monkeypatch.setattr(tokens, "TIMEOUT", 0.1)
        here.pause = 0.5
        assert (await here.wait_refused())[1] == data
        message, said = await here.wait_refused(None)
        assert (message, said) == ("MCP server ns/one is for callers that have logged in: send a token", data)


@pytest.mark.duty("access.exchange")
@pytest.mark.parametrize(
    ("said", "life"), [("300", 270), (None, 54), ("x", 54), (-1, 54), (10**400, 54), (10, 9), (1e9, 86370)]
)
async def test_until_when_a_token_counts(said: Any, life: float) -> None:
    async with answering() as here:
        here.say(**GOOD | {"expires_in": said})
        await here.wait_headers()
        assert life - 5 < here.until - time.time() <= life


@pytest.mark.duty("access.exchange")
async def test_a_secret_that_cannot_be_read_and_a_table_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_KEPT", 1)
    (tmp_path / "secret").write_text(" \n")
    for path in ("none", "secret"):
        async with answering(client_secret_file=str(tmp_path / path)) as here:
            assert (await here.wait_refused())[1] == {"server": "ns/one", "reason": "Unauthorized"}
            assert not here.asked
    async with answering() as here:
        for caller in (ALICE, BOB):
            await here.wait_headers(caller)
        assert here.exchanger.kept(here.server, ALICE) is None
        here.exchanger = attrs.evolve(here.exchanger, keys=_no_keys)
        here.kept.clear()
        refused = await here.wait_headers()
        assert isinstance(refused, Reject)
        assert refused.message == "Internal error of the gateway"


def _no_keys() -> SessionKeys:
    raise RuntimeError("a bug")


@pytest.mark.duty("access.exchange")
async def test_a_token_that_its_server_refuses_is_replaced_once() -> None:
    async with answering() as here:
        await here.wait_headers()
        here.exchanger.refused(here.server, "Bearer another")
        assert here.exchanger.kept(here.server, ALICE) is not None
        here.exchanger.refused(here.server, "Bearer theirs")
        assert here.exchanger.kept(here.server, ALICE) is None
        here.say(**GOOD | {"access_token": "newer"})
        got = await here.wait_headers()
        assert not isinstance(got, Reject)
        assert got[here.server.exchanged_header] == "Bearer newer", "not the one in the store"
        here.say(**GOOD | {"access_token": "newer"})
        here.exchanger.refused(here.server, "Bearer newer")
        await here.wait_headers()
        here.exchanger.refused(here.server, "Bearer newer")
        await here.wait_headers()
        assert len(here.asked) == 3, "who gives the same token again is not asked for ever"


@pytest.mark.duty("access.exchange")
async def test_a_new_login_does_not_get_the_refusal_of_an_old_one() -> None:
    async with answering() as here:
        here.pause = 0.2
        here.say(400, error="invalid_grant")
        results: list[Any] = []

        async def ask(token: str) -> None:
            results.append(await here.exchanger.wait_headers(here.server, ALICE, {"authorization": f"Bearer {token}"}))

        async with trio.open_nursery() as nursery:
            for token in ("old", "new"):
                nursery.start_soon(ask, token)
        assert sorted(fields["subject_token"][0] for _, fields in here.asked) == ["new", "old"]


@pytest.mark.duty("access.exchange")
def test_what_leaves_the_machine_without_tls_is_said() -> None:
    """`http://` is for loopback; elsewhere whoever is on the way could give keys and tokens."""
    client = TokenClient(token_url="http://idp.example/token", client_id="g")
    exchange = TokenExchange(client=client, grant=attrs.evolve(client, token_url="http://127.0.0.1:7/token"))
    server = Server(name=ServerName("ns/one"), url="http://one", hostname="one", token_exchange=exchange)
    issuers = tuple(
        Issuer(issuer=url, audiences=("a",), jwks_uri=url) for url in ("http://keys.example/", "https://keys.example/")
    )
    access = Access(authentication=Authentication(issuers=(*issuers, Issuer(issuer="f", audiences=("a",), jwks_file="/f"))))
    with capture_logs() as lines:
        warn_of_login(Settings(envoy_dir=Path("/x")), Desired(source="x", servers=(server,), access=access))
    said = [(line["key"], line["url"]) for line in lines if line["log_level"] == "warning" and "key" in line]
    assert said == [("jwksUri", "http://keys.example/"), ("tokenUrl", "http://idp.example/token")]


@pytest.mark.duty("access.exchange", "config.errors-placed")
def test_a_file_with_an_exchange_and_no_login_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("servers: [{name: a, url: 'http://h', tokenExchange: {tokenUrl: 'http://x', clientId: a}}]")
    with pytest.raises(ConfigurationError, match="tokenExchange needs callers that log in"):
        load(file)
    assert load(file, has_access=True).servers[0].token_exchange is not None
