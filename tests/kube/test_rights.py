"""RBAC as shipped: no right too few, and none too many.

The tests take each right away in turn, and read the rights in use from the API server's audit log.
"""

from __future__ import annotations

import copy
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcpgw_sidecar.manifests.rights import sidecar_rights, webhook_rights
from tests.e2e.stack import PROGRAM, Process, free_ports, wait_until
from tests.kube.cluster import Cluster
from tests.kube.conftest import shipped
from tests.kube.gateway import SYSTEM, KubeGateway
from tests.kube.objects import NAMESPACE, server_objects
from tests.servers.scripted import ScriptedServer, tool

ACCOUNT = ("gateway-system", "mcp-gateway")
Right = tuple[str, str, str]  # name of the role, resource, verb
SHIPPED = sidecar_rights(SYSTEM, (ACCOUNT,), (NAMESPACE,))
SIGNS = {  # what the log says without a right, by resource and verb; list and watch are the same to an operator
    "leases": "WARN Lease not renewed",
    "configmaps list": "not allowed to watch configmaps",
    "configmaps watch": "not allowed to watch configmaps",
    "configmaps": "ERROR ConfigMap not written",
    "secrets patch": "WARN Sessions end with this process",
    "events": "DEBUG Event not written",
    "mcpservers/status": "WARN Status not written, will retry kind=MCPServer",
    "mcpvirtualservers/status": "WARN Status not written, will retry kind=MCPVirtualServer",
    "mcpaccesspolicies/status": "WARN Status not written, will retry kind=MCPAccessPolicy",
    "httproutes/status": "WARN Status not written, will retry kind=HTTPRoute",
}


def rights() -> list[tuple[str, int, str, str]]:
    """Each single right of the sidecar: role (kind and name), rule, resource, verb."""
    rows = []
    for role in SHIPPED:
        if role["kind"] in {"Role", "ClusterRole"} and role["metadata"]["name"] != "mcpgw-sidecar-follower":
            for index, rule in enumerate(role["rules"]):
                name = f"{role['kind']}/{role['metadata']['name']}"
                rows += [(name, index, resource, verb) for resource in rule["resources"] for verb in rule["verbs"]]
    return rows


def without(name: str, index: int, resource: str, verb: str) -> list[dict[str, Any]]:
    documents = copy.deepcopy(SHIPPED)
    for role in documents:
        if f"{role['kind']}/{role['metadata']['name']}" == name:
            rule = role["rules"][index]
            rest = {**rule, "resources": [each for each in rule["resources"] if each != resource]}
            only = {**rule, "resources": [resource], "verbs": [each for each in rule["verbs"] if each != verb]}
            role["rules"] = [
                r for r in (*role["rules"][:index], rest, only, *role["rules"][index + 1 :]) if r["resources"] and r["verbs"]
            ]
    return documents


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("audited")
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}
    (directory / "policy.yaml").write_text(yaml.safe_dump(policy))
    options = (f"--audit-policy-file={directory / 'policy.yaml'}", f"--audit-log-path={directory / 'audit.log'}")
    with Cluster(directory, *options) as new_cluster:
        new_cluster.install()
        for namespace in (NAMESPACE, SYSTEM):
            new_cluster.kubectl("create", "namespace", namespace)
        new_cluster.account(*ACCOUNT)
        new_cluster.apply(*SHIPPED)
        yield new_cluster


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("greet")) as new_server:
        yield new_server


class Started:
    """A sidecar without Envoy in an empty cluster: it has to make all its objects itself."""

    def __init__(self, cluster: Cluster, directory: Path, server: ScriptedServer) -> None:
        for kind, name in (
            ("lease", "mcpgw-sidecar"),
            ("configmap", "mcp-gateway-config"),
            ("secret", "mcpgw-sidecar-session-key"),
        ):
            cluster.delete(kind, name, SYSTEM)
        cluster.apply(*(document for document in SHIPPED if document["kind"] == "Secret"))  # empty, as it is shipped
        for kind, name in (("mcpserver", "server1"), ("httproute", "server1-route")):
            cluster.delete(kind, name, NAMESPACE)
        virtual = {
            "apiVersion": "mcpgw.dev/v1alpha1",
            "kind": "MCPVirtualServer",
            "metadata": {"name": "v", "namespace": NAMESPACE},
        }
        policy = {**virtual, "kind": "MCPAccessPolicy", "spec": {"rules": [{"allow": [{}]}]}}
        for kind in ("mcpvirtualserver", "mcpaccesspolicy"):
            cluster.delete(kind, "v", NAMESPACE)
        cluster.apply(*server_objects("server1", server.port, "a_"), {**virtual, "spec": {"tools": ["a_greet"]}}, policy)
        self.cluster = cluster
        kubeconfig = cluster.directory / f"kubeconfig-{ACCOUNT[0]}-{ACCOUNT[1]}"
        running = KubeGateway.__new__(KubeGateway)
        running.wait_ready = lambda _status=200: None  # type: ignore[method-assign]  # without a right it may never be
        running.__init__(directory, kubeconfig, "--log-level=debug", "--refresh-interval=1s")  # type: ignore[misc]
        self.running = running

    def change(self, number: int) -> None:
        """Something that changes the ConfigMap after it was made."""
        self.cluster.kubectl("annotate", "mcpserver", "server1", "-n", NAMESPACE, f"n={number}", "--overwrite")
        patch = json.dumps({"spec": {"path": f"/{number}"}})
        self.cluster.kubectl("patch", "mcpserver", "server1", "-n", NAMESPACE, "--type=merge", "-p", patch)


@pytest.mark.duty("kube.rights")
@pytest.mark.parametrize(("name", "index", "resource", "verb"), rights(), ids=lambda value: str(value).replace("/", "."))
def test_without(
    audited: Cluster, server: ScriptedServer, tmp_path: Path, name: str, index: int, resource: str, verb: str
) -> None:
    audited.apply(*without(name, index, resource, verb))
    started = Started(audited, tmp_path, server)
    try:
        sign = SIGNS.get(f"{resource} {verb}") or SIGNS.get(resource) or f"not allowed to watch {resource}"
        if verb == "patch" and resource == "configmaps":
            wait_until(lambda: started.running.logged("Successfully regenerated"), "the ConfigMap")
            started.change(1)
        wait_until(lambda: started.running.logged(re.escape(sign)), sign)
    finally:
        started.running.stop()
        audited.apply(*SHIPPED)


def used(cluster: Cluster, account: str) -> tuple[set[tuple[str, str]], set[str]]:
    """The rights that an account used (resource and verb), and those that it was refused.

    They come from the audit log.
    """
    allowed: set[tuple[str, str]] = set()
    refused: set[str] = set()
    for line in (cluster.directory / "audit.log").read_text().splitlines():
        event = json.loads(line)
        if event["user"]["username"] != f"system:serviceaccount:{account}" or "objectRef" not in event:
            continue
        target = event["objectRef"]
        resource = "/".join(filter(None, [target["resource"], target.get("subresource")]))
        if event.get("responseStatus", {}).get("code") == 403:
            refused.add(f"{event['verb']} {resource}")
        elif event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow":
            allowed.add((resource, event["verb"]))
    return allowed, refused


def granted(documents: list[dict[str, Any]], roles: set[str]) -> set[tuple[str, str]]:
    rules = [rule for role in documents if role["metadata"]["name"] in roles for rule in role.get("rules", ())]
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.duty("kube.rights")
def test_the_sidecar_uses_every_right_and_no_other(audited: Cluster, server: ScriptedServer, tmp_path: Path) -> None:
    (audited.directory / "audit.log").write_text("")
    started = Started(audited, tmp_path, server)
    try:
        wait_until(lambda: audited.ready("mcpserver", "server1", NAMESPACE).get("status") == "True", "status")
        wait_until(lambda: audited.get("configmap", "mcp-gateway-config", SYSTEM), "the ConfigMap")
        started.change(2)
        rules = granted(SHIPPED, {"mcpgw-sidecar", "mcpgw-sidecar-credentials"})
        wait_until(lambda: not rules - used(audited, "gateway-system:mcp-gateway")[0], "every right")
        allowed, refused = used(audited, "gateway-system:mcp-gateway")
        assert allowed == rules
        assert refused == set()
    finally:
        started.running.stop()


@pytest.mark.duty("kube.rights")
def test_the_webhook_uses_every_right_and_no_other(audited: Cluster, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    documents = list(yaml.safe_load_all(shipped("webhook")))
    for document in documents:
        for hook in document.get("webhooks", ()):
            hook["clientConfig"] = {"url": f"https://localhost:{port}/inject"}
    audited.apply(*documents)
    kubeconfig = audited.account(SYSTEM, "mcpgw-sidecar-webhook")
    command = [*PROGRAM, "webhook", f"--webhook-address=127.0.0.1:{port}"]
    process = Process(command, tmp_path / "log", KUBECONFIG=str(kubeconfig))
    try:
        wait_until(lambda: "Listening" in process.text, "the webhook")
        patch = [
            "patch",
            "secret",
            "mcpgw-sidecar-webhook-ca",
            "-n",
            SYSTEM,
            "--type=merge",
            "-p",
            '{"data": {"tls.key": "eA=="}}',
        ]
        audited.kubectl(*patch)  # it has to be replaced: the right to update
        rules = granted(webhook_rights(SYSTEM), {"mcpgw-sidecar-webhook"})
        account = f"{SYSTEM}:mcpgw-sidecar-webhook"
        wait_until(lambda: used(audited, account)[0] >= rules, "every right")
        assert used(audited, account) == (rules, set())
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.stop()
