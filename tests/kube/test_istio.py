"""The gateway through a real Istio control plane.

It has the shipped EnvoyFilter, HTTPRoutes as users write them, and a plain Envoy.
"""

from __future__ import annotations

import base64
import copy
import json
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import trustme
import yaml

from tests.e2e.access.issuing import AUDIENCE, Issuer
from tests.e2e.conftest import quiet
from tests.e2e.stack import (
    PLAIN,
    PROGRAM,
    ROOT,
    SOURCE,
    Client,
    Process,
    answer,
    environment,
    free_ports,
    succeeded,
    wait_until,
)
from tests.kube.cluster import Cluster, secret
from tests.kube.istio import POD_IP, Istio
from tests.kube.objects import NAMESPACE, route, server_objects
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

    def install(self, *options: str) -> None:
        """Everything that is shipped, with the addresses of this machine."""
        for namespace in (GATEWAYS, NAMESPACE):
            self.cluster.kubectl("create", "namespace", namespace, check=False)
        command = [*PROGRAM, "manifests", "rbac", "istio", "--public-host", HOST, "--public-host", "127.0.0.1", *options]
        shipped = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
        shipped = shipped.replace("/run/mcpgw/router.sock", str(self.socket)).replace("9091", str(self.broker))
        documents = list(yaml.safe_load_all(shipped))
        for document in documents:
            if document["kind"] == "HTTPRoute":
                document["spec"]["hostnames"] = [HOST]
        listeners = [
            {
                "name": name,
                "hostname": host,
                "port": self.port,
                "protocol": "HTTP",
                "allowedRoutes": {"namespaces": {"from": "All"}},
            }
            for name, host in (("mcp", HOST), ("mcps", "*.mcp.local"))
        ]
        sample = next(yaml.safe_load_all((ROOT / "k8s/samples/2-gateway.yaml").read_text()))
        gateway = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "mcp-gateway", "namespace": GATEWAYS},
            "spec": {
                "gatewayClassName": "istio",
                "infrastructure": sample["spec"]["infrastructure"],
                "listeners": listeners,
            },
        }
        pod = endpoints("mcp-gateway-istio", self.port, GATEWAYS, {"address": POD_IP, "labels": LABELS})
        self.cluster.apply(pod, gateway, bound(self.port), *documents)

    def start_sidecar(self, *options: str, resolves: bool = True) -> Process:
        """With `resolves` it finds the Services of the cluster by itself, as in a pod."""
        kubeconfig = self.cluster.account(GATEWAYS, "mcp-gateway-istio")
        command = [*SOURCE, "run", "--kubernetes", "--namespace=mcp-system", f"--router-address=unix:{self.socket}"]
        command += [f"--broker-address=127.0.0.1:{self.broker}", f"--admin-address=127.0.0.1:{self.admin_port}"]
        command += ["--refresh-interval=1s", f"--public-host={HOST}", *options]
        env = {"KUBECONFIG": str(kubeconfig), **({"PYTHONPATH": RESOLVER} if resolves else {})}
        self.sidecar = Process(command, self.directory / "sidecar.log", **env)
        wait_until(lambda: PLAIN.get(f"{self.admin}/readyz").status_code == 200, "ready")
        return self.sidecar

    def settle(self) -> None:
        """Wait until Istio pushes nothing more: a cluster answers nothing while it is replaced."""

        def still() -> bool:
            pushes = self.istio.stat("update_success")
            quiet(1.0)
            return self.istio.stat("update_success") == pushes

        wait_until(still, "Istio has pushed everything")

    def client(self, **headers: str) -> Client:
        return Client(self.url, host=HOST, **headers)

    def stop(self) -> None:
        self.sidecar.stop()


def bound(port: int) -> dict[str, Any]:
    """Istio binds all interfaces; tests bind loopback."""
    bind = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    match = {"context": "GATEWAY", "listener": {"portNumber": port}}
    patch = {"applyTo": "LISTENER", "match": match, "patch": {"operation": "MERGE", "value": bind}}
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": f"loopback-{port}", "namespace": GATEWAYS},
        "spec": {"workloadSelector": {"labels": LABELS}, "configPatches": [patch]},
    }


@pytest.fixture(scope="module")
def running(
    cluster: Cluster, one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IstioGateway]:
    directory = tmp_path_factory.mktemp("istio")
    with Istio(cluster, directory) as istio:
        gateway = IstioGateway(cluster, istio, directory)
        try:
            cluster.apply(
                *server_objects("server1", one.port, prefix="test_"), *server_objects("server2", two.port, prefix="test2_")
            )
            for name, port in (("server1", one.port), ("server2", two.port)):
                cluster.apply(endpoints(name, port))
            yield gateway
        finally:
            gateway.stop()


def endpoints(
    name: str,
    port: int,
    namespace: str = NAMESPACE,
    endpoint: Mapping[str, Any] = MappingProxyType({"address": "127.0.0.1"}),
) -> dict[str, Any]:
    """The endpoint of a Service; no controller makes it, and no EndpointSlice may name loopback."""
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


@pytest.fixture
def client(running: IstioGateway) -> Iterator[Client]:
    def listed() -> Client | None:
        new_client = running.client()
        if hasattr(new_client, "session") and new_client.tools() == ["test2_hello_world", "test_greet", "test_time"]:
            return new_client
        new_client.close()
        return None

    with wait_until(listed, "a session through Istio's Envoy, and the tools of both servers") as found:
        wait_until(lambda: succeeded(found.call("test_greet")), "a call")
        wait_until(
            lambda: succeeded(found.call("test2_hello_world")), "a call to the other server, whose route Istio pushes, too"
        )
        yield found


@pytest.mark.duty("kube.istio")
def test_everything_shipped_is_accepted(running: IstioGateway, client: Client) -> None:
    del client  # it is there: Envoy has its configuration
    assert running.istio.stat("listener_manager.lds.update_success") > 0
    for stat in ("listener_manager.lds.update_rejected", "cluster_manager.cds.update_rejected", "rds.*update_rejected"):
        assert running.istio.stat(stat) == 0, stat
    text = json.dumps(running.istio.dump())
    for name in (
        "mcpgw_buffer",
        "mcpgw_router",
        "mcpgw_refusal",
        "mcpgw_calls",
        "mcpgw_messages",
        "mcpgw_heal",
        "mcpgw_passed",
    ):
        assert f'"name": "{name}"' in text, name


def test_istio_adds_the_sidecar_to_the_gateways_that_it_deploys(running: IstioGateway) -> None:
    """By the ConfigMap that the Gateway names: the Deployment is Istio's, with our container."""
    deployment = wait_until(lambda: running.cluster.get("deployment", "mcp-gateway-istio", GATEWAYS), "Istio's Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (sidecar,) = (each for each in spec["initContainers"] if each["name"] == "mcpgw-sidecar")
    assert sidecar["restartPolicy"] == "Always"
    assert "--kubernetes" in sidecar["args"]
    (proxy,) = (each for each in spec["containers"] if each["name"] == "istio-proxy")
    assert {"name": "mcpgw-run", "mountPath": "/run/mcpgw"} in proxy["volumeMounts"]
    assert {"istiod-ca-cert", "mcpgw-run"} & {each["name"] for each in spec["volumes"]} >= {"mcpgw-run"}
    assert deployment["spec"]["template"]["metadata"]["labels"]["istio"] == "ingressgateway"
    assert spec["serviceAccountName"] == "mcp-gateway-istio"


@pytest.mark.duty("kube.istio", "session.ids-hidden", "header.authority-path")
def test_two_servers_are_called(client: Client, one: ScriptedServer, two: ScriptedServer) -> None:
    answered = client.call("test_greet")
    assert answered.status_code == 200
    assert "mcp-session-id" not in answered.headers
    assert succeeded(client.call("test2_hello_world"))
    arrived = one.calls("tools/call")[-1].headers
    assert arrived["host"] == "server1.mcp.local"
    assert arrived["mcp-session-id"] in one.sessions
    assert not any(name.startswith("x-envoy-retr") for name in arrived)
    assert two.calls("tools/call")[-1].headers["mcp-session-id"] in two.sessions
    assert client.call("test_nope").json()["error"]["message"] == "Tool not found"


@pytest.mark.duty("security.fail-closed", "header.forged")
def test_nobody_goes_around_the_router(running: IstioGateway, client: Client, one: ScriptedServer) -> None:
    """The host of a server's route is the router's alone.

    Headers that only the router sets are removed from clients' requests.
    """
    one.requests.clear()
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    forged = {"x-mcp-servername": "mcp-test/server1-route"}
    for headers in ({"host": "server1.mcp.local"}, {"host": "server1.mcp.local", **forged}):
        answered = PLAIN.post(running.url, json=message, headers=headers)
        assert answered.status_code == 403, answered.text
    assert client.send({**message, "method": "tools/list"}, **forged).status_code == 200
    assert not one.calls("ping")
    assert all(request.headers["host"].endswith(f":{one.port}") for request in one.calls("tools/list"))  # the broker's own


@pytest.mark.duty("kube.istio")
def test_other_hosts_of_the_gateway_are_left_alone(running: IstioGateway, client: Client) -> None:
    """Whoever shares the listener gets Envoy's own answers, and no body of theirs is looked at."""
    del client
    answered = PLAIN.post(running.url, content=b"anything", headers={"host": "other.example.com"})
    assert answered.status_code == 404
    assert "jsonrpc" not in answered.text


@pytest.mark.duty("kube.istio", "header.to-server")
def test_credentials_reach_istios_policies_and_no_server_that_does_not_want_them(
    running: IstioGateway, client: Client, two: ScriptedServer
) -> None:
    deny = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-eve", "namespace": GATEWAYS},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "action": "DENY",
            "rules": [{"when": [{"key": "request.headers[authorization]", "values": ["Bearer eve"]}]}],
        },
    }
    running.cluster.apply(deny)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test2_hello_world"}}
    wait_until(lambda: client.send(call, authorization="Bearer eve").status_code == 403, "the policy")
    running.cluster.delete("authorizationpolicy", "no-eve", GATEWAYS)
    wait_until(lambda: succeeded(client.send(call, authorization="Bearer eve")), "no policy")
    for _ in range(3):
        assert succeeded(client.send(call, authorization="Bearer mine", cookie="a=b"))
        assert not {"authorization", "cookie", "x-mcp-passed", "x-forwarded-for"} & set(two.calls("tools/call")[-1].headers)

    def wanted(names: list[str]) -> None:
        objects = server_objects("server2", two.port, prefix="test2_", forwardHeaders=names)
        running.cluster.apply(objects[-1])

    wanted(["authorization"])

    def arrives() -> bool:
        assert succeeded(client.send(call, authorization="Bearer mine", cookie="a=b"))
        return two.calls("tools/call")[-1].headers.get("authorization") == "Bearer mine"

    wait_until(arrives, "the server wants it")
    assert arrives()
    assert "cookie" not in two.calls("tools/call")[-1].headers
    wanted([])
    wait_until(lambda: not arrives(), "the server does not want it any more")


@pytest.mark.duty("access.credentials", "kube.istio")
def test_calls_get_the_servers_credential(running: IstioGateway, client: Client, two: ScriptedServer) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test2_hello_world"}}
    running.sidecar.stop()
    running.start_sidecar(f"--secrets-in={NAMESPACE}")

    def arrives(expected: dict[str, str | None], **headers: str) -> bool:
        assert succeeded(client.send(call, **headers))
        found = two.calls("tools/call")[-1].headers
        return {name: found.get(name) for name in expected} == expected and not any("mcp-token" in name for name in found)

    def change(**spec: Any) -> None:
        running.cluster.apply(server_objects("server2", two.port, prefix="test2_", **spec)[-1])

    running.cluster.apply(secret(NAMESPACE, "calls", token="first key"))
    wait_until(lambda: succeeded(client.send(call)), "the sidecar is back")
    reference = {"credentialRef": {"name": "calls"}, "credentialHeader": "x-api-key"}
    change(**reference, credentialUse="always", forwardHeaders=["x-api-key"])
    wait_until(lambda: arrives({"x-api-key": "first key"}), "the credential")
    with running.client() as other:
        other.tools()
        for _ in range(4):  # the second client has another session, and what Envoy knows of the first does not serve it
            assert arrives({"x-api-key": "first key"}, x_api_key="forged")
            assert succeeded(other.send(call))
            assert two.calls("tools/call")[-1].headers.get("x-api-key") == "first key"
    two.sessions.clear()
    assert arrives({"x-api-key": "first key"}), "also with a session that is healed"
    running.cluster.apply(secret(NAMESPACE, "calls", token="second key"))
    wait_until(lambda: arrives({"x-api-key": "second key"}), "rotated")
    change(**reference, credentialUse="ifAbsent", forwardHeaders=[{"name": "x-mine", "as": "x-api-key"}])
    wait_until(lambda: arrives({"x-api-key": "of the client"}, x_mine="of the client"), "the client's own")
    for _ in range(3):
        assert arrives({"x-api-key": "second key"})
        assert arrives({"x-api-key": "of the client"}, x_mine="of the client")
    change(**reference, forwardHeaders=[])
    wait_until(lambda: arrives({"x-api-key": None}), "for discovery alone")
    assert "second key" not in running.sidecar.text
    change()


@pytest.mark.duty("kube.istio")
def test_a_listener_with_tls(running: IstioGateway, client: Client, one: ScriptedServer) -> None:
    """One without a host name: servers' routes are attached to it, too, and calls come by it."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "127.0.0.1")
    pair = {"tls.crt": issued.cert_chain_pems[0].bytes(), "tls.key": issued.private_key_pem.bytes()}
    data = {name: base64.b64encode(value).decode() for name, value in pair.items()}
    meta = {"name": "certificate", "namespace": GATEWAYS}
    cluster = running.cluster
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta, "data": data})
    (port,) = free_ports(1)
    gateway = cluster.get("gateway", "mcp-gateway", GATEWAYS)
    before, kind = gateway["spec"]["listeners"], {key: gateway[key] for key in ("apiVersion", "kind")}
    tls = {"mode": "Terminate", "certificateRefs": [{"name": "certificate"}]}
    listener = {"name": "tls", "port": port, "protocol": "HTTPS", "tls": tls, "allowedRoutes": before[0]["allowedRoutes"]}
    pod = endpoints("mcp-gateway-istio", running.port, GATEWAYS, {"address": POD_IP, "labels": LABELS})
    pod["spec"]["ports"].append({"number": port, "name": "https", "protocol": "HTTPS"})

    def apply(listeners: list[dict[str, Any]]) -> None:
        spec = {**gateway["spec"], "listeners": listeners}
        cluster.apply(bound(port), pod, {**kind, "metadata": {"name": "mcp-gateway", "namespace": GATEWAYS}, "spec": spec})

    apply([*before, listener])
    both = route("server1", "server1", one.port)
    both["spec"]["parentRefs"] += [{**both["spec"]["parentRefs"][0], "sectionName": "tls"}]
    cluster.apply(both)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def connected() -> Client | None:
        new = Client(f"https://127.0.0.1:{port}/mcp", verify=context, host=HOST)
        return new if hasattr(new, "session") and succeeded(new.call("test_greet")) else None

    with wait_until(connected, "calls by HTTPS") as secure:
        for _ in range(3):
            assert succeeded(secure.call("test_greet"))
        assert secure.tools() == client.tools()
        assert one.calls("tools/call")[-1].headers["host"] == "server1.mcp.local"
        assert secure.send({"jsonrpc": "2.0", "id": 1, "method": "ping"}, host="server1.mcp.local").status_code == 403
    cluster.apply(route("server1", "server1", one.port))
    apply(before)
    wait_until(lambda: succeeded(client.call("test_greet")), "as before")


@pytest.mark.duty("session.heal")
def test_a_session_that_a_server_forgot_is_healed(running: IstioGateway, client: Client, one: ScriptedServer) -> None:
    running.settle()
    assert succeeded(client.call("test_greet"))
    one.sessions.clear()
    calls = len(one.calls("tools/call"))
    assert succeeded(client.call("test_time"))
    assert len(one.calls("tools/call")) == calls + 2  # refused with 404, and once more in a new session


@pytest.mark.duty("security.local-sockets")
def test_only_envoy_asks_for_another_session(running: IstioGateway, client: Client, one: ScriptedServer) -> None:
    """Whoever reached the broker's port with a client's session got the sessions behind it."""
    running.settle()
    assert succeeded(client.call("test_greet"))
    session = one.calls("tools/call")[-1].headers["mcp-session-id"]
    for owner in ("", "mcp-test/server1-route:", "mcp-test/server1-route:AAAA"):
        asked = {
            "x-mcp-servername": "mcp-test/server1-route",
            "x-mcp-session": client.headers["mcp-session-id"],
            "x-mcp-owner": owner,
            "mcp-session-id": "made-up",
        }
        answered = PLAIN.post(f"http://127.0.0.1:{running.broker}/heal", headers=asked)
        assert (answered.status_code, session in answered.text) == (404, False)


@pytest.mark.duty("limits.calls")
def test_a_limit_of_the_operators_own(running: IstioGateway, client: Client) -> None:
    """It need not say when there is room again; what the client got was no JSON."""
    bucket = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    local = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
    config = {
        "@type": f"type.googleapis.com/{local}",
        "stat_prefix": "own",
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
    }
    router = {
        "filter": {
            "name": "envoy.filters.network.http_connection_manager",
            "subFilter": {"name": "envoy.filters.http.router"},
        }
    }
    patch = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "GATEWAY", "listener": {"filterChain": router}},
        "patch": {"operation": "INSERT_BEFORE", "value": {"name": "own-limit", "typed_config": config}},
    }
    running.cluster.apply(
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "own-limit", "namespace": GATEWAYS},
            "spec": {"workloadSelector": {"labels": LABELS}, "priority": 10, "configPatches": [patch]},
        }
    )

    error = wait_until(lambda: client.call("test_greet", 7).json().get("error"), "the limit")
    assert (error["code"], error["data"]) == (-32000, {"reason": "Limited"})
    running.cluster.delete("envoyfilter", "own-limit", GATEWAYS)
    wait_until(lambda: succeeded(client.call("test_greet")), "no limit")


@pytest.mark.duty("error.unreachable")
def test_a_server_that_is_gone(running: IstioGateway, client: Client) -> None:
    with ScriptedServer(tool("short")) as going:
        running.cluster.apply(*server_objects("server3", going.port, prefix="gone_"), endpoints("server3", going.port))
        wait_until(lambda: "gone_short" in client.tools(), "the third server")
        wait_until(lambda: succeeded(client.call("gone_short")), "a call")
    answered = client.call("gone_short", 7)
    error = answered.json()
    assert (answered.status_code, error["id"]) == (200, 7)
    assert "mcp-test/server3-route is unreachable" in error["error"]["message"]
    assert succeeded(client.call("test_greet"))
    for kind, name in (("mcpserver", "server3"), ("httproute", "server3-route"), ("service", "server3")):
        running.cluster.delete(kind, name, NAMESPACE)
    wait_until(lambda: "gone_short" not in client.tools(), "its tools have left")


@pytest.mark.duty("kube.through-gateway")
def test_the_sidecar_reaches_servers_by_the_gateway(running: IstioGateway, client: Client, one: ScriptedServer) -> None:
    """As calls do: for meshes where nobody else may, and nothing is listed that has no route."""
    through = f"--through-gateway=127.0.0.1:{running.port}"
    running.sidecar.stop()
    running.start_sidecar(through, resolves=False)

    def ready() -> Any:
        return running.cluster.ready("mcpserver", "server1", NAMESPACE)

    down = wait_until(lambda: (now := ready()).get("status") == "False" and now, "nobody may go around the router so far")
    assert "--through-gateway to `mcpgw-sidecar manifests`" in down["message"]
    running.install(through)
    wait_until(lambda: "test_greet" in client.tools(), "listed")
    one.requests.clear()
    wait_until(lambda: one.calls("tools/list"), "the next look")
    assert {each.headers["host"] for each in one.calls("tools/list")} == {"server1.mcp.local"}, "the way of calls"
    for _ in range(3):
        assert succeeded(client.call("test_greet"))
    with running.client() as other:
        assert succeeded(other.call("test_greet")), "a session with the server is opened that way, too"
    for forged in ({}, {"x-mcp-own": "x"}, {"x-mcp-own": ""}):
        headers = {"host": "server1.mcp.local", **forged}
        around = PLAIN.post(running.url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers=headers)
        assert around.status_code == 403, "another request from the pod itself, such as one that Envoy sends to itself"
    assert not one.calls("ping")
    forged = client.send(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test_greet"}}, x_mcp_own="x"
    )
    assert succeeded(forged), "decided like any other"
    assert not any("x-mcp-own" in each.headers for each in one.requests)
    for number in range(4):
        name = f"new{number}"
        with ScriptedServer(tool("short")) as new:
            running.cluster.apply(*server_objects(name, new.port, prefix=f"{name}_"), endpoints(name, new.port))
            wait_until(lambda name=name: f"{name}_short" in client.tools(), "a new server")
            assert succeeded(client.call(f"{name}_short")), "it is listed when a call reaches it"
        remove(running, name)
    running.sidecar.stop()
    running.start_sidecar()
    running.install()
    wait_until(lambda: succeeded(client.call("test_greet")), "as before")


def remove(running: IstioGateway, name: str) -> None:
    for kind, what in (("mcpserver", name), ("httproute", f"{name}-route"), ("service", name), ("serviceentry", name)):
        running.cluster.delete(kind, what, NAMESPACE)


@pytest.mark.duty("kube.route-refused")
@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"hostnames": ["refused.other.example"]}, "RouteRefused", "NoMatchingListenerHostname"),
        ({"sectionName": "nowhere"}, "RouteRefused", "NoMatchingParent"),
        ({"match": "/elsewhere"}, "NoMatchingRule", "matches POST /mcp"),
    ],
)
def test_a_route_that_istio_refuses(
    running: IstioGateway, client: Client, two: ScriptedServer, spec: dict[str, Any], reason: str, words: str
) -> None:
    """The tool was listed, and its call an empty 404, which ends a client's session."""
    service, good, server = server_objects("refused", two.port, prefix="refused_")
    bad = copy.deepcopy(good)
    bad["spec"]["parentRefs"][0]["sectionName"] = spec.get("sectionName", "mcps")
    bad["spec"]["hostnames"] = spec.get("hostnames", good["spec"]["hostnames"])
    if "match" in spec:
        bad["spec"]["rules"][0]["matches"] = [{"path": {"type": "PathPrefix", "value": spec["match"]}}]
    try:
        running.cluster.apply(service, bad, server, endpoints("refused", two.port))

        def ready() -> Any:
            return running.cluster.ready("mcpserver", "refused", NAMESPACE)

        condition = wait_until(lambda: (now := ready()).get("reason") == reason and now, reason)
        assert condition["status"] == "False"
        assert words in condition["message"]
        assert "refused_hello_world" not in client.tools()
        running.cluster.apply(good)
        wait_until(lambda: ready().get("status") == "True", "the route is mended")
        answered = wait_until(
            lambda: "refused_hello_world" in client.tools() and client.call("refused_hello_world"), "its tool is there"
        )
        assert answered.status_code == 200
        wait_until(lambda: succeeded(client.call("refused_hello_world")), "and is called")
    finally:
        remove(running, "refused")
    wait_until(lambda: "refused_hello_world" not in client.tools(), "its tools have left")


@pytest.mark.duty("kube.route-refused")
def test_a_call_without_a_route_is_never_404(running: IstioGateway, client: Client, two: ScriptedServer) -> None:
    """While a route is deleted Istio's Envoy has none for calls that were decided before."""
    running.cluster.apply(*server_objects("leaves", two.port, prefix="leaves_"), endpoints("leaves", two.port))
    wait_until(lambda: "leaves_hello_world" in client.tools(), "the server")
    wait_until(lambda: succeeded(client.call("leaves_hello_world")), "a call")
    running.sidecar.signal(signal.SIGSTOP)  # so that the router knows the server as long as Envoy's memo does
    try:
        running.cluster.delete("httproute", "leaves-route", NAMESPACE)
        quiet(0.5)
    finally:
        running.sidecar.signal(signal.SIGCONT)
    seen = set()
    for number in range(60):
        answered = client.call("leaves_hello_world", number)
        assert answered.status_code == 200
        document = answer(answered)
        assert document["id"] == number
        seen.add(document.get("error", {}).get("message", "")[:30])
        quiet(0.05)
    assert seen & {"No route of the gateway leads t", "Tool not found"}
    remove(running, "leaves")


@pytest.mark.duty("transport.body-413")
def test_a_body_that_is_too_large(client: Client) -> None:
    answered = client.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "x" * (5 << 20)}}))
    assert answered.status_code == 413
    assert answered.json()["error"]["message"].startswith("Request body too large")


@pytest.mark.duty("error.sidecar-503", "session.restart")
def test_the_sidecar_is_down_and_comes_back(running: IstioGateway, client: Client) -> None:
    assert succeeded(client.call("test_greet"))
    running.sidecar.signal(signal.SIGKILL)
    running.sidecar.stop()
    # Until then Envoy goes by what it remembers: in Istio that is for a second.
    answered = wait_until(
        lambda: (response := client.call("test_greet")).status_code == 503 and response, "the router is missed"
    )
    assert "sidecar is not running" in answered.json()["error"]["message"]
    running.start_sidecar()
    wait_until(lambda: succeeded(client.call("test_greet")), "the same session goes on")
    assert client.tools() == ["test2_hello_world", "test_greet", "test_time"]


@pytest.mark.duty("ask.answer-returns")
def test_a_server_asks_its_client(running: IstioGateway, client: Client, one: ScriptedServer) -> None:
    """Requests of servers name server and session, so the client's answer gets back to them."""
    del client
    requests: list[Any] = []

    def ask(handler: Any, message: Any) -> bool:
        question = {
            "jsonrpc": "2.0",
            "id": 77,
            "method": "elicitation/create",
            "params": {"message": "?", "requestedSchema": {}},
        }
        result = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        for each in (question, result):
            handler.wfile.write(f"data: {json.dumps(each)}\n\n".encode())
        return True

    one.answers["tools/call"] = ask
    try:
        with running.client(capabilities={"elicitation": {}}) as asked:
            answered = asked.call("test_greet")
            events = [json.loads(line[5:]) for line in answered.text.splitlines() if line.startswith("data:")]
            assert events[0]["id"].startswith("mcpgw:mcp-test/server1-route:")
            back = {"jsonrpc": "2.0", "id": events[0]["id"], "result": {"action": "decline"}}
            assert asked.send(back).status_code == 202
            requests = [request.json for request in one.requests if request.method == "" and request.body]
    finally:
        del one.answers["tools/call"]
    assert requests[-1] == {"jsonrpc": "2.0", "id": 77, "result": {"action": "decline"}}


def request_authentication(issuer: Issuer) -> dict[str, Any]:
    """As docs/access.md has it, with the keys in it: Istio's own fetcher would need an address."""
    rule = {
        "issuer": issuer.name,
        "audiences": [AUDIENCE, "looked at by the sidecar"],
        "jwks": issuer.jwks(),
        "forwardOriginalToken": True,
        "outputPayloadToHeader": "x-mcp-claims",
        "outputClaimToHeaders": [{"header": "x-mcp-subject", "claim": "sub"}],
    }
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "agents", "namespace": GATEWAYS},
        "spec": {"selector": {"matchLabels": {"istio": "ingressgateway"}}, "jwtRules": [rule]},
    }


@pytest.mark.duty("access.istio", "access.configmap")
def test_callers_log_in_and_istio_verifies_their_tokens(running: IstioGateway, client: Client, one: ScriptedServer) -> None:
    """The last test of this module: from now on nobody is served without a token."""
    assert succeeded(client.call("test_greet"))
    place = f"configmap:{GATEWAYS}/access"
    running.install("--request-authentication", f"--access={place}")
    running.sidecar.stop()
    with pytest.raises(AssertionError):
        running.start_sidecar(f"--access={place}")
    with Issuer() as issuer:
        login = {"verifiedBy": "istio", "issuers": [{"issuer": issuer.name, "audiences": [AUDIENCE]}]}
        rules = [{"servers": [f"{NAMESPACE}/server1*"], "allow": [{"groups": ["agents"]}]}]
        document = yaml.safe_dump({"authentication": login, "authorization": rules})
        meta = {"name": "access", "namespace": GATEWAYS}
        running.cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"access.yaml": document}})
        wait_until(lambda: PLAIN.get(f"{running.admin}/readyz").status_code == 200, "the document is there")
        assert running.client().initialized.status_code == 401, "as long as Istio verifies nothing, nobody is known"
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        inside = PLAIN.post(running.url, json=message, headers={"host": "server1.mcp.local"})
        assert inside.status_code == 403, "and nobody comes around the router"
        running.cluster.apply(request_authentication(issuer))

        def with_token(**claims: Any) -> Client:
            return running.client(authorization=f"Bearer {issuer.token(**claims)}")

        wait_until(lambda: with_token().initialized.status_code == 200, "Istio verifies tokens")
        running.settle()
        refused = running.client(x_mcp_claims="eyJzdWIiOiJhbGljZSJ9", x_mcp_subject="alice").initialized
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, -32001)
        assert refused.headers["www-authenticate"].startswith(f'Bearer resource_metadata="http://{HOST}/.well-known/')
        bad = running.client(authorization=f"Bearer {issuer.token()[:-6]}AAAAAA").initialized
        assert (bad.status_code, bad.json()["id"]) == (401, None)
        place = f"http://127.0.0.1:{running.port}/.well-known/oauth-protected-resource/mcp"
        assert PLAIN.get(place, headers={"host": HOST}).json()["authorization_servers"] == [issuer.name]
        other = {"authorization": f"Bearer {issuer.token(aud='another')}", "host": HOST}
        for method in ("GET", "DELETE"):
            refused = PLAIN.request(method, running.url, headers=other)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, -32001)
        for claims in (
            {"aud": "another"},
            {"aud": "looked at by the sidecar"},
            {"iss": "https://other.example"},
            {"exp": 1},
            {"sub": None},
        ):
            assert with_token(**claims).initialized.status_code == 401, claims
        with with_token(groups=["agents"]) as agent, with_token(sub="bob") as bob:
            assert (agent.tools(), bob.tools()) == (["test_greet", "test_time"], [])
            one.requests.clear()
            for _ in range(3):
                assert succeeded(agent.call("test_greet"))
                assert answer(bob.call("test_greet"))["error"]["message"] == "Tool not found"
            assert len(one.calls("tools/call")) == 3
            assert not {"authorization", "x-mcp-claims", "x-mcp-subject"} & one.calls("tools/call")[-1].headers.keys()
            stolen = agent.send(
                {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, authorization=bob.headers["authorization"]
            )
            assert stolen.status_code == 404
            assert agent.send({"jsonrpc": "2.0", "id": 1, "method": "ping"}, authorization="").status_code == 401
        assert PLAIN.get(f"{running.admin}/status").json()["authentication"] == {
            "issuers": [{"issuer": issuer.name, "keys": None, "error": None}]
        }
