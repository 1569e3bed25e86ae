"""An etcd that was restored from an older backup."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.stack import Client, wait_until
from tests.kube.cluster import Cluster
from tests.kube.gateway import kube_gateway
from tests.kube.objects import NAMESPACE, mcp_server, server_objects
from tests.servers.scripted import ScriptedServer


@pytest.mark.duty("kube.restored")
def test_versions_go_back(one: ScriptedServer, two: ScriptedServer, tmp_path: Path) -> None:
    """The watches went on at versions that were too high, and saw nothing for good."""
    for name in ("c", "g"):
        (tmp_path / name).mkdir()
    with Cluster(tmp_path / "c") as cluster:
        cluster.install()
        for namespace in (NAMESPACE, "gateway-system"):
            cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("create", "namespace", "mcp-system")
        cluster.apply(*server_objects("kept", one.port, "kept_"))
        data, backup = tmp_path / "c" / "etcd", tmp_path / "backup"
        cluster.stop_all()
        shutil.copytree(data, backup)
        cluster.start_all()
        # The administrator: right after its start the API server refuses whom a Role names, which
        # is a reason for a new list of its own.
        with kube_gateway(cluster, tmp_path / "g", kubeconfig=cluster.kubeconfig) as running, Client(running.url) as client:
            cluster.apply(*server_objects("lost", two.port, "lost_"))
            wait_until(lambda: "lost_hello_world" in client.tools(), "a server that the backup lacks")
            for number in range(20):  # so that the versions of the backup stay behind for a while
                cluster.apply(mcp_server("noise", "nowhere", path=f"/{number}"))
            cluster.stop_all()
            shutil.rmtree(data)
            shutil.copytree(backup, data)
            cluster.start_all()
            wait_until(lambda: client.tools() == ["kept_greet", "kept_time"], "what the backup has")
            cluster.apply(*server_objects("after", two.port, "after_"))
            wait_until(lambda: "after_hello_world" in client.tools(), "and what came after it")
