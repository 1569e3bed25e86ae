"""Issuers that change places, are slow, or publish what is no public key."""

from __future__ import annotations

import http.client
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.access.issuing import AUDIENCE, Issuer
from tests.e2e.access.test_login import INITIALIZE, bearer
from tests.e2e.conftest import quiet
from tests.e2e.stack import PLAIN, Gateway, entry, gateway, wait_until
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture(scope="module")
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("one")) as server:
        yield server


def status(running: Gateway, token: str) -> int:
    headers = {"accept": "application/json, text/event-stream", **bearer(token)}
    return PLAIN.post(running.url, json=INITIALIZE, headers=headers).status_code


@pytest.mark.duty("access.keys")
def test_keys_belong_to_their_issuer_whatever_its_place(one: ScriptedServer, tmp_path: Path) -> None:
    """An Envoy with the document of before asked for keys by place, and got another issuer's."""
    access = tmp_path / "access.yaml"

    def write(*issuers: Issuer) -> None:
        new = access.with_suffix(".new")
        new.write_text(yaml.safe_dump({"authentication": {"issuers": [each.entry() for each in issuers]}}))
        new.replace(access)

    with Issuer("https://a.example") as first, Issuer("https://b.example") as second:
        write(first, second)
        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], f"--access={access}") as running:
            for each in (first, second):
                wait_until(lambda each=each: status(running, each.token()) == 200, "the keys")
            kept = http.client.HTTPConnection("127.0.0.1", running.ports["gateway"], timeout=20)

            def on_it(token: str) -> int:
                headers = {
                    "content-type": "application/json",
                    "accept": "application/json, text/event-stream",
                    **bearer(token),
                }
                kept.request("POST", "/mcp", json.dumps(INITIALIZE), headers)
                answered = kept.getresponse()
                answered.read()
                return answered.status

            assert on_it(first.token()) == 200
            write(second, first)
            wait_until(lambda: running.status()["config"]["generation"] > 1, "it counts")
            forged, asked = second.token(iss=first.name), second.asked
            for _ in range(20):
                assert on_it(forged) == 401
                quiet(0.25)
            assert second.asked > asked
            assert (on_it(first.token()), status(running, first.token()), status(running, second.token())) == (200, 200, 200)


@contextmanager
def speaking(say: Callable[[Any], None]) -> Iterator[str]:
    """A server that answers each connection with what `say` writes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            with suppress(OSError):
                say(self.wfile)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/keys"
    finally:
        server.shutdown()
        server.server_close()


def drip(out: Any) -> None:
    out.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        out.write(b" ")
        time.sleep(0.5)


def flood(out: Any) -> None:
    out.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        out.write(b" " * (1 << 16))


@pytest.mark.duty("access.keys")
@pytest.mark.parametrize(("say", "fault"), [(drip, "did not answer within 3 s"), (flood, "it has more than 1 MiB")])
def test_an_issuer_that_is_slow_or_endless_holds_up_no_other(
    one: ScriptedServer, tmp_path: Path, say: Callable[[Any], None], fault: str
) -> None:
    with speaking(say) as where, Issuer() as issuer:
        odd = {"issuer": "https://odd.example", "audiences": [AUDIENCE], "jwksUri": where}
        authentication = {"issuers": [odd, issuer.entry()]}
        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], authentication=authentication) as running:
            wait_until(lambda: status(running, issuer.token()) == 200, "the other's keys")
            wait_until(lambda: fault in str(running.status()["authentication"]["issuers"][0]["error"]), "it is said")
            issuer.new_key("k2")
            wait_until(lambda: status(running, issuer.token("k2")) == 200, "a new key")


@pytest.mark.duty("access.keys")
def test_keys_that_are_none_leave_those_of_before(one: ScriptedServer, tmp_path: Path) -> None:
    """A published symmetric key would let everybody sign."""
    with (
        Issuer() as issuer,
        gateway(tmp_path, [entry("ns/one", one.url, "a_")], authentication={"issuers": [issuer.entry()]}) as running,
    ):
        wait_until(lambda: status(running, issuer.token()) == 200, "the keys")
        good = issuer.jwks()
        for keys in ([1], [{}], [{"kty": ["RSA"]}], [{"kty": "oct", "k": "AAAA", "alg": "HS256", "kid": "k1"}]):
            issuer.jwks = lambda keys=keys: json.dumps({"keys": keys})  # type: ignore[method-assign, misc]
            wait_until(
                lambda: "holds no public key" in str(running.status()["authentication"]["issuers"][0]["error"]), "said"
            )
            quiet(5.0)  # Envoy has asked by then
            assert status(running, issuer.token()) == 200
            issuer.jwks = lambda: good  # type: ignore[method-assign]
            wait_until(lambda: running.status()["authentication"]["issuers"][0]["error"] is None, "good again")
