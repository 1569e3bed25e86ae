"""The manifests of the admission webhook.

Pods with a label, their own or their namespace's, get the sidecar.

`failurePolicy` is Fail: the API server asks only about pods that opted in, and a gateway pod
without its sidecar would answer every call with 503, so it had better not start. Two replicas and
the API server's retry make a failure rare. A user who prefers a gateway without the sidecar sets
Ignore.
"""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.manifests.container import Sidecar
from mcpgw_sidecar.manifests.rights import WEBHOOK
from mcpgw_sidecar.manifests.sidecar import INJECT_LABEL

PORT = 9443
PATH = "/inject"
Document = dict[str, Any]


def webhook(sidecar: Sidecar) -> list[Document]:
    """Deployment, Service and MutatingWebhookConfiguration.

    The webhook itself fills in the caBundle.
    """
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
    # Without the label, in a namespace that opted in, the webhook's pods would wait for the
    # webhook.
    template = {"metadata": {"labels": {**labels, INJECT_LABEL: "disabled"}}, "spec": pod}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    ports = [{"name": "webhook", "port": 443, "targetPort": "webhook"}]
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}},
        configuration({"service": {"name": WEBHOOK, "namespace": sidecar.namespace, "path": PATH}}),
    ]


def configuration(client: dict[str, Any]) -> Document:
    """The MutatingWebhookConfiguration; `client` is the address of the webhook."""
    is_enabled = {"key": INJECT_LABEL, "operator": "In", "values": ["enabled"]}
    is_not_enabled = {"key": INJECT_LABEL, "operator": "NotIn", "values": ["enabled"]}
    is_not_disabled = {"key": INJECT_LABEL, "operator": "NotIn", "values": ["disabled"]}
    selectors = {
        "namespace": {"namespaceSelector": _selector(is_enabled), "objectSelector": _selector(is_not_disabled)},
        "pod": {"namespaceSelector": _selector(is_not_enabled), "objectSelector": _selector(is_enabled)},
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
                # Istio's own webhook may add Envoy's container after ours.
                "reinvocationPolicy": "IfNeeded",
                "failurePolicy": "Fail",
                "timeoutSeconds": 5,
                "clientConfig": client,
                "rules": [pods],
                **selector,
            }
            for which, selector in selectors.items()
        ],
    }


def _selector(*expressions: dict[str, Any]) -> dict[str, Any]:
    return {"matchExpressions": list(expressions)}
