"""The program as it is shipped, against the real API: with `--program` the frozen one.

It cannot resolve the cluster's names here, and reports that.
"""

from __future__ import annotations

from pathlib import Path

from tests.e2e.stack import PROGRAM, wait_until
from tests.kube.cluster import Cluster
from tests.kube.gateway import SYSTEM, KubeGateway
from tests.kube.objects import NAMESPACE, server_objects


class Shipped(KubeGateway):
    program = tuple(PROGRAM)


def test_it_watches_and_writes(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(*server_objects("server1", 1, "test_"))
    running = Shipped(tmp_path, cluster.account("gateway-system", "mcp-gateway"))
    try:
        name = f"{NAMESPACE}/server1-route"
        wait_until(lambda: running.server(name).get("reason"), "the broker's try")
        wait_until(
            lambda: cluster.ready("mcpserver", "server1", NAMESPACE).get("status") == "False", "its status in the cluster"
        )
        assert "toolPrefix: test_" in str(cluster.get("configmap", "mcp-gateway-config", SYSTEM)["data"])
        cluster.delete("mcpserver", "server1", NAMESPACE)
        wait_until(lambda: running.status()["servers"] == [], "no server any more")
    finally:
        running.stop()
