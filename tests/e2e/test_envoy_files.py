"""What Envoy is told, and what it says of it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
import yaml

from tests.e2e.stack import PLAIN, Client, entry, gateway, succeeded, text_of, wait_until
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def tls_server(authority: trustme.CA, host: str) -> ScriptedServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return ScriptedServer(tool("one"), tls=context)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("envoy")


@pytest.mark.duty("config.keys")
def test_an_https_server_with_its_own_authority(authority: trustme.CA, directory: Path) -> None:
    bundle = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with (
        tls_server(authority, "127.0.0.1") as server,
        gateway(directory, [entry("ns/tls", server.url, caFile=str(bundle))]) as running,
        running.client() as client,
    ):
        assert client.tools() == ["one"]
        assert text_of(client.call("one"))


@pytest.mark.duty("security.upstream-tls")
def test_an_https_server_that_nobody_vouches_for(authority: trustme.CA, directory: Path) -> None:
    with tls_server(authority, "127.0.0.1") as server, gateway(directory, [entry("ns/tls", server.url)]) as running:
        wait_until(lambda: running.server("ns/tls")["reason"] == "Unreachable")
        assert "certificate" in running.server("ns/tls")["message"].lower()


@pytest.mark.duty("security.upstream-tls")
def test_a_certificate_for_another_host_is_refused_by_envoy_too(authority: trustme.CA, directory: Path) -> None:
    """The broker is shown a good server, Envoy a bad one: the name is checked by both."""
    bundle = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with tls_server(authority, "127.0.0.1") as good:
        port = good.port
        with gateway(directory, [entry("ns/tls", good.url, caFile=str(bundle))]) as running, running.client() as client:
            assert succeeded(client.call("one"))
            good.stop()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("other.example").configure_cert(context)
            with ScriptedServer(tool("one"), tls=context, port=port) as bad:
                bad.keeps_sessions = False
                assert client.call("one").json()["error"]["data"]["reason"] == "Unreachable"
                assert bad.requests == []


def test_a_gateway_that_speaks_https(authority: trustme.CA, one: ScriptedServer, directory: Path) -> None:
    certificate = authority.issue_cert("127.0.0.1", "gw.example")
    chain, key = directory / "chain.pem", directory / "key.pem"
    certificate.private_key_pem.write_to_path(str(key))
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    options = (f"--gateway-tls-cert={chain}", f"--gateway-tls-key={key}")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with gateway(directory, [entry("ns/one", one.url)], *options) as running:
        for http2 in (False, True):
            with Client(running.url, verify=context, http2=http2) as client:
                assert text_of(client.call("one"))


@pytest.mark.duty("reload.envoy-refuses")
def test_envoys_verdict_is_read_back(one: ScriptedServer, directory: Path) -> None:
    with gateway(directory, [entry("ns/one", one.url)]) as running:
        wait_until(lambda: running.status()["envoy"] == {"accepted": True, "error": None})
        assert running.logged("INFO Envoy accepted its configuration")
        lds = directory / "envoy" / "lds.yaml"
        broken = yaml.safe_load(lds.read_text())
        broken["version_info"] = "broken-by-hand"
        broken["resources"][0]["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"] = ""
        (directory / "new").write_text(yaml.safe_dump(broken))
        (directory / "new").replace(lds)
        wait_until(lambda: running.status()["envoy"]["accepted"] is False)
        assert "StatPrefix" in running.status()["envoy"]["error"]
        assert running.logged("ERROR Envoy refused its configuration")
        with running.client() as client:
            assert text_of(client.call("one"))
        assert running.envoy is not None
        running.envoy.stop()
        wait_until(lambda: running.status()["envoy"]["accepted"] is None)


def test_a_second_sidecar_at_the_same_files_changes_nothing_for_envoy(one: ScriptedServer, directory: Path) -> None:
    with gateway(directory, [entry("ns/one", one.url)]) as running:
        before = {path.name: path.read_bytes() for path in (directory / "envoy").iterdir() if path.is_file()}
        running.sidecar.stop()
        running.start_sidecar()
        assert {path.name: path.read_bytes() for path in (directory / "envoy").iterdir() if path.is_file()} == before


@pytest.mark.duty("header.authority-path", "call.owner")
def test_two_servers_on_one_host_and_paths_with_queries(one: ScriptedServer, two: ScriptedServer, directory: Path) -> None:
    """A custom path applies to calls too, and servers that share a host name do not mix."""
    servers = [
        entry("ns/one", one.url + "/v1/special?tenant=a%20b", "a_", hostname="shared.local"),
        entry("ns/two", two.url, "b_", hostname="shared.local"),
    ]
    with gateway(directory, servers) as running, running.client() as client:
        assert str(one.port) in text_of(client.call("a_both"))
        assert str(two.port) in text_of(client.call("b_both"))
        arrived = one.calls("tools/call")[-1]
        assert arrived.path == "/mcp/v1/special?tenant=a%20b"
        assert arrived.headers["host"] == "shared.local"


@pytest.mark.duty("security.cors")
def test_a_page_of_an_allowed_origin_may_read_answers(one: ScriptedServer, directory: Path) -> None:
    with gateway(directory, [entry("ns/one", one.url)], "--allowed-origin=https://app.example") as running:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,mcp-session-id"}
        for origin in ("http://localhost:6274", "https://app.example"):
            answer = PLAIN.options(running.url, headers={"origin": origin, **asked})
            assert answer.headers["access-control-allow-origin"] == origin
        answer = PLAIN.options(running.url, headers={"origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in answer.headers
