"""The admission webhook in the cluster: pods that ask for it by label, theirs or their namespace's, get the sidecar.

`failurePolicy: Fail`: only pods that opted in are asked about, and a gateway pod without its sidecar would answer every call with
503; it is better not started. Two replicas and the API server's retry keep that from happening. Who prefers a gateway without the
sidecar sets Ignore.
"""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.manifests.rights import WEBHOOK
from mcpgw_sidecar.manifests.sidecar import INJECT_LABEL, Sidecar

PORT = 9443
PATH = "/inject"
Document = dict[str, Any]


def webhook(sidecar: Sidecar) -> list[Document]:
    """Deployment, Service and MutatingWebhookConfiguration; the webhook fills in its own caBundle."""
    labels = {"app.kubernetes.io/name": WEBHOOK}
    meta = {"name": WEBHOOK, "namespace": sidecar.namespace, "labels": labels}
    probe = {"path": "/healthz", "port": PORT, "scheme": "HTTPS"}
    container = {
        "name": PROGRAM,
        "image": sidecar.image,
        "args": [
            "webhook",
            f"--image={sidecar.image}",
            f"--namespace={sidecar.namespace}",
            *(f"--public-host={host}" for host in sidecar.public_hosts),
            *([f"--envoy-container={sidecar.envoy_container}"] if sidecar.envoy_container else []),
            f"--max-body={sidecar.max_body}",
        ],
        "ports": [{"name": "webhook", "containerPort": PORT}],
        "readinessProbe": {"httpGet": probe, "periodSeconds": 2},
        "livenessProbe": {"httpGet": probe, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {"serviceAccountName": WEBHOOK, "containers": [container]}
    # Without the label a namespace that asks for the sidecar would have the webhook wait for itself.
    template = {"metadata": {"labels": {**labels, INJECT_LABEL: "disabled"}}, "spec": pod}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    ports = [{"name": "webhook", "port": 443, "targetPort": "webhook"}]
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}},
        configuration({"service": {"name": WEBHOOK, "namespace": sidecar.namespace, "path": PATH}}),
    ]


def configuration(client: dict[str, Any]) -> Document:
    """The MutatingWebhookConfiguration; `client` says where the webhook is."""
    asked = {"key": INJECT_LABEL, "operator": "In", "values": ["enabled"]}
    not_asked = {"key": INJECT_LABEL, "operator": "NotIn", "values": ["enabled"]}
    refused = {"key": INJECT_LABEL, "operator": "NotIn", "values": ["disabled"]}
    selectors = {
        "namespace": {"namespaceSelector": _where(asked), "objectSelector": _where(refused)},
        "pod": {"namespaceSelector": _where(not_asked), "objectSelector": _where(asked)},
    }
    pods = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": PROGRAM},
        "webhooks": [
            {
                "name": f"{which}.inject.mcpgw.dev",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "reinvocationPolicy": "IfNeeded",  # Istio's own webhook may bring Envoy's container after us
                "failurePolicy": "Fail",
                "timeoutSeconds": 5,
                "clientConfig": client,
                "rules": [pods],
                **selector,
            }
            for which, selector in selectors.items()
        ],
    }


def _where(*expressions: dict[str, Any]) -> dict[str, Any]:
    return {"matchExpressions": list(expressions)}
