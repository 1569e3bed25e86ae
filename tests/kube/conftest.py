from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.stack import PROGRAM, Process, environment, free_ports, wait_until
from tests.kube.cluster import Cluster
from tests.kube.gateway import KubeGateway, kube_gateway
from tests.kube.objects import NAMESPACE, server_objects
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kubernetes API with all CRDs, the shipped rights, and the namespaces of the guide."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as new_cluster:
        new_cluster.install()
        for namespace in (NAMESPACE, "gateway-system"):
            new_cluster.kubectl("create", "namespace", namespace)
        new_cluster.apply(shipped("rbac", f"--secrets-in={NAMESPACE}"))
        yield new_cluster


def shipped(*arguments: str) -> str:
    """What `mcpgw-sidecar manifests` prints."""
    command = [*PROGRAM, "manifests", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout


@pytest.fixture(scope="module")
def sdk_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The guide's three servers on the Python SDK, under any name; gives their ports."""
    command = [*PROGRAM, "demo-servers", "--any-name", *map(str, free_ports(3))]
    process = Process(command, tmp_path_factory.mktemp("servers") / "log")
    try:
        wait_until(lambda: process.text.startswith("["), "the SDK's servers")
        yield json.loads(process.text.splitlines()[0])
    finally:
        process.stop()


@pytest.fixture(scope="module")
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("greet"), tool("time")) as server:
        yield server


@pytest.fixture(scope="module")
def two() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("hello_world")) as server:
        yield server


@pytest.fixture(scope="module")
def running(cluster: Cluster, one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeGateway]:
    """A sidecar with Envoy, and a first server."""
    cluster.apply(*server_objects("server1", one.port, "test_"))
    with kube_gateway(cluster, tmp_path_factory.mktemp("gateway")) as new_gateway:
        yield new_gateway
