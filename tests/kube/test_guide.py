"""Executes docs/understanding.md: its commands and log lines, on the samples.

The servers are of the Python SDK.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.stack import ROOT, Client, environment, wait_until
from tests.kube.cluster import Cluster, program
from tests.kube.gateway import KubeGateway, kube_gateway

DOC = (ROOT / "docs/understanding.md").read_text()
# What needs pods with logs, Istio's own tools, or a browser.
ELSEWHERE = (
    "export",
    "kubectl port-forward",
    "kubectl logs",
    "kubectl set env",
    "istioctl",
    "just istio-config",
    "just logs",
    "just inspect-gateway",
    "kubectl get envoyfilter",
)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOC, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line]
EXECUTED = [line for line in dict.fromkeys(COMMANDS) if not line.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def running(cluster: Cluster, sdk_servers: list[int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeGateway]:
    """The samples as they are shipped, at the ports of this machine."""
    ports = dict(zip(("mcp-test-server1", "mcp-test-server2", "mcp-api-key-server"), sdk_servers, strict=True))
    with kube_gateway(cluster, tmp_path_factory.mktemp("guide"), "--log-level=debug") as new_gateway:
        for path in sorted((ROOT / "k8s/samples").glob("[0-9]*.yaml")):
            documents = [placed(document, ports) for document in yaml.safe_load_all(path.read_text())]
            cluster.apply(*documents)
        with new_gateway.client() as client:
            wait_until(lambda: {"test_greet", "test2_hello_world", "apikey_hello_world"} <= set(client.tools()), "the tools")
        wait_until(lambda: cluster.ready("mcpserver", "api-key-server", "mcp-test").get("status") == "True", "Ready")
        yield new_gateway


def placed(document: Any, ports: dict[str, int]) -> Any:
    """A sample whose Service is on this machine: its port is that of the server."""
    match document["kind"]:
        case "Service":
            document["spec"]["ports"][0] |= {"port": ports[document["metadata"]["name"]]}
        case "HTTPRoute":
            for backend in document["spec"]["rules"][0]["backendRefs"]:
                backend["port"] = ports[backend["name"]]
    return document


def shell(command: str, cluster: Cluster, running: KubeGateway, binaries: Path) -> subprocess.CompletedProcess[str]:
    env = environment() | {
        "PATH": os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "KUBECONFIG": str(cluster.kubeconfig),
        "MCPGW_URL": running.url,
        "MCPGW_ADMIN_ADDRESS": running.admin.removeprefix("http://"),
    }
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=env, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("command", EXECUTED)
def test_commands(cluster: Cluster, running: KubeGateway, tmp_path: Path, command: str) -> None:
    if command.startswith("mcpgw-sidecar manifests samples"):
        command += " --dry-run=server"  # they are there, at other ports
    (tmp_path / "kubectl").symlink_to(program("kubectl"))
    done = shell(command, cluster, running, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() or "No resources found" in done.stderr or "kubectl get pods" in command, done.stderr


def test_what_is_not_executed_is_known() -> None:
    assert {line for line in COMMANDS if line not in EXECUTED} == {line for line in COMMANDS if line.startswith(ELSEWHERE)}
    assert shutil.which("sh")


def test_what_the_commands_show(cluster: Cluster, running: KubeGateway, tmp_path: Path) -> None:
    (tmp_path / "kubectl").symlink_to(program("kubectl"))

    def shown(command: str) -> str:
        return shell(command, cluster, running, tmp_path).stdout

    assert "Hi Ada" in shown("mcpgw-sidecar tools call test_greet -a name=Ada")
    assert "you have the key" in shown(next(line for line in COMMANDS if "apikey_hello_world" in line))
    few = shown(next(line for line in COMMANDS if "x-mcp-virtualserver" in line)).split()
    assert [name for name in few if name.startswith("test")] == ["test2_hello_world", "test_greet"]
    assert "toolPrefix: test_" in shown(next(line for line in COMMANDS if "jsonpath" in line))
    described = shown("kubectl describe mcpserver api-key-server -n mcp-test")
    assert "1 tools, protocol version" in described
    assert "InUseByMCPServer" in shown("kubectl describe httproute mcp-server1-route -n mcp-test")
    assert "3 of 3 servers ready" in shown("mcpgw-sidecar status")


@pytest.mark.duty("log.guide")
@pytest.mark.parametrize("line", [line for block in blocks("log") for line in block.splitlines()])
def test_log_lines(running: KubeGateway, line: str) -> None:
    with Client(running.url) as client:
        client.tools()
        client.call("test_greet", name="Ada")
    pattern = re.escape(line).replace(":9090/mcp", r":\d+/mcp")
    wait_until(lambda: running.logged(f"^{pattern}"), line)
