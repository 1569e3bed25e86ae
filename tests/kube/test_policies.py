"""MCPAccessPolicy: who may use the servers of a namespace, with a real API server and Envoy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.access.issuing import Issuer
from tests.e2e.access.zitadel import logged_in, person, zitadel
from tests.e2e.stack import Client, answer, succeeded, wait_until
from tests.kube.cluster import Cluster, secret
from tests.kube.gateway import kube_gateway
from tests.kube.objects import NAMESPACE, server_objects
from tests.servers.scripted import ScriptedServer


def policy(name: str, rules: list[dict[str, Any]], namespace: str = NAMESPACE) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "mcpgw.dev/v1alpha1", "kind": "MCPAccessPolicy", "metadata": meta, "spec": {"rules": rules}}


@pytest.mark.duty("access.policies")
def test_a_namespace_says_who_may_use_its_servers(
    cluster: Cluster, one: ScriptedServer, two: ScriptedServer, tmp_path: Path
) -> None:
    cluster.kubectl("create", "namespace", "team-b")
    cluster.apply(*server_objects("server1", one.port, "a_"), *server_objects("server2", two.port, "b_", "team-b"))
    cluster.apply(policy("agents", [{"servers": ["server1*"], "tools": ["greet"], "allow": [{"groups": ["agents"]}]}]))
    with Issuer() as issuer:
        access = tmp_path / "access.yaml"
        access.write_text(yaml.safe_dump({"authentication": {"issuers": [issuer.entry()]}}))
        with kube_gateway(cluster, tmp_path / "g", f"--access={access}") as running:

            def client(**claims: Any) -> Client:
                return Client(running.url, authorization=f"Bearer {issuer.token(**claims)}")

            wait_until(lambda: client().initialized.status_code == 200, "the keys")
            with client(groups=["agents"]) as agent, client() as other:
                wait_until(lambda: agent.tools() == ["a_greet", "b_hello_world"], "what its rule gives")
                assert other.tools() == ["b_hello_world"], "the other namespace is as open as before"
                for _ in range(3):
                    assert succeeded(agent.call("a_greet"))
                    assert not succeeded(other.call("a_greet"))
                    assert succeeded(other.call("b_hello_world"))
                wait_until(lambda: cluster.ready("mcpaccesspolicy", "agents", NAMESPACE).get("status") == "True", "Ready")
                text = cluster.get("configmap", "mcp-gateway-config", "mcp-system")["data"]["config.yaml"]
                assert f"policies:\n  {NAMESPACE}: " in text, "a follower knows them, too"
                cluster.apply(policy("agents", [{"allow": [{"groups": [7]}]}]))
                wait_until(lambda: agent.tools() == ["b_hello_world"], "one that cannot be read gives nothing")
                condition = wait_until(
                    lambda: (now := cluster.ready("mcpaccesspolicy", "agents", NAMESPACE)).get("status") == "False" and now,
                    "it is said",
                )
                assert condition["reason"] == "InvalidRules"
                assert "spec.rules[0].allow[0].groups must be a text, or a list of texts" in condition["message"]
                cluster.apply(policy("more", [{"allow": [{"sub": "alice"}]}]))
                wait_until(lambda: other.tools() == ["a_greet", "a_time", "b_hello_world"], "another policy counts besides")
                for name in ("agents", "more"):
                    cluster.delete("mcpaccesspolicy", name, NAMESPACE)
                wait_until(lambda: succeeded(other.call("a_time")), "without a policy it is open")


@pytest.mark.duty("access.exchange", "kube.exchange")
def test_a_tenants_server_gets_tokens_of_its_own_where_the_operator_allows_it(
    cluster: Cluster, one: ScriptedServer, tmp_path: Path
) -> None:
    with zitadel(tmp_path) as provider:
        access = tmp_path / "access.yaml"
        issuer = {"issuer": provider, "jwksUri": f"{provider}keys", "audiences": ["web"]}
        access.write_text(yaml.safe_dump({"authentication": {"issuers": [issuer]}}))
        exchange = {
            "tokenUrl": f"{provider}oauth/token",
            "clientId": "gateway",
            "clientSecretRef": {"name": "client"},
            "subjectTokenType": "id_token",
            "scope": "openid",
        }
        cluster.apply(*server_objects("own", one.port, "o_", tokenExchange=exchange))

        def condition(**expected: str) -> dict[str, str]:
            def found() -> dict[str, str] | None:
                now = cluster.ready("mcpserver", "own", NAMESPACE)
                return now if now and expected.items() <= now.items() else None

            return dict(wait_until(found, str(expected)))

        with kube_gateway(cluster, tmp_path / "before", f"--access={access}", envoy=False):
            assert f"--allow-token-urls {provider}oauth/token" in condition(reason="InvalidSpec")["message"]
        with kube_gateway(cluster, tmp_path / "g", f"--access={access}", f"--allow-token-urls={provider}oauth/") as running:
            assert "Secret mcp-test/client not found" in condition(reason="InvalidCredential")["message"]
            cluster.apply(secret(NAMESPACE, "client", token="s/cret+"))
            condition(status="True")
            for name in ("alice", "bob"):
                with Client(running.url, authorization=f"Bearer {logged_in(provider, name)}") as client:
                    wait_until(lambda client=client: succeeded(client.call("o_greet")), "a call")
                    assert person(provider, one.calls("tools/call")[-1].headers["authorization"]) == name
            cluster.apply(secret(NAMESPACE, "client", token="another"))
            wait_until(
                lambda: "secret" not in str(cluster.ready("mcpserver", "own", NAMESPACE)), "the status says no secret"
            )
            config = cluster.get("configmap", "mcp-gateway-config", "mcp-system")["data"]["config.yaml"]
            assert f"      tokenUrl: {provider}oauth/token" in config
            shown = config + running.sidecar.text + running.envoy.text + str(running.status())
            assert "s/cret+" not in shown
            with Client(running.url, authorization=f"Bearer {logged_in(provider, 'alice')}") as client:
                cluster.apply(*server_objects("own", one.port, "o_", tokenExchange={**exchange, "scope": "openid profile"}))
                refused = wait_until(
                    lambda: (a := answer(client.call("o_greet"))).get("error", {}).get("data", {}).get("reason") and a,
                    "the new secret is not the right one",
                )
                assert refused["error"]["data"]["reason"] == "Unauthorized"
        cluster.delete("mcpserver", "own", NAMESPACE)
