"""What 1,000 MCPServers cost: `just bench kube [SERVERS ...]` (10 and 1000). Prints Markdown.

For each number: a real kube-apiserver with so many MCPServers, HTTPRoutes and Services, of which
ten lead to a server on this machine and the others to none; the sidecar without Envoy from its
start to Ready; 100 changes of one of the others (CPU of the sidecar each, status written included);
and twenty changes that clients can see, from the API's answer to the sidecar's own list. CPU and
RSS come from the process accounts.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from tests.benchmarks.rig import Account
from tests.e2e.stack import Client, wait_until
from tests.kube.cluster import Cluster
from tests.kube.conftest import shipped
from tests.kube.gateway import KubeGateway
from tests.kube.objects import NAMESPACE, mcp_server, route, service
from tests.servers.scripted import ScriptedServer, tool

SERVED = 10  # of them lead to a server
CHANGES, SEEN = 100, 20
HEADING = "| MCPServers | start to Ready, s | CPU of it, s | RSS, MB | a change, ms CPU | seen by clients after, ms (median, worst) | idle CPU, % |"


class Admin:
    """The API, as its administrator."""

    def __init__(self, cluster: Cluster) -> None:
        headers = {"authorization": f"Bearer {cluster.token}"}
        self.http = httpx2.Client(base_url=cluster.url, headers=headers, verify=False, trust_env=False, timeout=30)

    def create(self, document: dict[str, Any]) -> None:
        group, plural = {
            "Service": ("/api/v1", "services"),
            "HTTPRoute": ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
            "MCPServer": ("/apis/mcpgw.dev/v1alpha1", "mcpservers"),
        }[document["kind"]]
        self.http.post(f"{group}/namespaces/{NAMESPACE}/{plural}", json=document).raise_for_status()

    def change(self, name: str, path: str) -> None:
        url = f"/apis/mcpgw.dev/v1alpha1/namespaces/{NAMESPACE}/mcpservers/{name}"
        headers = {"content-type": "application/merge-patch+json"}
        self.http.patch(url, json={"spec": {"path": path}}, headers=headers).raise_for_status()


def measured(servers: int) -> str:
    with tempfile.TemporaryDirectory() as text, ScriptedServer(tool("one")) as server, Cluster(Path(text)) as cluster:
        server.offers_stream = False
        cluster.install()
        for namespace in (NAMESPACE, "gateway-system"):
            cluster.kubectl("create", "namespace", namespace)
        cluster.apply(shipped("rbac", f"--secrets-in={NAMESPACE}"))
        admin = Admin(cluster)
        for number in range(servers):
            name = f"s{number}"
            if number < SERVED:
                admin.create(service(name, server.port))
            admin.create(route(name, name, server.port))
            admin.create(mcp_server(name, f"{name}-route", f"{name}_"))
        (Path(text) / "g").mkdir()
        kubeconfig = cluster.account("gateway-system", "mcp-gateway")
        began = time.perf_counter()
        running = KubeGateway(Path(text) / "g", kubeconfig, "--refresh-interval=60s", "--log-level=warn")
        try:
            return f"| {servers} | {_row(running, cluster, admin, servers, time.perf_counter() - began)} |"
        finally:
            running.stop()


def _row(running: KubeGateway, cluster: Cluster, admin: Admin, servers: int, ready: float) -> str:
    account = Account(running.sidecar.popen.pid)
    started = account.cpu
    last = f"s{servers - 1}"
    wait_until(lambda: cluster.ready("mcpserver", last, NAMESPACE).get("status"), "status of the last")
    time.sleep(3)
    before = account.cpu
    for number in range(CHANGES):
        admin.change(last if servers > SERVED else "s0", f"/{number}")
        time.sleep(0.02)
    time.sleep(1)
    each = (account.cpu - before) / CHANGES * 1000
    latencies = _seen(running, admin)
    time.sleep(3)
    before = account.cpu
    time.sleep(5)
    idle = (account.cpu - before) / 5 * 100
    shown = f"{latencies[len(latencies) // 2]:.0f}, {latencies[-1]:.0f}"
    return f"{ready:.1f} | {started:.1f} | {account.rss:.0f} | {each:.1f} | {shown} | {idle:.1f}"


def _seen(running: KubeGateway, admin: Admin) -> list[float]:
    """Take a server out and put it back by its route's Service, and measure the broker's list.

    The results are the seconds until the list says so.
    """
    seconds = []
    with Client(running.broker_url) as client:
        for number in range(SEEN):
            gone = number % 2 == 0
            name = f"/api/v1/namespaces/{NAMESPACE}/services/s1"
            if gone:
                body = admin.http.get(name).json()
                admin.http.delete(name).raise_for_status()
            else:
                body["metadata"] = {"name": "s1", "namespace": NAMESPACE}
                body["spec"].pop("clusterIP", None)
                body["spec"].pop("clusterIPs", None)
                admin.create({**body, "kind": "Service"})
            began = time.perf_counter()
            wait_until(lambda gone=gone: ("s1_one" in client.tools()) != gone, "the change")
            seconds.append((time.perf_counter() - began) * 1000)
    return sorted(seconds)


def main(*numbers: str) -> None:
    print(HEADING + "\n|" + "---|" * 7)
    for servers in map(int, numbers or ("10", "1000")):
        print(measured(servers), flush=True)
