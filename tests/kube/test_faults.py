"""Faults around the API: it is down, slow, forgetful or strict.

Every watch goes on without a restart of the sidecar.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import quiet
from tests.e2e.stack import Client, environment, succeeded, wait_until
from tests.kube.cluster import Cluster, program
from tests.kube.conftest import shipped
from tests.kube.gateway import SYSTEM, KubeGateway, kube_gateway
from tests.kube.objects import NAMESPACE, mcp_server, server_objects
from tests.servers.scripted import ScriptedServer

LEASE = ("lease", "mcpgw-sidecar", SYSTEM)


@pytest.fixture
def client(running: KubeGateway) -> Iterator[Client]:
    with running.client() as new_client:
        wait_until(lambda: "test_greet" in new_client.tools(), "the first server")
        yield new_client


def comes_and_goes(cluster: Cluster, client: Client, server: ScriptedServer, name: str) -> None:
    """A change made now is seen: the watches live."""
    cluster.apply(*server_objects(name, server.port, f"{name}_"))
    wait_until(lambda: f"{name}_hello_world" in client.tools(), "a new server is seen")
    cluster.delete("mcpserver", name, NAMESPACE)
    wait_until(lambda: f"{name}_hello_world" not in client.tools(), "and that it has gone")


@pytest.mark.duty("kube.api-away")
def test_the_api_server_stops_and_comes_back(
    cluster: Cluster, running: KubeGateway, client: Client, two: ScriptedServer
) -> None:
    cluster.stop_api()
    wait_until(
        lambda: running.logged("WARN Kubernetes watch failed, will retry with backoff resource=mcpservers"), "it is said"
    )
    assert client.tools() == ["test_greet", "test_time"]
    assert succeeded(client.call("test_greet"))
    wait_until(lambda: "did not answer" in (running.status()["config"]["error"] or ""), "and shown")
    quiet(3.0)
    retries = len(running.logged("Kubernetes watch failed"))
    assert retries <= 30  # once for each watch and each reason, whatever the number of tries
    cluster.start_api()
    wait_until(lambda: running.status()["config"]["error"] is None, "watching again")
    comes_and_goes(cluster, client, two, "again")
    assert running.logged("INFO Kubernetes watch goes on")


@pytest.mark.duty("kube.api-away")
def test_the_api_server_is_silent_for_a_while(cluster: Cluster, client: Client, two: ScriptedServer) -> None:
    cluster.api.signal(signal.SIGSTOP)
    try:
        quiet(3.0)
        assert succeeded(client.call("test_greet"))
        assert client.tools() == ["test_greet", "test_time"]
    finally:
        cluster.api.signal(signal.SIGCONT)
    comes_and_goes(cluster, client, two, "silent")


def test_the_history_was_compacted(cluster: Cluster, running: KubeGateway, client: Client, two: ScriptedServer) -> None:
    """While the sidecar slept, more happened than the API server keeps: 410, then a new list."""
    running.sidecar.signal(signal.SIGSTOP)
    try:
        cluster.apply(*server_objects("missed", two.port, "missed_"))
        cluster.delete("mcpserver", "server1", NAMESPACE)
        for round_number in range(3):
            cluster.apply(mcp_server("noise", "nowhere", path=f"/{round_number}"))
        endpoint = f"--endpoints=http://127.0.0.1:{cluster.etcd_port}"
        etcdctl = str(program("etcd").with_name("etcdctl"))
        status = subprocess.check_output(
            [etcdctl, endpoint, "endpoint", "status", "-w", "json"], env=environment(), text=True
        )
        revision = str(json.loads(status)[0]["Status"]["header"]["revision"])
        subprocess.run([etcdctl, endpoint, "compact", revision], check=True, env=environment(), capture_output=True)
        cluster.stop_api()
        cluster.start_api()
    finally:
        running.sidecar.signal(signal.SIGCONT)
    wait_until(lambda: client.tools() == ["missed_hello_world"], "what was missed is known")
    cluster.delete("mcpserver", "noise", NAMESPACE)
    cluster.delete("mcpserver", "missed", NAMESPACE)
    cluster.apply(mcp_server("server1", "server1-route", "test_"))
    wait_until(lambda: client.tools() == ["test_greet", "test_time"], "as before")


@pytest.mark.duty("kube.api-away")
def test_a_token_that_is_no_longer_good(cluster: Cluster, running: KubeGateway, client: Client, two: ScriptedServer) -> None:
    """The account was made anew: every old token is refused until the file has the new one."""
    cluster.delete("serviceaccount", "mcp-gateway", "gateway-system")
    cluster.stop_api()  # it would take a token that it has seen for some seconds more
    cluster.start_api()
    wait_until(lambda: "HTTP 401" in (running.status()["config"]["error"] or ""), "refused")
    assert succeeded(client.call("test_greet"))
    cluster.account("gateway-system", "mcp-gateway")
    wait_until(lambda: running.status()["config"]["error"] is None, "with the new token")
    comes_and_goes(cluster, client, two, "token")


@pytest.mark.duty("kube.one-writer")
def test_the_writer_is_killed(cluster: Cluster, running: KubeGateway, tmp_path: Path) -> None:
    """Two sidecars watch and one writes; the other notices its death, and status is right again."""
    holder = wait_until(lambda: cluster.get(*LEASE)["spec"]["holderIdentity"], "a holder")
    with kube_gateway(cluster, tmp_path / "second", envoy=False) as second:
        quiet(2.5)
        assert cluster.get(*LEASE)["spec"]["holderIdentity"] == holder
        assert not second.logged("This sidecar writes")
        assert second.status()["servers"] == running.status()["servers"] or second.status()["servers"]
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.stop()
        wait_until(lambda: second.logged("This sidecar writes status and ConfigMap now"), "the other one takes over")
        cluster.apply(mcp_server("after", "nowhere"))
        wait_until(lambda: cluster.ready("mcpserver", "after", NAMESPACE).get("reason") == "RouteNotFound", "it writes")
        cluster.delete("mcpserver", "after", NAMESPACE)
        second.sidecar.signal(signal.SIGTERM)
        assert second.sidecar.wait() == 0
        assert cluster.get(*LEASE)["spec"]["holderIdentity"] == ""  # given back: the next one need not wait
    running.start_sidecar()
    wait_until(lambda: running.logged("This sidecar writes status and ConfigMap now"), "the first one again")


@pytest.mark.duty("session.restart")
def test_a_session_survives_the_sidecar(running: KubeGateway, client: Client) -> None:
    """The keys are in the Secret that all sidecars share."""
    running.sidecar.signal(signal.SIGKILL)
    running.sidecar.stop()
    running.start_sidecar()
    wait_until(lambda: succeeded(client.call("test_greet")), "the same session")


@pytest.mark.duty("kube.follower")
def test_a_sidecar_that_follows_the_configmap(
    cluster: Cluster, running: KubeGateway, two: ScriptedServer, tmp_path: Path
) -> None:
    """With fewer rights it sees the same servers, live."""
    kubeconfig = cluster.account("team-c", "follower")
    cluster.kubectl(
        "create",
        "rolebinding",
        "follower",
        "-n",
        SYSTEM,
        "--role=mcpgw-sidecar-follower",
        "--serviceaccount=team-c:follower",
    )
    source = (f"--config=configmap:{SYSTEM}/mcp-gateway-config",)
    with kube_gateway(cluster, tmp_path / "follower", kubeconfig=kubeconfig, source=source) as follower:
        with follower.client() as follower_client, running.client() as first:
            wait_until(lambda: follower_client.tools() == ["test_greet", "test_time"], "the servers")
            comes_and_goes(cluster, follower_client, two, "live")
            assert succeeded(follower_client.call("test_greet"))
            with follower.client(mcp_session_id=first.session) as shared:
                shared.headers["mcp-session-id"] = first.session  # of the other sidecar: the keys are the same
                assert succeeded(shared.call("test_greet"))
        assert follower.status()["config"]["source"] == f"configmap:{SYSTEM}/mcp-gateway-config"
        assert not follower.logged("WARN|ERROR")


@pytest.mark.duty("kube.follower")
def test_a_configmap_that_is_missing_or_broken(cluster: Cluster, one: ScriptedServer, tmp_path: Path) -> None:
    """Only the test writes it: the last good configuration stays, and the fault is reported."""
    kubeconfig = cluster.account("team-c", "follower")
    cluster.kubectl("create", "role", "any-configmap", "-n", "team-c", "--verb=list,watch", "--resource=configmaps,secrets")
    cluster.kubectl(
        "create", "rolebinding", "any", "-n", "team-c", "--role=any-configmap", "--serviceaccount=team-c:follower"
    )

    def config_map(text: str) -> dict[str, object]:
        meta = {"name": "own", "namespace": "team-c"}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"config.yaml": text}}

    cluster.apply(config_map(f'servers: [{{name: a, url: "{one.url}", toolPrefix: a_}}]'))
    with (
        kube_gateway(
            cluster, tmp_path / "own", kubeconfig=kubeconfig, source=("--config=configmap:team-c/own",)
        ) as follower,
        follower.client() as client,
    ):
        wait_until(lambda: client.tools() == ["a_greet", "a_time"], "its server")
        cluster.apply(config_map("servers: [{name: a}]"))
        wait_until(lambda: "'url' is missing" in (follower.status()["config"]["error"] or ""), "refused, with the place")
        assert client.tools() == ["a_greet", "a_time"]
        stale = config_map(f'servers: [{{name: a, url: "{one.url}", toolPrefix: a_}}]')
        stale["metadata"] = {
            "name": "own",
            "namespace": "team-c",
            "annotations": {"mcpgw.dev/stale": "it has too many bytes"},
        }
        cluster.apply(stale)
        wait_until(lambda: "too many bytes" in (follower.status()["config"]["error"] or ""), "it is an old one")
        cluster.delete("configmap", "own", "team-c")
        wait_until(lambda: "was deleted" in (follower.status()["config"]["error"] or ""), "deleted")
        assert succeeded(client.call("a_greet"))
        cluster.apply(config_map(f'servers: [{{name: a, url: "{one.url}", toolPrefix: b_}}]'))
        wait_until(lambda: client.tools() == ["b_greet", "b_time"], "back, and different")
        assert follower.status()["config"]["error"] is None


@pytest.mark.duty("ready.configuration")
def test_crds_that_come_later(one: ScriptedServer, tmp_path: Path) -> None:
    """A sidecar that finds none waits, says what to do, and needs no restart."""
    (tmp_path / "c").mkdir()
    with Cluster(tmp_path / "c") as bare:
        bare.kubectl("create", "namespace", NAMESPACE)
        bare.apply(shipped("rbac", f"--secrets-in={NAMESPACE}"))
        kubeconfig = bare.account("gateway-system", "mcp-gateway")
        (tmp_path / "g").mkdir()
        waiting = KubeGateway.__new__(KubeGateway)
        waiting.wait_ready = lambda _status=200: None  # type: ignore[method-assign]  # it is not ready, and that is the point
        waiting.__init__(tmp_path / "g", kubeconfig)  # type: ignore[misc]
        try:
            wait_until(lambda: waiting.logged("manifests crds"), "what to do")
            unready = wait_until(waiting.readyz, "an answer")
            assert (unready.status_code, unready.json()["waitingFor"]) == (503, "the configuration")
            assert "the API server does not know mcpservers.mcpgw.dev" in waiting.status()["config"]["error"]
            bare.install()
            bare.apply(*server_objects("server1", one.port, "test_"))
            wait_until(lambda: waiting.readyz().status_code == 200, "ready")
            wait_until(lambda: waiting.server(f"{NAMESPACE}/server1-route").get("tools") == 2, "the tools")
            wait_until(lambda: bare.ready("mcpserver", "server1", NAMESPACE).get("status") == "True", "status")
        finally:
            waiting.stop()
