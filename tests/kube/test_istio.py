"""The gateway through a real Istio control plane: shipped EnvoyFilter, HTTPRoutes as users write them, a plain Envoy."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import pytest
import yaml

from tests.e2e.stack import PROGRAM, Client, Process, answer, environment, free_ports, text_of, wait_until
from tests.kube.cluster import Cluster
from tests.kube.istio import POD_IP, Istio
from tests.kube.objects import NAMESPACE, mcp_server, route, server_objects, service
from tests.servers.scripted import ScriptedServer, tool

GATEWAYS = "gateway-system"
HOST = "mcp.127-0-0-1.sslip.io"
RESOLVER = str(Path(__file__).parent / "resolver")
LABELS = {"istio": "ingressgateway", "gateway.networking.k8s.io/gateway-name": "mcp-gateway"}


class IstioGateway:
    """A gateway pod: Envoy with Istio's configuration, the sidecar beside it."""

    def __init__(self, cluster: Cluster, istio: Istio, directory: Path) -> None:
        self.cluster, self.istio, self.directory = cluster, istio, directory
        self.port, self.broker, self.admin_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.admin = f"http://127.0.0.1:{self.admin_port}"
        self.socket = directory / "router.sock"
        self.install()
        self.sidecar = self.start_sidecar()
        istio.start_envoy(GATEWAYS, LABELS)

    def install(self) -> None:
        """Everything that is shipped, with the addresses of this machine."""
        for namespace in (GATEWAYS, NAMESPACE):
            self.cluster.kubectl("create", "namespace", namespace, check=False)
        command = [*PROGRAM, "manifests", "rbac", "istio", "--public-host", HOST, "--public-host", "127.0.0.1"]
        shipped = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
        shipped = shipped.replace("/run/mcpgw/router.sock", str(self.socket)).replace("9091", str(self.broker))
        documents = list(yaml.safe_load_all(shipped))
        for document in documents:
            if document["kind"] == "HTTPRoute":
                document["spec"]["hostnames"] = [HOST]
        # Istio binds all interfaces; tests bind loopback.
        bind = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}}
        patch = {"applyTo": "LISTENER", "match": {"context": "GATEWAY"}, "patch": {"operation": "MERGE", "value": bind}}
        loopback = {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "loopback", "namespace": GATEWAYS},
            "spec": {"workloadSelector": {"labels": LABELS}, "configPatches": [patch]},
        }
        listeners = [
            {"name": name, "hostname": host, "port": self.port, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
            for name, host in (("mcp", HOST), ("mcps", "*.mcp.local"))
        ]
        gateway = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "mcp-gateway", "namespace": GATEWAYS, "labels": {"istio": "ingressgateway"}},
            "spec": {"gatewayClassName": "istio", "listeners": listeners},
        }
        # The Service that Istio makes for a Gateway, from a template that its installation brings.
        selector = {"gateway.networking.k8s.io/gateway-name": "mcp-gateway"}
        made = service("mcp-gateway-istio", self.port, GATEWAYS, selector=selector)
        pod = endpoints("mcp-gateway-istio", self.port, GATEWAYS, {"address": POD_IP, "labels": LABELS})
        self.cluster.apply(made, pod, gateway, loopback, *documents)

    def start_sidecar(self) -> Process:
        kubeconfig = self.cluster.account(GATEWAYS, "mcp-gateway-istio")
        command = [*PROGRAM, "run", "--kubernetes", "--namespace=mcp-system", f"--router-address=unix:{self.socket}"]
        command += [f"--broker-address=127.0.0.1:{self.broker}", f"--admin-address=127.0.0.1:{self.admin_port}"]
        command += ["--refresh-interval=1s", f"--public-host={HOST}"]
        env = {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": RESOLVER}
        self.sidecar = Process(command, self.directory / "sidecar.log", **env)
        wait_until(lambda: httpx2.get(f"{self.admin}/readyz", trust_env=False).status_code == 200, "ready")
        return self.sidecar

    def client(self, **headers: str) -> Client:
        return Client(self.url, host=HOST, **headers)

    def stop(self) -> None:
        self.sidecar.stop()


@pytest.fixture(scope="module")
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("greet"), tool("time")) as server:
        yield server


@pytest.fixture(scope="module")
def two() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("hello_world")) as server:
        yield server


@pytest.fixture(scope="module")
def running(
    cluster: Cluster, one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IstioGateway]:
    directory = tmp_path_factory.mktemp("istio")
    with Istio(cluster, directory) as istio:
        gateway = IstioGateway(cluster, istio, directory)
        try:
            cluster.apply(*server_objects("server1", one.port, prefix="test_"), *server_objects("server2", two.port, prefix="test2_"))
            for name, port in (("server1", one.port), ("server2", two.port)):
                cluster.apply(endpoints(name, port))
            yield gateway
        finally:
            gateway.stop()


def endpoints(
    name: str, port: int, namespace: str = NAMESPACE, endpoint: Mapping[str, Any] = MappingProxyType({"address": "127.0.0.1"})
) -> dict[str, Any]:
    """The endpoint of a Service: no controller makes it here, and an EndpointSlice may not name loopback."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "hosts": [f"{name}.{namespace}.svc.cluster.local"],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
            "endpoints": [dict(endpoint)],
        },
    }


def test_two_servers_are_listed_and_called(running: IstioGateway, one: ScriptedServer, two: ScriptedServer) -> None:
    with wait_until(lambda: connected(running), "a session through Istio's Envoy") as client:
        wait_until(lambda: client.tools() == ["test2_hello_world", "test_greet", "test_time"], "the tools")
        assert wait_until(lambda: (r := client.call("test_greet")).status_code == 200 and r, "a call")
        assert client.call("test2_hello_world").status_code == 200
    assert one.calls("tools/call")[-1].headers["host"] == "server1.mcp.local"
    assert two.calls("tools/call")


def connected(running: IstioGateway) -> Client | None:
    client = running.client()
    if hasattr(client, "session"):
        return client
    client.close()
    return None


_ = signal, answer, text_of, mcp_server, route
