"""RBAC: the least rights of the sidecar, of a sidecar that follows a ConfigMap, and of the webhook.

A test takes each right away in turn.
"""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.resources.kinds import (
    CONFIG_MAP_NAME,
    EVERYWHERE,
    GATEWAY_GROUP,
    GROUP,
    LEASE,
    LEASE_NAME,
    SESSION_KEY_NAME,
    WEBHOOK_CA_NAME,
)
from mcpgw_sidecar.resources.objects import Ref

CREDENTIALS, FOLLOWER, WEBHOOK = f"{PROGRAM}-credentials", f"{PROGRAM}-follower", f"{PROGRAM}-webhook"
ACCESS = f"{PROGRAM}-access"
_RBAC = "rbac.authorization.k8s.io"
Document = dict[str, Any]
_WATCH = ["list", "watch"]


def sidecar_rights(
    namespace: str,
    accounts: tuple[tuple[str, str], ...],
    secrets_in: tuple[str, ...] = (),
    access: Ref | None = None,
) -> list[Document]:
    """The rights of the service accounts (namespace, name) of gateway pods.

    The sidecars share a Lease, a ConfigMap and a Secret in `namespace`, and read the Secrets of the
    namespaces `secrets_in`, and the ConfigMap `access`.
    """
    credentials = [None] if EVERYWHERE in secrets_in else [*dict.fromkeys(secrets_in)]
    everywhere = [
        _rule(GROUP, ["mcpservers", "mcpvirtualservers", "mcpaccesspolicies"], _WATCH),
        _rule(GROUP, ["mcpservers/status", "mcpvirtualservers/status", "mcpaccesspolicies/status"], ["patch"]),
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
        # The manifests hold the Secret, empty, so that the sidecar need not create one: the right
        # to create Secrets here is the right to make a token for any account.
        _rule("", ["secrets"], [*_WATCH, "patch"], SESSION_KEY_NAME),
    ]
    return [
        _secret(SESSION_KEY_NAME, namespace),
        _role("ClusterRole", PROGRAM, None, everywhere),
        # RBAC knows no labels, so this role may read every Secret of a namespace where it is bound.
        _role("ClusterRole", CREDENTIALS, None, [_rule("", ["secrets"], _WATCH)]),
        _role("Role", PROGRAM, namespace, shared),
        _binding("ClusterRole", PROGRAM, None, accounts),
        *(_binding("ClusterRole", CREDENTIALS, each, accounts) for each in credentials),
        _binding("Role", PROGRAM, namespace, accounts),
        _role(
            "Role",
            FOLLOWER,
            namespace,
            [_rule("", ["configmaps"], _WATCH, CONFIG_MAP_NAME), _rule("", ["secrets"], _WATCH, SESSION_KEY_NAME)],
        ),
        *(_access_rights(access, accounts) if access is not None else ()),
    ]


def _access_rights(access: Ref, accounts: tuple[tuple[str, str], ...]) -> list[Document]:
    rules = [_rule("", ["configmaps"], _WATCH, access.name)]
    return [_role("Role", ACCESS, access.namespace, rules), _binding("Role", ACCESS, access.namespace, accounts)]


def webhook_rights(namespace: str) -> list[Document]:
    """The rights of the webhook's service account."""
    account = ((namespace, WEBHOOK),)
    secret_rules = [_rule("", ["secrets"], ["get", "update"], WEBHOOK_CA_NAME)]
    webhook_rules = [_rule("admissionregistration.k8s.io", ["mutatingwebhookconfigurations"], ["get", "patch"], PROGRAM)]
    return [
        _secret(WEBHOOK_CA_NAME, namespace),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": WEBHOOK, "namespace": namespace}},
        _role("Role", WEBHOOK, namespace, secret_rules),
        _role("ClusterRole", WEBHOOK, None, webhook_rules),
        _binding("Role", WEBHOOK, namespace, account),
        _binding("ClusterRole", WEBHOOK, None, account),
    ]


def _secret(name: str, namespace: str) -> Document:
    """An empty Secret, which the first process that needs it fills in."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _meta(name, namespace), "type": "Opaque"}


def _rule(group: str, kinds: list[str], verbs: list[str], name: str | None = None) -> Document:
    resource_names = {"resourceNames": [name]} if name is not None else {}
    return {"apiGroups": [group], "resources": kinds, **resource_names, "verbs": verbs}


def _role(kind: str, name: str, namespace: str | None, rules: list[Document]) -> Document:
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": _meta(name, namespace), "rules": rules}


def _binding(kind: str, name: str, namespace: str | None, accounts: tuple[tuple[str, str], ...]) -> Document:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding" if namespace is not None else "ClusterRoleBinding",
        "metadata": _meta(name, namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": name},
        "subjects": [
            {"kind": "ServiceAccount", "namespace": account_namespace, "name": account}
            for account_namespace, account in accounts
        ],
    }


def _meta(name: str, namespace: str | None) -> Document:
    return {"name": name, **({"namespace": namespace} if namespace is not None else {})}
