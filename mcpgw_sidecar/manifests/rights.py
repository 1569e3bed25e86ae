"""RBAC: the least rights that the sidecar, one that follows a ConfigMap, and the webhook need. A test takes each one away in turn."""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.resources.kinds import (
    CONFIG_MAP_NAME,
    GATEWAY_GROUP,
    GROUP,
    LEASE,
    LEASE_NAME,
    SESSION_KEY_NAME,
    WEBHOOK_CA_NAME,
)

CREDENTIALS, FOLLOWER, WEBHOOK = f"{PROGRAM}-credentials", f"{PROGRAM}-follower", f"{PROGRAM}-webhook"
_RBAC = "rbac.authorization.k8s.io"
Document = dict[str, Any]
_WATCH = ["list", "watch"]


def sidecar_rights(namespace: str, accounts: tuple[tuple[str, str], ...]) -> list[Document]:
    """For the service accounts (namespace, name) of gateway pods; `namespace` is where the sidecars share what they share."""
    everywhere = [
        _rule(GROUP, ["mcpservers", "mcpvirtualservers"], _WATCH),
        _rule(GROUP, ["mcpservers/status", "mcpvirtualservers/status"], ["patch"]),
        _rule(GATEWAY_GROUP, ["httproutes", "referencegrants"], _WATCH),
        _rule(GATEWAY_GROUP, ["httproutes/status"], ["patch"]),
        _rule("", ["services"], _WATCH),
        _rule("", ["events"], ["create"]),
    ]
    shared = [
        _rule(LEASE.group, ["leases"], ["get", "update"], LEASE_NAME),
        _rule(LEASE.group, ["leases"], ["create"]),  # create cannot be bound to a name
        _rule("", ["configmaps"], [*_WATCH, "patch"], CONFIG_MAP_NAME),
        _rule("", ["configmaps"], ["create"]),
        # The Secret itself is among the manifests, empty: whoever may create Secrets here could make himself a token of any account.
        _rule("", ["secrets"], [*_WATCH, "patch"], SESSION_KEY_NAME),
    ]
    return [
        _secret(SESSION_KEY_NAME, namespace),
        _role("ClusterRole", PROGRAM, None, everywhere),
        # Apart, to be left out or bound by namespace: RBAC knows no labels, so this reads every Secret that it is bound for.
        _role("ClusterRole", CREDENTIALS, None, [_rule("", ["secrets"], _WATCH)]),
        _role("Role", PROGRAM, namespace, shared),
        _binding("ClusterRole", PROGRAM, None, accounts),
        _binding("ClusterRole", CREDENTIALS, None, accounts),
        _binding("Role", PROGRAM, namespace, accounts),
        _role(
            "Role",
            FOLLOWER,
            namespace,
            [_rule("", ["configmaps"], _WATCH, CONFIG_MAP_NAME), _rule("", ["secrets"], _WATCH, SESSION_KEY_NAME)],
        ),
    ]


def webhook_rights(namespace: str) -> list[Document]:
    """For the webhook's own service account."""
    account = ((namespace, WEBHOOK),)
    own = [_rule("", ["secrets"], ["get", "update"], WEBHOOK_CA_NAME)]
    bundle = [_rule("admissionregistration.k8s.io", ["mutatingwebhookconfigurations"], ["get", "patch"], PROGRAM)]
    return [
        _secret(WEBHOOK_CA_NAME, namespace),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": WEBHOOK, "namespace": namespace}},
        _role("Role", WEBHOOK, namespace, own),
        _role("ClusterRole", WEBHOOK, None, bundle),
        _binding("Role", WEBHOOK, namespace, account),
        _binding("ClusterRole", WEBHOOK, None, account),
    ]


def _secret(name: str, namespace: str) -> Document:
    """One that is filled in by whoever needs it first."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _meta(name, namespace), "type": "Opaque"}


def _rule(group: str, kinds: list[str], verbs: list[str], name: str | None = None) -> Document:
    named = {"resourceNames": [name]} if name is not None else {}
    return {"apiGroups": [group], "resources": kinds, **named, "verbs": verbs}


def _role(kind: str, name: str, namespace: str | None, rules: list[Document]) -> Document:
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": _meta(name, namespace), "rules": rules}


def _binding(kind: str, name: str, namespace: str | None, accounts: tuple[tuple[str, str], ...]) -> Document:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": _meta(name, namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": where, "name": account} for where, account in accounts],
    }


def _meta(name: str, namespace: str | None) -> Document:
    return {"name": name, **({"namespace": namespace} if namespace is not None else {})}
