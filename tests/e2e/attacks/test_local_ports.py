"""Local ports: what a page in the operator's browser, or a neighbour, can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.stack import PLAIN, Gateway, Process, entry, gateway, succeeded
from tests.servers.scripted import ScriptedServer


@pytest.mark.duty("security.admin-host")
def test_the_admin_port_answers_no_name_of_somebody_else(one: ScriptedServer, tmp_path: Path) -> None:
    """A page whose name was made to resolve to 127.0.0.1 read the status of all servers."""
    servers = [entry("ns/one", one.url)]
    with gateway(tmp_path, servers, "--admin-host=admin.example", envoy=False) as running:

        def status(host: str, path: str = "/status") -> int:
            return PLAIN.get(f"{running.admin}{path}", headers={"host": host}).status_code

        for path in ("/status", "/metrics", "/readyz", "/healthz", "/nowhere"):
            assert status("evil.example", path) == status("evil.example:9090", path) == 421
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9090", "10.1.2.3", "[::1]:9090", "admin.example:9090"):
            assert status(host) == 200, host


@pytest.mark.duty("security.envoy-admin")
def test_envoys_admin_endpoint_is_no_port(one: ScriptedServer, tmp_path: Path) -> None:
    """A page could have ended Envoy: POST /quitquitquit, whatever its Host."""
    with gateway(tmp_path, [entry("ns/one", one.url)]) as running:
        assert running.envoy is not None
        assert running.ask_envoy("/ready").text == "LIVE\n"
        assert running.status()["envoy"]["accepted"] is True
        listeners = running.ask_envoy("/listeners?format=json").json()["listener_statuses"]
        addresses = [each["local_address"] for each in listeners]
        ports = {address["socket_address"]["port_value"] for address in addresses if "socket_address" in address}
        assert ports == {running.ports["gateway"]}
        assert listening_ports(running.envoy.popen.pid) == ports


def listening_ports(pid: int) -> set[int]:
    """The ports that a process listens on, as the kernel says."""
    inodes = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


@pytest.mark.duty("security.envoy-admin")
def test_a_path_that_is_too_long_for_a_socket_is_said(one: ScriptedServer, tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    with pytest.raises(AssertionError, match="too long for a socket: give --envoy-admin-address"):
        Gateway(directory, [entry("ns/one", one.url)], envoy=False)


@pytest.mark.duty("security.local-sockets")
def test_broker_and_router_are_for_whoever_may_enter_envoys_directory(one: ScriptedServer, tmp_path: Path) -> None:
    """On loopback any program of the machine asked the broker, around Envoy and its policy."""

    class Default(Gateway):
        def start_sidecar(self, readiness: int = 200) -> Process:
            self.ports = {name: port for name, port in self.ports.items() if name in {"gateway", "admin"}}
            return super().start_sidecar(readiness)

    running = Default(tmp_path, [entry("ns/one", one.url, "a_")])
    try:
        with running.client() as client:
            for _ in range(2):
                assert succeeded(client.call("a_one"))
            envoy = tmp_path / "envoy"
            assert sorted(path.name for path in envoy.glob("*.sock")) == [
                "admin.sock",
                "broker.sock",
                "inner.sock",
                "router.sock",
            ]
            listening = running.logged("Listening")[0]
            assert f"broker=unix:{envoy}/broker.sock" in listening
            assert f"router=unix:{envoy}/router.sock" in listening
            running.kill()
            running.start_sidecar()
            assert succeeded(client.call("a_one"))
            assert client.tools() == ["a_both", "a_one"]
    finally:
        running.stop()


@pytest.mark.duty("security.local-sockets")
def test_envoys_own_questions_are_known_by_a_secret(one: ScriptedServer, tmp_path: Path) -> None:
    """Whoever reached the broker's port could have servers listed again and again."""
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running, running.client() as client:
        assert succeeded(client.call("a_one"))
        broker = running.broker_url.removesuffix("/mcp")
        listed = len(one.calls("tools/list"))
        for path in ("/heal", "/changed", "/changed/", "/heal/0", "/jwks/0", "/jwks"):
            answered = PLAIN.post(f"{broker}{path}", headers={"x-mcp-servername": "ns/one"})
            assert answered.status_code in {404, 415}, path
        secret = (tmp_path / "envoy" / "secret").read_text()
        assert (tmp_path / "envoy" / "secret").stat().st_mode & 0o777 == 0o600
        assert len(one.calls("tools/list")) == listed
        headers = {"x-mcp-servername": "ns/one"}
        assert PLAIN.post(f"{broker}/changed{secret}", headers=headers).status_code == 202
        running.kill()
        running.start_sidecar()
        assert (tmp_path / "envoy" / "secret").read_text() == secret, "Envoy's files stay as they are"
        one.sessions.clear()
        assert succeeded(client.call("a_one")), "healed"
