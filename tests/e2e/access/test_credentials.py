"""A server's own credential in the calls of clients: put in by Envoy, known to nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import quiet
from tests.e2e.stack import entry, gateway, succeeded, wait_until
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("one")) as server:
        yield server


def arrived(server: ScriptedServer, header: str) -> dict[str, set[str | None]]:
    """The values of a header that a server has seen, by method."""
    values: dict[str, set[str | None]] = {}
    for request in server.requests:
        values.setdefault(request.method, set()).add(request.headers.get(header))
    return values


@pytest.mark.duty("access.credentials")
@pytest.mark.parametrize("memo", ["on", "off"])
def test_every_request_has_it_and_a_new_one_counts_without_a_lost_call(
    one: ScriptedServer, tmp_path: Path, memo: str
) -> None:
    (tmp_path / "key").write_text("first-key\n")
    keys = {"credentialFile": "key", "credentialHeader": "X-Api-Key", "credentialUse": "always"}
    servers = [entry("ns/one", one.url, "a_") | keys | {"forwardHeaders": ["x-api-key"]}]
    with gateway(tmp_path, servers, f"--route-memo={memo}") as running, running.client(x_api_key="mine") as client:
        for _ in range(4):
            assert succeeded(client.call("a_one"))
        assert {value for values in arrived(one, "x-api-key").values() for value in values} == {"first-key"}
        one.requests.clear()
        (tmp_path / "key.new").write_text("second-key")
        (tmp_path / "key.new").replace(tmp_path / "key")

        def is_new() -> bool:
            assert succeeded(client.call("a_one"))
            return one.calls("tools/call")[-1].headers["x-api-key"] == "second-key"

        wait_until(is_new, "the new one counts")
        one.sessions.clear()
        assert succeeded(client.call("a_one")), "healed with it"
        assert one.calls("tools/call")[-1].headers["x-api-key"] == "second-key"
        shown = running.ask_envoy("/config_dump?include_eds").text + (tmp_path / "envoy" / "cds.yaml").read_text()
        logs = running.sidecar.text + running.envoy.text + str(running.status()) + running.metrics()
        for key in ("first-key", "second-key"):
            assert key not in shown + logs
        (file,) = (tmp_path / "envoy" / "credentials").iterdir()
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.duty("access.credentials")
def test_a_credential_that_is_not_there_and_one_that_nobody_uses(one: ScriptedServer, tmp_path: Path) -> None:
    """Envoy took no cluster of such a server, the log filled, and an old key stayed on the disk."""
    lost = {"credentialFile": "none", "credentialHeader": "x-api-key", "credentialUse": "always"}
    own = entry("ns/two", one.url, "b_") | {"credential": "second-key", "credentialUse": "always"}
    with gateway(tmp_path, [entry("ns/one", one.url, "a_") | lost, own]) as running, running.client() as client:
        credentials = tmp_path / "envoy" / "credentials"
        assert len(list(credentials.iterdir())) == 2
        assert running.status()["envoy"]["accepted"]
        assert succeeded(client.call("b_one"))
        quiet(3.0)
        assert len([line for line in running.sidecar.text.splitlines() if "Credential for Envoy not read" in line]) == 1
        (tmp_path / "none").write_text("here")
        wait_until(lambda: "a_one" in client.tools(), "it is listed")

        def is_given() -> bool:
            client.call("a_one")
            return one.calls("tools/call")[-1].headers.get("x-api-key") == "here"

        wait_until(is_given, "the key")
        running.write([entry("ns/two", one.url, "b_")])
        wait_until(lambda: list(credentials.iterdir()) == [], "no key is left")


@pytest.mark.duty("access.credentials")
def test_a_clients_own_counts_first(one: ScriptedServer, tmp_path: Path) -> None:
    own = {"credential": "Bearer gateway", "credentialUse": "ifAbsent", "forwardHeaders": ["authorization"]}
    with ScriptedServer(tool("two")) as two:
        deaf = {"credential": "Bearer other", "credentialUse": "ifAbsent"}
        servers = [entry("ns/one", one.url, "a_") | own, entry("ns/two", two.url, "b_") | deaf]
        with gateway(tmp_path, servers) as running:
            with running.client() as client:
                for _ in range(3):
                    assert succeeded(client.call("a_one"))
                assert arrived(one, "authorization")["tools/call"] == {"Bearer gateway"}
            with running.client(authorization="Bearer mine") as client:
                one.requests.clear()
                for _ in range(3):
                    assert succeeded(client.call("a_one"))
                    assert succeeded(client.call("b_two"))
                assert arrived(one, "authorization")["tools/call"] == {"Bearer mine"}
                assert arrived(one, "authorization")["initialize"] == {"Bearer mine"}
                assert arrived(two, "authorization")["tools/call"] == {"Bearer other"}, (
                    "a client's token is not for this server"
                )


@pytest.mark.duty("access.credentials")
def test_by_default_it_is_the_gateways_own(one: ScriptedServer, tmp_path: Path) -> None:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_") | {"credential": "Bearer own"}]) as running:
        with running.client() as client:
            assert succeeded(client.call("a_one"))
        assert arrived(one, "authorization")["tools/call"] == {None}
        assert arrived(one, "authorization")["tools/list"] == {"Bearer own"}
        assert not (tmp_path / "envoy" / "credentials").exists()
