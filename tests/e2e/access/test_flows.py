"""Clients that others wrote log in by themselves, at an authorization server that others wrote.

The gateway answers 401 and says where; everything else is between the client and that server.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from tests.e2e.clients import NODE, NODE_PARTS
from tests.e2e.conftest import inspector, node
from tests.e2e.stack import PLAIN, Gateway, Process, entry, environment, free_ports, gateway, wait_until
from tests.servers.scripted import ScriptedServer, tool

CALLBACK = "http://127.0.0.1:1/callback"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose callers come from oidc-provider; the tools of `a_` are for its group."""
    directory = tmp_path_factory.mktemp("flows")
    (port,) = free_ports(1)
    resource = "http://gateway.example/mcp"
    provider = Process([str(NODE), str(NODE_PARTS / "idp.mjs"), str(port), resource], directory / "idp.log")
    issuer = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: "listening" in provider.text, "the authorization server")
        with ScriptedServer(tool("one")) as one, ScriptedServer(tool("two")) as two:
            more = {
                "authentication": {
                    "issuers": [{"issuer": issuer, "jwksUri": f"{issuer}/jwks", "audiences": [resource]}],
                    "scopes": ["mcp"],
                },
                "authorization": [{"servers": ["ns/one"], "allow": [{"groups": ["agents"]}]}],
            }
            servers = [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]
            with gateway(directory, servers, **more) as new_gateway:
                wait_until(lambda: new_gateway.status()["authentication"]["issuers"][0]["keys"], "the keys")
                yield new_gateway
    finally:
        provider.stop()


def logged_in(url: str, callback: str = CALLBACK) -> dict[str, str]:
    """What a user does in a browser: log in and consent; returns what the callback gets."""
    with httpx2.Client(trust_env=False) as browser:
        answer = browser.get(url)
        for _ in range(12):
            if answer.is_redirect:
                target = urljoin(str(answer.url), answer.headers["location"])
                if target.startswith(callback):
                    return {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
                answer = browser.get(target)
                continue
            assert answer.status_code == 200, answer.text
            form = re.search(r'action="([^"]+)" method="post"', answer.text)
            prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
            assert form is not None, answer.text
            assert prompt is not None, answer.text
            fields = {"prompt": prompt[1], "login": "alice", "password": "x"}
            answer = browser.post(urljoin(str(answer.url), form[1]), data=fields)
    raise AssertionError(answer.text)


class Kept(TokenStorage):
    tokens: OAuthToken | None = None
    info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.info = client_info


@pytest.mark.duty("access.flows")
async def test_the_python_sdk(running: Gateway) -> None:
    urls: list[str] = []

    async def redirect(url: str) -> None:
        urls.append(url)

    async def callback() -> AuthorizationCodeResult:
        return AuthorizationCodeResult.model_validate(logged_in(urls[-1]))

    async def any_resource(_server: str, _resource: str | None) -> None: ...

    metadata = OAuthClientMetadata.model_validate({"redirect_uris": [CALLBACK], "client_name": "test", "scope": "mcp"})
    kept = Kept()
    provider = OAuthClientProvider(running.url, metadata, kept, redirect, callback, validate_resource_url=any_resource)
    async with (
        httpx2.AsyncClient(auth=provider, timeout=20, follow_redirects=True) as http,
        streamable_http_client(running.url, http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        assert [each.name for each in (await session.list_tools()).tools] == ["a_one"]
        for _ in range(3):
            assert not (await session.call_tool("a_one", {})).is_error
    assert len(urls) == 1
    assert kept.tokens is not None
    assert kept.tokens.access_token not in running.sidecar.text + running.envoy.text


@pytest.mark.duty("access.flows")
@pytest.mark.parametrize("generation", ["1", "2"])
def test_the_typescript_sdk(running: Gateway, generation: str) -> None:
    command = [str(NODE), str(NODE_PARTS / "login.mjs"), generation, running.url, CALLBACK]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        said = [client.stdout.readline()]
        assert said[0].startswith("authorize "), said[0] + client.stdout.read()
        got = logged_in(said[0].removeprefix("authorize ").strip())
        client.stdin.write(f"{json.dumps(got)}\n")
        client.stdin.flush()
        rest = client.stdout.read()
    assert rest.strip().splitlines()[-1] == json.dumps({"tools": ["a_one"], "isError": False}), rest


@pytest.mark.duty("access.flows")
def test_mcp_remote(running: Gateway, tmp_path: Path) -> None:
    """The bridge for clients that only start programs: it logs in, and passes what they say."""
    (port,) = free_ports(1)
    command = [str(NODE), str(NODE_PARTS / "node_modules/mcp-remote/dist/proxy.js"), running.url, str(port)]
    command += ["--allow-http", "--transport", "http-only", "--host", "127.0.0.1"]
    log = tmp_path / "log"
    env = environment() | {"MCP_REMOTE_CONFIG_DIR": str(tmp_path / "kept"), "PATH": str(NODE.parent)}  # no browser there
    with (
        log.open("w") as words,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True, env=env) as bridge,
    ):
        assert bridge.stdin is not None
        assert bridge.stdout is not None
        try:
            found = wait_until(lambda: re.search(r"https?://\S+/auth\?\S+", log.read_text()), "where to log in")
            (back,) = parse_qs(urlsplit(found[0]).query)["redirect_uri"]
            got = logged_in(found[0], back)
            assert PLAIN.get(back, params=got).status_code == 200

            def ask(method: str, **params: object) -> dict[str, Any]:
                assert bridge.stdin is not None
                assert bridge.stdout is not None
                message = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
                bridge.stdin.write(f"{json.dumps(message)}\n")
                bridge.stdin.flush()
                while (answer := json.loads(bridge.stdout.readline())).get("id") != method:
                    pass
                return dict(answer["result"])

            client = {"name": "desktop", "version": "1"}
            ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
            assert [each["name"] for each in ask("tools/list")["tools"]] == ["a_one"]
            assert not ask("tools/call", name="a_one", arguments={}).get("isError")
        finally:
            bridge.kill()


@pytest.mark.duty("access.flows")
def test_the_inspector(running: Gateway, tmp_path: Path) -> None:
    """Somebody logs in at the authorization server's own pages, in a browser."""
    with inspector(running.url, tmp_path) as page:
        report = json.loads(node(NODE_PARTS / "inspector-login.mjs", page, str(tmp_path), "a_one"))
    assert report == {"tools": ["a_one"], "called": True}
