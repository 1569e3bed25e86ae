"""Ready means ready: /readyz is 503, with the reason, while requests had better go elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.e2e.stack import Gateway, entry, gateway, succeeded, wait_until
from tests.servers.scripted import ScriptedServer


@pytest.fixture
def running(one: ScriptedServer, tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as new_gateway:
        yield new_gateway


def unready(running: Gateway, *words: str) -> bool:
    answer = running.readyz()
    return answer.status_code == 503 and all(word in answer.json()["waitingFor"] for word in words)


@pytest.mark.duty("ready.envoy")
def test_while_envoy_refuses_its_files(one: ScriptedServer, tmp_path: Path) -> None:
    """The key is another certificate's: nobody listens, and the sidecar alone would be well."""
    authority = trustme.CA()
    certificate, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    other.private_key_pem.write_to_path(str(key))
    options = (f"--gateway-tls-cert={chain}", f"--gateway-tls-key={key}")
    with gateway(tmp_path, [entry("ns/one", one.url)], *options, envoy=False) as running:
        assert running.readyz().status_code == 200, "no Envoy has spoken yet"
        running.run_envoy()
        wait_until(lambda: unready(running, "Envoy to accept its files", "KEY_VALUES_MISMATCH"))
        assert running.metric("mcpgw_envoy_accepted") == 0
        assert running.status()["envoy"]["accepted"] is False


@pytest.mark.duty("ready.files", "metrics.gauges")
def test_while_files_cannot_be_written(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    assert running.metric("mcpgw_envoy_files_written") == 1
    wait_until(lambda: running.metric("mcpgw_envoy_accepted") == 1)
    files = running.directory / "envoy"
    files.rename(running.directory / "away")
    running.write([entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")])
    wait_until(lambda: unready(running, "Envoy's files", "cannot write"))
    assert running.metric("mcpgw_envoy_files_written") == 0
    (running.directory / "away").rename(files)
    running.wait_ready()
    assert running.metric("mcpgw_envoy_files_written") == 1


@pytest.mark.duty("ready.keys", "session.restart", "metrics.gauges")
def test_while_no_session_key_is_valid(running: Gateway) -> None:
    """The last good keys count, also for a sidecar that starts meanwhile."""
    key = running.directory / "envoy" / "session.key"
    good = key.read_text()
    assert running.metric("mcpgw_session_keys_valid") == 1
    with running.client() as client:
        assert succeeded(client.call("a_one"))
        key.write_text("short\n")
        wait_until(lambda: unready(running, "a valid session key", "session.key:1"))
        assert running.metric("mcpgw_session_keys_valid") == 0
        assert succeeded(client.call("a_one"))
        running.kill()
        running.start_sidecar(readiness=503)
        wait_until(lambda: unready(running, "a valid session key", "session.key:1"))
        assert running.logged("^ERROR .*last good ones")
        assert client.post("ping").status_code == 200, "the session goes on"
        key.write_text(good)
        running.wait_ready()
        assert running.metric("mcpgw_session_keys_valid") == 1
    kept = key.with_name("session.key.last-good")
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == (good, 0o600)


@pytest.mark.duty("metrics.gauges")
def test_what_runs_here(running: Gateway) -> None:
    assert running.metric(r'mcpgw_build_info\{commit="[0-9a-f]*",version="[^"]+"\}') == 1
