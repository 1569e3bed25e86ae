"""An API server far away, one behind another name, and other controllers in the same status."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from pathlib import Path
from typing import Self

import pytest
import yaml

from tests.e2e.stack import wait_until
from tests.kube.cluster import Cluster
from tests.kube.gateway import SYSTEM, KubeGateway, kube_gateway
from tests.kube.objects import NAMESPACE, server_objects
from tests.servers.scripted import ScriptedServer


class Far:
    """A TCP proxy that delivers each byte some seconds later, both ways."""

    def __init__(self, port: int, seconds: float, host: str = "127.0.0.1") -> None:
        self._to, self._seconds = port, seconds
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            for one, other in ((near, far), (far, near)):
                on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue()
                threading.Thread(target=self._take, args=(one, on_the_way), daemon=True).start()
                threading.Thread(target=self._give, args=(on_the_way, other), daemon=True).start()

    def _take(self, one: socket.socket, on_the_way: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"x"
        while data:
            try:
                data = one.recv(65536)
            except OSError:
                data = b""
            on_the_way.put((time.monotonic() + self._seconds, data))

    def _give(self, on_the_way: queue.Queue[tuple[float, bytes]], other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = on_the_way.get()
                time.sleep(max(due - time.monotonic(), 0))
                if not data:
                    break
                other.sendall(data)
        other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> tuple[Path, int]:
    """A kubeconfig of the sidecar's that a test may change, and the port of the API server."""
    document = yaml.safe_load(cluster.account("gateway-system", "mcp-gateway").read_text())
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path, int(document["clusters"][0]["cluster"]["server"].rpartition(":")[2].partition("/")[0])


def changed(path: Path, **cluster: str) -> None:
    document = yaml.safe_load(path.read_text())
    document["clusters"][0]["cluster"] |= {key.replace("_", "-"): value for key, value in cluster.items()}
    path.write_text(yaml.safe_dump(document))


@pytest.mark.duty("kube.slow")
def test_a_sidecar_writes_although_the_api_server_is_far_away(
    cluster: Cluster, one: ScriptedServer, account: tuple[Path, int], tmp_path: Path
) -> None:
    """With a second and a half each way no sidecar took the Lease, and nobody was told."""
    path, port = account
    cluster.apply(*server_objects("far", one.port, "far_"))
    with Far(port, 1.2) as far:
        changed(path, server=f"https://127.0.0.1:{far.port}")
        with kube_gateway(cluster, tmp_path / "g", envoy=False, kubeconfig=path) as running:
            wait_until(lambda: running.logged("This sidecar writes status"), "the Lease")
            wait_until(lambda: cluster.ready("mcpserver", "far", NAMESPACE).get("status") == "True", "its status")
    cluster.delete("mcpserver", "far", NAMESPACE)
    cluster.delete("lease", "mcpgw-sidecar", SYSTEM)


@pytest.mark.duty("kube.slow")
def test_a_name_for_tls(cluster: Cluster, account: tuple[Path, int], tmp_path: Path) -> None:
    path, port = account
    with Far(port, 0.0, "127.0.0.2") as elsewhere:  # an address that is not in the certificate
        changed(path, server=f"https://127.0.0.2:{elsewhere.port}", tls_server_name="127.0.0.1")
        with kube_gateway(cluster, tmp_path / "g", envoy=False, kubeconfig=path) as running:
            wait_until(lambda: running.status()["kubernetes"]["error"] is None, "it is served")
        changed(path, tls_server_name="another.example")
        (tmp_path / "w").mkdir()
        refused = KubeGateway.__new__(KubeGateway)
        refused.wait_ready = lambda _status=200: None  # type: ignore[method-assign]  # it never is
        refused.__init__(tmp_path / "w", path)  # type: ignore[misc]
        try:
            wait_until(lambda: refused.logged("Lease not renewed"), "it is not trusted")
            assert "another.example" in refused.sidecar.text
        finally:
            refused.stop()


@pytest.mark.duty("kube.conditions")
def test_conditions_of_other_controllers_stay(cluster: Cluster, one: ScriptedServer, tmp_path: Path) -> None:
    """A patch replaced the whole list: 25 of 46 foreign conditions were gone."""
    with kube_gateway(cluster, tmp_path / "g", envoy=False):
        names = [f"c{number}" for number in range(6)]
        for name in names:
            cluster.apply(*server_objects(name, one.port, f"{name}_"))
        now = "2026-01-01T00:00:00Z"
        foreign = {"type": "Seen", "status": "True", "reason": "Test", "message": "m", "lastTransitionTime": now}
        deadline = time.monotonic() + 8
        for turn in range(40):
            name = names[turn % len(names)]
            # As such a controller does it, while the sidecar writes because the server changes.
            body = {
                "apiVersion": "mcpgw.dev/v1alpha1",
                "kind": "MCPServer",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "status": {"conditions": [foreign | {"message": f"m{turn}"}]},
            }
            cluster.kubectl(
                "apply", "--server-side", "--subresource=status", "--field-manager=other", "-f", "-", stdin=json.dumps(body)
            )
            one.instructions = f"turn {turn}"
            if time.monotonic() > deadline:
                break
        for name in names:

            def has_both(name: str = name) -> bool:
                conditions = cluster.get("mcpserver", name, NAMESPACE)["status"]["conditions"]
                return {each["type"] for each in conditions} >= {"Ready", "Seen"}

            wait_until(has_both, f"both conditions of {name}")
            cluster.delete("mcpserver", name, NAMESPACE)
