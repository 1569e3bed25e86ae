"""The API server asks the webhook, and stores pods with the sidecar in them.

Certificates are made, trusted and replaced.
"""

from __future__ import annotations

import base64
import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from mcpgw_sidecar.kube.authority import make_authority
from tests.e2e.stack import PROGRAM, Process, environment, free_ports, wait_until
from tests.kube.cluster import Cluster
from tests.kube.conftest import shipped
from tests.kube.gateway import SYSTEM

CONFIGURATION = ("mutatingwebhookconfiguration", "mcpgw-sidecar")
CA = ("secret", "mcpgw-sidecar-webhook-ca", SYSTEM)


class Webhook:
    """The webhook as a process with the rights that are shipped for it."""

    def __init__(self, cluster: Cluster, directory: Path, port: int) -> None:
        self.cluster, self.directory, self.port = cluster, directory, port
        self.url = f"https://localhost:{port}"
        kubeconfig = cluster.account(SYSTEM, "mcpgw-sidecar-webhook")
        command = [*PROGRAM, "webhook", f"--webhook-address=127.0.0.1:{port}", "--image=registry.example/mcpgw:1"]
        self.process = Process([*command, "--public-host=gw.example.com"], directory / "log", KUBECONFIG=str(kubeconfig))
        wait_until(self.healthy, "the webhook")

    def bundle(self) -> str:
        hooks = self.cluster.get(*CONFIGURATION)["webhooks"]
        bundles = {hook["clientConfig"].get("caBundle", "") for hook in hooks}
        assert len(bundles) == 1
        return base64.b64decode(bundles.pop()).decode()

    def healthy(self) -> bool:
        """As the API server asks: with the caBundle as the only thing that is trusted."""
        assert self.process.popen.poll() is None, self.process.text
        context = ssl.create_default_context(cadata=self.bundle() or None)
        return httpx2.get(f"{self.url}/healthz", verify=context, trust_env=False).status_code == 200

    def post(self, body: bytes, path: str = "/inject") -> httpx2.Response:
        context = ssl.create_default_context(cadata=self.bundle())
        return httpx2.post(f"{self.url}{path}", content=body, verify=context, trust_env=False)

    def stop(self) -> None:
        self.process.stop()


@pytest.fixture(scope="module")
def webhook(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    port = free_ports(1)[0]
    documents = list(yaml.safe_load_all(shipped("webhook")))
    for document in documents:
        for hook in document.get("webhooks", ()):  # the same, at an address of this machine
            hook["clientConfig"] = {"url": f"https://localhost:{port}{hook['clientConfig']['service']['path']}"}
    cluster.apply(*documents)
    new_webhook = Webhook(cluster, tmp_path_factory.mktemp("webhook"), port)
    for namespace, labels in (("asks", {"mcpgw.dev/inject": "enabled"}), ("silent", {})):
        meta = {"name": namespace, "labels": labels}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    try:
        yield new_webhook
    finally:
        new_webhook.stop()


def pod(name: str, namespace: str, container: str = "istio-proxy", **labels: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, "labels": {key.replace("__", "/"): value for key, value in labels.items()}}
    containers = [{"name": container, "image": "auto"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": containers}}


def made(cluster: Cluster, document: dict[str, Any]) -> dict[str, Any]:
    cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(document))
    stored_pod: dict[str, Any] = cluster.get("pod", document["metadata"]["name"], document["metadata"]["namespace"])
    return stored_pod


def sidecars(stored_pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in stored_pod["spec"].get("initContainers", []) if each["name"] == "mcpgw-sidecar"]


@pytest.mark.duty("kube.webhook")
def test_a_pod_in_a_namespace_that_asks(cluster: Cluster, webhook: Webhook) -> None:
    del webhook
    document = made(cluster, pod("gateway", "asks"))
    (sidecar,) = sidecars(document)
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"] == "registry.example/mcpgw:1"
    assert "--public-host=gw.example.com" in sidecar["args"]
    security = sidecar["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsNonRoot"] is True
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= set(sidecar)
    assert sidecar["resources"]["limits"]["memory"]
    volume = {"name": "mcpgw-run", "mountPath": "/run/mcpgw"}
    assert volume in document["spec"]["containers"][0]["volumeMounts"]
    assert volume in sidecar["volumeMounts"]
    assert any(each["name"] == "mcpgw-run" for each in document["spec"]["volumes"])
    assert document["metadata"]["annotations"]["mcpgw.dev/injected"]


@pytest.mark.duty("kube.webhook")
def test_labels_of_pods(cluster: Cluster, webhook: Webhook) -> None:
    assert sidecars(made(cluster, pod("asking", "silent", mcpgw__dev="x", **{"mcpgw.dev__inject": "enabled"})))
    assert not sidecars(made(cluster, pod("not-asking", "silent")))
    assert not sidecars(made(cluster, pod("refusing", "asks", **{"mcpgw.dev__inject": "disabled"})))
    assert not sidecars(made(cluster, pod("no-envoy", "asks", container="app")))
    wrong = cluster.kubectl(
        "create", "-f", "-", stdin=yaml.safe_dump(pod("wrong", "silent", container="app", **{"mcpgw.dev__inject": "enabled"})), check=False
    )  # fmt: skip
    assert "no sidecar: it has no container istio-proxy or envoy" in wrong  # as a warning, and the pod is there
    assert cluster.get("pod", "wrong", "silent")
    assert "Sidecar not injected" in webhook.process.text


def test_a_plain_envoy(cluster: Cluster, webhook: Webhook) -> None:
    del webhook
    document = made(cluster, pod("plain", "asks", container="envoy"))
    assert document["spec"]["containers"][0]["args"] == ["-c", "/run/mcpgw/envoy/bootstrap.yaml"]
    assert "--envoy-dir=/run/mcpgw/envoy" in sidecars(document)[0]["args"]


@pytest.mark.duty("kube.webhook", "cli.inject")
def test_what_was_injected_by_hand_is_not_injected_twice(cluster: Cluster, webhook: Webhook) -> None:
    del webhook
    command = [*PROGRAM, "inject", "--image=registry.example/mcpgw:1", "--public-host=gw.example.com"]
    text = yaml.safe_dump(pod("by-hand", "asks"))
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=environment()).stdout
    assert len(sidecars(made(cluster, yaml.safe_load(done)))) == 1


def test_reviews_that_are_none(webhook: Webhook) -> None:
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"request": 7}',
        b'{"request": {"uid": "x"}}',
        b'{"request": {"uid": "x", "object": 7}}',
    ):
        assert webhook.post(body).status_code == 400, body
    assert webhook.post(b"{}", "/elsewhere").status_code == 404
    assert webhook.post(b"x" * (9 << 20)).status_code == 413
    review = {"request": {"uid": "u", "object": {"metadata": {}, "spec": {}}}}
    assert webhook.post(json.dumps(review).encode()).json()["response"] == {"uid": "u", "allowed": True}
    assert webhook.healthy()


def test_the_authority_is_replaced_before_its_end(cluster: Cluster, webhook: Webhook) -> None:
    """With a third of its life left, it is replaced; the old one stays in the bundle."""
    old = make_authority(datetime.now(UTC) - timedelta(days=300))
    values = {"tls.crt": old.certificate, "tls.key": old.key, "ca.crt": old.certificate}
    data = {key: base64.b64encode(value).decode() for key, value in values.items()}
    cluster.kubectl("patch", "secret", CA[1], "-n", SYSTEM, "--type=merge", "-p", json.dumps({"data": data}))

    def replaced() -> bool:
        bundle = webhook.bundle()
        return bundle.count("BEGIN CERTIFICATE") == 2 and old.certificate.decode() in bundle

    wait_until(replaced, "both are trusted")
    wait_until(webhook.healthy, "it serves with the new one")
    assert sidecars(made(cluster, pod("after-rotation", "asks")))


def test_a_bundle_that_was_overwritten(cluster: Cluster, webhook: Webhook) -> None:
    """As by applying the manifests again."""
    documents = cluster.get(*CONFIGURATION)
    for hook in documents["webhooks"]:
        hook["clientConfig"]["caBundle"] = ""
    cluster.kubectl("replace", "-f", "-", stdin=json.dumps(documents))
    wait_until(lambda: webhook.bundle() and webhook.healthy(), "trusted again")


def test_an_authority_that_cannot_be_used_is_replaced(cluster: Cluster, webhook: Webhook) -> None:
    before = cluster.get(*CA)["data"]["tls.crt"]
    cluster.kubectl("patch", "secret", CA[1], "-n", SYSTEM, "--type=merge", "-p", '{"data": {"tls.key": "eA=="}}')
    wait_until(lambda: cluster.get(*CA)["data"]["tls.crt"] not in {before, "eA=="}, "a new one")
    wait_until(webhook.healthy, "it serves")


def test_two_replicas_share_one_authority(cluster: Cluster, webhook: Webhook, tmp_path: Path) -> None:
    second = Webhook(cluster, tmp_path, free_ports(1)[0])
    try:
        assert second.healthy()
        assert webhook.healthy()
    finally:
        second.stop()


def test_it_fails_closed_when_it_is_down_and_drains(cluster: Cluster, webhook: Webhook) -> None:
    webhook.process.signal(signal.SIGTERM)
    assert webhook.process.wait() == 0
    refused = cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(pod("late", "asks")), check=False)
    assert "failed calling webhook" in refused
    assert not sidecars(made(cluster, pod("others", "silent")))  # whoever did not ask is not held up
