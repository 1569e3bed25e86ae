"""Every watched kind is added, changed and deleted; a client sees it through a real Envoy.

Status, Events and the ConfigMap show it, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import quiet
from tests.e2e.stack import Client, succeeded, wait_until
from tests.kube.cluster import Cluster, secret
from tests.kube.gateway import SYSTEM, KubeGateway, kube_gateway
from tests.kube.objects import NAMESPACE, mcp_server, route, server_objects, service
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture
def client(running: KubeGateway) -> Iterator[Client]:
    with running.client() as new_client:
        wait_until(lambda: new_client.tools() == ["test_greet", "test_time"], "the first server alone")
        yield new_client


def remove(cluster: Cluster, name: str, namespace: str = NAMESPACE) -> None:
    for kind, object_name in (("mcpserver", name), ("httproute", f"{name}-route"), ("service", name)):
        cluster.delete(kind, object_name, namespace)


@pytest.mark.duty("kube.columns", "kube.configmap", "kube.ready-truth")
def test_the_guides_commands(cluster: Cluster, client: Client, one: ScriptedServer) -> None:
    assert succeeded(client.call("test_greet"))
    wait_until(lambda: cluster.ready("mcpserver", "server1", NAMESPACE).get("status") == "True", "Ready")
    table = [line.split() for line in cluster.kubectl("get", "mcpserver", "-A").splitlines()]
    assert table[0] == ["NAMESPACE", "NAME", "PREFIX", "TARGET", "PATH", "READY", "TOOLS", "CREDENTIALS", "AGE"]
    assert table[1][:7] == [NAMESPACE, "server1", "test_", "server1-route", "/mcp", "True", "2"]
    assert "2 tools, protocol version 2025-11-25" in cluster.kubectl("describe", "mcpsrv", "server1", "-n", NAMESPACE)
    url = f"http://server1.{NAMESPACE}.svc.cluster.local:{one.port}/mcp"
    config = cluster.get("configmap", "mcp-gateway-config", SYSTEM)
    assert yaml.safe_load(config["data"]["config.yaml"])["servers"] == [
        {
            "name": f"{NAMESPACE}/server1-route",
            "url": url,
            "hostname": "server1.mcp.local",
            "toolPrefix": "test_",
            "enabled": True,
        }
    ]
    listed = cluster.kubectl("get", "configmap", "mcp-gateway-config", "-n", SYSTEM, "-o", r"jsonpath={.data.config\.yaml}")
    assert "toolPrefix: test_" in listed


@pytest.mark.duty("kube.route-resolved", "header.authority-path")
def test_an_mcpserver_comes_changes_and_goes(cluster: Cluster, client: Client, two: ScriptedServer) -> None:
    cluster.apply(*server_objects("server2", two.port, "test2_"))
    wait_until(lambda: "test2_hello_world" in client.tools(), "its tools")
    assert wait_until(lambda: succeeded(client.call("test2_hello_world")), "a call")
    arrived = two.calls("tools/call")[-1].headers["host"]
    assert arrived == "server2.mcp.local"
    two.answers["initialize"] = lambda _handler, _message: False
    cluster.apply(mcp_server("server2", "server2-route", "test2_", path="/other"))
    wait_until(lambda: two.requests[-1].path == "/other", "the other path is asked")
    wait_until(lambda: cluster.get("mcpserver", "server2", NAMESPACE)["spec"]["path"] == "/other")
    remove(cluster, "server2")
    wait_until(lambda: "test2_hello_world" not in client.tools(), "its tools have left")
    assert client.call("test2_hello_world").json()["error"]["code"] == -32601


@pytest.mark.duty("kube.route-resolved", "kube.ready-truth")
def test_an_httproute_changes(cluster: Cluster, client: Client, one: ScriptedServer, two: ScriptedServer) -> None:
    """Another backend, no hostname, gone and back: each counts at once."""
    cluster.apply(*server_objects("moving", two.port, "m_"))
    wait_until(lambda: "m_hello_world" in client.tools(), "its tools")
    cluster.apply(service("elsewhere", one.port), route("moving", "elsewhere", one.port))
    wait_until(lambda: "m_greet" in client.tools() and "m_hello_world" not in client.tools(), "the other backend's tools")
    cluster.apply(route("moving", "elsewhere", one.port, hostnames=["*.mcp.local"]))
    wait_until(lambda: "m_greet" not in client.tools(), "no hostname, no tools")
    wait_until(lambda: cluster.ready("mcpserver", "moving", NAMESPACE)["reason"] == "NoHostname", "the reason")
    cluster.delete("httproute", "moving-route", NAMESPACE)
    wait_until(lambda: cluster.ready("mcpserver", "moving", NAMESPACE)["reason"] == "RouteNotFound", "the reason")
    cluster.apply(route("moving", "elsewhere", one.port))
    wait_until(lambda: "m_greet" in client.tools(), "back")
    remove(cluster, "moving")
    cluster.delete("service", "elsewhere", NAMESPACE)


@pytest.mark.duty("kube.route-resolved", "kube.ready-truth")
def test_a_service_goes_and_comes_back(cluster: Cluster, client: Client, two: ScriptedServer) -> None:
    cluster.apply(*server_objects("served", two.port, "s_"))
    wait_until(lambda: "s_hello_world" in client.tools(), "its tools")
    cluster.delete("service", "served", NAMESPACE)
    wait_until(lambda: "s_hello_world" not in client.tools(), "gone")
    condition = wait_until(
        lambda: (c := cluster.ready("mcpserver", "served", NAMESPACE))["status"] == "False" and c, "not ready"
    )
    assert condition["reason"] == "ServiceNotFound"
    assert f"Service {NAMESPACE}/served not found: create it" in condition["message"]
    assert condition["observedGeneration"] == 1
    cluster.apply(service("served", two.port))
    wait_until(lambda: "s_hello_world" in client.tools(), "back")
    wait_until(lambda: cluster.ready("mcpserver", "served", NAMESPACE)["status"] == "True", "ready")
    events = cluster.kubectl("get", "events", "-n", NAMESPACE, "--field-selector=involvedObject.name=served")
    assert all(word in events for word in ("Warning", "ServiceNotFound", "Normal"))
    remove(cluster, "served")


@pytest.mark.duty("kube.grant")
def test_another_namespace_needs_a_grant(cluster: Cluster, client: Client, two: ScriptedServer) -> None:
    cluster.kubectl("create", "namespace", "team-b")
    service_there, route_there, _ = server_objects("far", two.port, namespace="team-b")
    target = {"targetRef": {"name": "far-route", "namespace": "team-b"}}
    cluster.apply(service_there, route_there, mcp_server("far", "", "f_", **target))
    condition = wait_until(lambda: (c := cluster.ready("mcpserver", "far", NAMESPACE)) and c, "a verdict")
    assert condition["reason"] == "RefNotPermitted"
    assert "create a ReferenceGrant in team-b from MCPServer (mcpgw.dev) in mcp-test to HTTPRoute" in condition["message"]
    grant = {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "to-routes", "namespace": "team-b"},
        "spec": {
            "from": [{"group": "mcpgw.dev", "kind": "MCPServer", "namespace": NAMESPACE}],
            "to": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}],
        },
    }
    cluster.apply(grant)
    wait_until(lambda: "f_hello_world" in client.tools(), "granted")
    grant["spec"]["to"] = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "another"}]  # type: ignore[index]
    cluster.apply(grant)
    wait_until(lambda: "f_hello_world" not in client.tools(), "granted for another route alone")
    cluster.delete("mcpserver", "far", NAMESPACE)


@pytest.mark.duty("kube.credential", "security.credential-own")
def test_a_credential_is_used_rotated_and_missing(cluster: Cluster, client: Client, two: ScriptedServer) -> None:
    two.requests.clear()
    cluster.apply(*server_objects("keyed", two.port, "k_", credentialRef={"name": "the-key"}))
    condition = wait_until(lambda: (c := cluster.ready("mcpserver", "keyed", NAMESPACE)) and c, "a verdict")
    assert (condition["status"], condition["reason"]) == ("False", "InvalidCredential")
    assert condition["message"].startswith(
        "Credential validation failed: Secret mcp-test/the-key not found, or without the label"
    )
    cluster.apply(secret(NAMESPACE, "the-key", token="Bearer first-secret"))
    wait_until(lambda: two.requests and two.requests[-1].headers.get("authorization") == "Bearer first-secret", "it is used")
    wait_until(lambda: cluster.ready("mcpserver", "keyed", NAMESPACE)["status"] == "True", "ready")
    cluster.apply(secret(NAMESPACE, "the-key", token="Bearer second-secret"))
    wait_until(lambda: two.requests[-1].headers.get("authorization") == "Bearer second-secret", "rotated")
    assert succeeded(client.call("k_hello_world"))
    assert "authorization" not in two.calls("tools/call")[-1].headers  # it is the gateway's own, never a client's
    config = cluster.kubectl("get", "configmap", "-n", SYSTEM, "-o", "yaml")
    status = cluster.kubectl("get", "mcpserver", "-A", "-o", "yaml")
    assert "-secret" not in config + status
    cluster.apply(secret(NAMESPACE, "the-key", token="two\nlines"))
    wait_until(lambda: "one line of visible ASCII" in cluster.ready("mcpserver", "keyed", NAMESPACE)["message"], "refused")
    remove(cluster, "keyed")


@pytest.mark.duty("kube.credential")
def test_secrets_of_a_namespace_that_is_not_named_are_not_read(
    cluster: Cluster, running: KubeGateway, two: ScriptedServer
) -> None:
    del running
    objects = server_objects("far", two.port, "far_", credentialRef={"name": "the-key"})
    for each in objects:
        each["metadata"]["namespace"] = "gateway-system"
    cluster.apply(*objects, secret("gateway-system", "the-key", token="Bearer third"))
    condition = wait_until(lambda: (c := cluster.ready("mcpserver", "far", "gateway-system")) and c, "a verdict")
    assert condition["reason"] == "InvalidCredential"
    assert "read no Secret of namespace gateway-system: give --secrets-in gateway-system" in condition["message"]
    account = "--as=system:serviceaccount:gateway-system:mcp-gateway"
    assert cluster.kubectl("auth", "can-i", "list", "secrets", "-n", NAMESPACE, account).strip() == "yes"
    assert "no" in cluster.kubectl("auth", "can-i", "list", "secrets", "-n", "gateway-system", account, check=False)
    cluster.delete("mcpserver", "far", "gateway-system")


@pytest.mark.duty("security.external-names")
def test_a_name_that_is_allowed_and_stands_for_the_pod_itself(
    cluster: Cluster, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It stands for 127.0.0.1: a URL of it ended Envoy, or read what only the pod may read."""
    service, *others = server_objects("inside", two.port, "i_")
    service["spec"] = {"type": "ExternalName", "externalName": "inside.example.com"}
    cluster.apply(service, *others)
    two.requests.clear()
    options = ("--allow-external-names=example.com",)
    with kube_gateway(cluster, tmp_path_factory.mktemp("names"), *options, envoy=False) as running:
        refused = wait_until(lambda: running.status().get("refused"), "a verdict")
        (message,) = (each["message"] for each in refused if each["name"] == f"{NAMESPACE}/inside")
        assert "externalName inside.example.com" in message
        wait_until(lambda: "stands for " in str(running.status()["refused"]), "it is resolved")
        assert "the gateway's own pod or node" in str(running.status()["refused"])
        assert not two.requests
    remove(cluster, "inside")


@pytest.mark.duty("security.credentials")
def test_secrets_are_never_logged(running: KubeGateway) -> None:
    assert "first-secret" not in running.sidecar.text
    assert "second-secret" not in running.sidecar.text


@pytest.mark.duty("kube.virtual", "list.virtual", "list.virtual-404", "kube.columns")
def test_a_virtual_server(cluster: Cluster, running: KubeGateway, client: Client) -> None:
    virtual: dict[str, Any] = {
        "apiVersion": "mcpgw.dev/v1alpha1",
        "kind": "MCPVirtualServer",
        "metadata": {"name": "few", "namespace": NAMESPACE},
        "spec": {"tools": ["test_greet", "test_nothing"]},
    }
    cluster.apply(virtual)
    headers = {"x-mcp-virtualserver": f"{NAMESPACE}/few"}
    wait_until(lambda: client.send(LIST, **headers).status_code == 200, "the virtual server")
    with Client(f"{running.url}/{NAMESPACE}/few") as few:
        assert few.tools() == ["test_greet"]
        assert succeeded(few.call("test_greet"))
        assert few.call("test_time").json()["error"]["message"] == "Tool not found"
        condition = wait_until(lambda: cluster.ready("mcpvirtualserver", "few", NAMESPACE), "its status")
        assert (condition["status"], condition["reason"]) == ("False", "ToolsNotFound")
        assert condition["message"].startswith("1 of 2 tools; no server offers test_nothing")
        virtual["spec"]["tools"] = ["test_time"]
        cluster.apply(virtual)
        wait_until(lambda: few.tools() == ["test_time"], "other tools")
        wait_until(lambda: cluster.ready("mcpvirtualserver", "few", NAMESPACE)["status"] == "True", "ready")
        shown = cluster.kubectl("get", "mcpvs", "-A").splitlines()[1].split()
        assert shown[:6] == [NAMESPACE, "few", "True", "1", "of", "1"]
        names = yaml.safe_load(cluster.get("configmap", "mcp-gateway-config", SYSTEM)["data"]["config.yaml"])
        assert names["virtualServers"] == [{"name": f"{NAMESPACE}/few", "tools": ["test_time"]}]
        cluster.delete("mcpvirtualserver", "few", NAMESPACE)
        wait_until(lambda: few.post("tools/list").status_code == 404, "an unknown name is an error, never everything")


LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.mark.duty("kube.older-wins")
def test_the_older_of_two_keeps_a_route(cluster: Cluster, client: Client) -> None:
    cluster.apply(mcp_server("younger", "server1-route", "y_"))
    condition = wait_until(lambda: (c := cluster.ready("mcpserver", "younger", NAMESPACE)) and c, "a verdict")
    assert condition["reason"] == "NameConflict"
    assert f"referenced by the older MCPServer {NAMESPACE}/server1" in condition["message"]
    assert client.tools() == ["test_greet", "test_time"]
    cluster.delete("mcpserver", "younger", NAMESPACE)


@pytest.mark.duty("kube.ready-truth", "list.clash")
def test_a_tool_that_an_older_server_owns(cluster: Cluster, client: Client, two: ScriptedServer) -> None:
    two.tools.append(tool("time"))
    try:
        cluster.apply(*server_objects("clash", two.port, "test_"))
        wait_until(lambda: "test_hello_world" in client.tools(), "what does not clash")
        wait_until(
            lambda: "tool test_time (owned by mcp-test/server1-route)" in str(cluster.ready("mcpserver", "clash", NAMESPACE))
        )
        assert cluster.ready("mcpserver", "clash", NAMESPACE)["status"] == "True"
    finally:
        two.tools.pop()
        remove(cluster, "clash")


@pytest.mark.duty("kube.ready-truth")
def test_a_server_that_is_down_says_so(cluster: Cluster, client: Client) -> None:
    with ScriptedServer(tool("t")) as going:
        cluster.apply(*server_objects("going", going.port, "g_"))
        wait_until(lambda: cluster.ready("mcpserver", "going", NAMESPACE).get("status") == "True", "ready")
    condition = wait_until(lambda: (c := cluster.ready("mcpserver", "going", NAMESPACE))["status"] == "False" and c, "down")
    assert condition["reason"] == "Unreachable"
    assert "check that the pods behind http://going.mcp-test.svc.cluster.local" in condition["message"]
    assert succeeded(client.call("test_greet"))
    remove(cluster, "going")


@pytest.mark.duty("kube.route-condition")
def test_the_route_says_who_uses_it(cluster: Cluster, client: Client) -> None:
    """Under our own controllerName, beside what others say, and only as long as it is true."""
    del client

    def parents() -> list[Any]:
        return list(cluster.get("httproute", "server1-route", NAMESPACE).get("status", {}).get("parents", []))

    ours = wait_until(lambda: [p for p in parents() if p["controllerName"] == "mcpgw.dev/sidecar"], "our condition")
    assert [(c["type"], c["status"], c["reason"]) for c in ours[0]["conditions"]] == [
        ("Programmed", "True", "InUseByMCPServer")
    ]
    assert ours[0]["conditions"][0]["message"] == f"HTTPRoute is referenced by MCPServer {NAMESPACE}/server1"
    theirs = {
        "controllerName": "example.com/other",
        "parentRef": ours[0]["parentRef"],
        "conditions": [{**ours[0]["conditions"][0], "type": "Accepted", "reason": "Accepted", "message": "theirs"}],
    }
    cluster.kubectl(
        "patch", "httproute", "server1-route", "-n", NAMESPACE, "--subresource=status", "--type=merge",
        "-p", yaml.safe_dump({"status": {"parents": [theirs]}}),
    )  # fmt: skip
    wait_until(
        lambda: {p["controllerName"] for p in parents()} == {"example.com/other", "mcpgw.dev/sidecar"}, "ours is back"
    )
    cluster.delete("mcpserver", "server1", NAMESPACE)
    wait_until(lambda: [p["controllerName"] for p in parents()] == ["example.com/other"], "ours has gone, theirs stays")
    cluster.apply(mcp_server("server1", "server1-route", "test_"))


@pytest.mark.duty("kube.write-changes")
def test_nothing_is_written_without_a_change(cluster: Cluster, client: Client) -> None:
    """No hot loop: our objects keep their versions while servers are checked twice a second."""
    del client

    def versions() -> list[str]:
        objects = (
            ("mcpserver", "server1", NAMESPACE),
            ("httproute", "server1-route", NAMESPACE),
            ("configmap", "mcp-gateway-config", SYSTEM),
        )
        return [cluster.get(*each)["metadata"]["resourceVersion"] for each in objects]

    def configured() -> bool:  # written at most once a second: after what the test before did, it may follow late
        config = cluster.get("configmap", "mcp-gateway-config", SYSTEM)["data"]["config.yaml"]
        return f"{NAMESPACE}/server1" in config

    wait_until(lambda: cluster.ready("mcpserver", "server1", NAMESPACE).get("status") == "True", "settled")
    wait_until(configured, "the ConfigMap has followed")
    first = wait_until(lambda: (v := versions()) == versions() and v, "still")
    quiet(2.5)  # nothing is waited for: nothing may happen
    assert versions() == first


@pytest.mark.duty("kube.configmap")
def test_the_configmap_is_kept_as_it_should_be(cluster: Cluster, client: Client) -> None:
    del client

    def text() -> str:
        return str(cluster.get("configmap", "mcp-gateway-config", SYSTEM).get("data", {}).get("config.yaml", ""))

    good = wait_until(text, "the text")
    cluster.kubectl(
        "patch", "configmap", "mcp-gateway-config", "-n", SYSTEM, "--type=merge", "-p", '{"data": {"config.yaml": "x"}}'
    )
    wait_until(lambda: text() == good, "mended")
    cluster.delete("configmap", "mcp-gateway-config", SYSTEM)
    wait_until(lambda: text() == good, "made anew")


@pytest.mark.duty("kube.configmap")
def test_a_quota_that_leaves_no_room(cluster: Cluster, running: KubeGateway, client: Client) -> None:
    hard = {"count/configmaps": "0"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full", "namespace": SYSTEM}}
    cluster.apply({**quota, "spec": {"hard": hard}})
    judged = json.dumps({"status": {"hard": hard, "used": {"count/configmaps": "0"}}})  # a controller's, which is not here
    cluster.kubectl("patch", "resourcequota", "full", "-n", SYSTEM, "--subresource=status", "--type=merge", "-p", judged)
    cluster.delete("configmap", "mcp-gateway-config", SYSTEM)
    said = wait_until(lambda: running.status()["kubernetes"]["error"], "the error")
    assert "exceeded quota: full, requested: count/configmaps=1" in said
    assert succeeded(client.call("test_greet"))
    cluster.delete("resourcequota", "full", SYSTEM)
    wait_until(lambda: cluster.get("configmap", "mcp-gateway-config", SYSTEM), "made anew")
    wait_until(lambda: running.status()["kubernetes"]["error"] is None, "no error")


@pytest.mark.duty("kube.ready-truth")
def test_objects_that_nobody_can_use_disturb_nobody(cluster: Cluster, client: Client) -> None:
    """The API server accepts what the schemas allow; other faults are reported at their object.

    They disturb no other object.
    """
    backends: list[dict[str, Any]] = [{"group": "example.com", "kind": "Bucket", "name": "b"}]
    no_backend, odd = route("empty", "x", 1, rules=[{}]), route("odd", "x", 1, rules=[{"backendRefs": backends}])
    cluster.apply(
        no_backend, odd, mcp_server("empty", "empty-route"), mcp_server("odd", "odd-route"), mcp_server("lost", "nowhere")
    )
    reasons = {"empty": "NoBackend", "odd": "InvalidBackend", "lost": "RouteNotFound"}
    for name, reason in reasons.items():
        wait_until(
            lambda name=name, reason=reason: cluster.ready("mcpserver", name, NAMESPACE).get("reason") == reason, reason
        )
    assert client.tools() == ["test_greet", "test_time"]
    assert succeeded(client.call("test_greet"))
    for name in reasons:
        remove(cluster, name)


@pytest.mark.duty("kube.schema")
def test_the_crds_refuse(cluster: Cluster) -> None:
    cluster.apply(mcp_server("fixed", "nowhere", "fixed_"))
    for changed in (mcp_server("fixed", "nowhere", "other_"), mcp_server("fixed", "nowhere")):
        text = yaml.safe_dump(changed)

        def verdict(text: str = text) -> str | None:
            """None for a conflict: a status was written just then, and nothing was judged."""
            said = cluster.kubectl("replace", "-f", "-", stdin=text, check=False)
            return None if "Conflict" in said else said

        assert "toolPrefix is immutable once set" in wait_until(verdict, "a verdict")
    for spec, words in (
        ({"toolPrefix": "-x"}, "spec.toolPrefix"),
        ({"toolPrefix": "x" * 33}, "spec.toolPrefix"),
        ({"path": "mcp"}, "spec.path"),
        ({"path": "/a#b"}, "spec.path"),
        ({"targetRef": {"name": "x", "kind": "Service"}}, "spec.targetRef.kind"),
        ({"targetRef": {"name": "x", "group": "example.com"}}, "spec.targetRef.group"),
        ({"targetRef": {}}, "spec.targetRef.name"),
    ):
        assert words in cluster.apply(mcp_server("bad", "nowhere", **spec), check=False), spec
    virtual = {
        "apiVersion": "mcpgw.dev/v1alpha1",
        "kind": "MCPVirtualServer",
        "metadata": {"name": "v", "namespace": NAMESPACE},
    }
    assert "spec.tools" in cluster.apply({**virtual, "spec": {"tools": []}}, check=False)
    cluster.delete("mcpserver", "fixed", NAMESPACE)
