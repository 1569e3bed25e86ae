"""The status of our resources, and of HTTPRoutes.

A status is written only when it differs from the one in the object.

`now` is a time as the API writes it (RFC 3339). It becomes the `lastTransitionTime` of a condition
whose status changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from mcpgw_sidecar.model.statuses import ServerStatus
from mcpgw_sidecar.resources.address import PENDING
from mcpgw_sidecar.resources.kinds import CONTROLLER, MCP_SERVER
from mcpgw_sidecar.resources.objects import HttpRoute, PolicyObject, Raw, Ref, VirtualServerObject
from mcpgw_sidecar.resources.resolve import Row

MAX_MESSAGE = 1024  # characters (the API takes 32,768): a person reads it
MAX_PARENTS = 32  # of a route's status.parents (Gateway API)
_SHOWN = 5  # names that a message lists
Document = dict[str, Any]


@attrs.frozen(kw_only=True)
class ConditionContent:
    """Status, reason and message of a condition."""

    status: str
    reason: str
    message: str


def judge(row: Row, broker_status: ServerStatus | None) -> ConditionContent | None:
    """The Ready condition of an MCPServer: the problem of the object, else its server's health.

    `broker_status` is what the broker knows of the server. Returns None before the broker has tried
    it.
    """
    if row.problem is not None:
        status = "Unknown" if row.problem.reason == PENDING else "False"
        return ConditionContent(status=status, reason=row.problem.reason, message=row.problem.message)
    if broker_status is None or not broker_status.health.tried:
        return None
    health = broker_status.health
    if not health.ready:
        hint = f": check that the pods behind {row.server.url if row.server else ''} are ready and serve MCP there"
        more = hint if health.reason in {"Unreachable", "Timeout"} else ""
        message = "; ".join([f"MCP server {health.message}{more}", *row.remarks])
        return ConditionContent(status="False", reason=health.reason, message=message)
    parts = [f"{broker_status.tools} tools, protocol version {health.protocol_version}", *row.remarks]
    if row.same_host:
        parts.append(f"has one host name with {_some(list(row.same_host))}: behind Istio give each HTTPRoute its own")
    if broker_status.conflicts:
        items = [f"{clash.kind} {clash.name} (owned by {clash.owner})" for clash in broker_status.conflicts]
        parts.append(f"left out, change toolPrefix to have them: {_some(items)}")
    if broker_status.invalid:
        items = [f"{bad.kind} {bad.name} ({bad.reason})" for bad in broker_status.invalid]
        parts.append(f"left out, not usable: {_some(items)}")
    return ConditionContent(status="True", reason="Ready", message="; ".join(parts))


def server_status(row: Row, broker_status: ServerStatus | None, now: str) -> Document | None:
    """The new status of an MCPServer; None when it need not change."""
    content, status = judge(row, broker_status), row.found.status
    if content is None:
        if _condition(status.get("conditions")) is not None:
            # This process has just started: an older condition is better than none.
            return None
        content = ConditionContent(status="Unknown", reason="Pending", message="not tried yet")
    tools = broker_status.tools if broker_status is not None and row.server is not None else 0
    document = {**status, "discoveredTools": tools, "conditions": _with_ready(content, status, row.found.generation, now)}
    return None if document == status else document


def virtual_status(virtual: VirtualServerObject, tools: Collection[str], now: str) -> Document | None:
    """The new status of an MCPVirtualServer; None when it need not change.

    `tools` are the names of all tools that clients see.
    """
    missing_tools = [tool for tool in virtual.tools if tool not in tools]
    tally = f"{len(virtual.tools) - len(missing_tools)} of {len(virtual.tools)}"
    count = f"{tally} tools"
    content = ConditionContent(status="True", reason="Ready", message=count)
    if missing_tools:
        message = f"{count}; no server offers {_some(missing_tools)}: check the names (with prefix) and the MCPServers"
        content = ConditionContent(status="False", reason="ToolsNotFound", message=message)
    status = virtual.status
    document = {**status, "tools": tally, "conditions": _with_ready(content, status, virtual.generation, now)}
    return None if document == status else document


def policy_status(policy: PolicyObject, now: str) -> Document | None:
    """The new status of an MCPAccessPolicy; None when it need not change."""
    content = ConditionContent(status="True", reason="Ready", message=f"{len(policy.rules)} rules")
    if policy.fault is not None:
        message = f"gives nothing: {policy.fault}"
        content = ConditionContent(status="False", reason="InvalidRules", message=message)
    status = policy.status
    document = {**status, "conditions": _with_ready(content, status, policy.generation, now)}
    return None if document == status else document


def route_parents(route: HttpRoute, users: list[Ref], now: str) -> list[Raw] | None:
    """`status.parents` of an HTTPRoute with our entry for each parent; None when unchanged.

    `users` are the MCPServers that refer to the route.
    """
    other_parents = [parent for parent in route.parents if parent.get("controllerName") != CONTROLLER]
    our_parents = [parent for parent in route.parents if parent.get("controllerName") == CONTROLLER]
    new_parents: list[Raw] = []
    for ref in route.parent_refs if users else ():
        old_parent = next((parent for parent in our_parents if parent.get("parentRef") == ref), {})
        content = ConditionContent(
            status="True",
            reason="InUseByMCPServer",
            message=f"HTTPRoute is referenced by {MCP_SERVER.name} {_some([str(user) for user in users])}",
        )
        condition = _new_condition("Programmed", content, old_parent.get("conditions"), route.generation, now)
        new_parents.append({"parentRef": ref, "controllerName": CONTROLLER, "conditions": [condition]})
    new_parents = new_parents[: max(0, MAX_PARENTS - len(other_parents))]
    return None if _by_parent(new_parents) == _by_parent(our_parents) else [*other_parents, *new_parents]


def ready_of(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Status and reason of the Ready condition; None without one."""
    condition = _condition(status.get("conditions"))
    return None if condition is None else (str(condition.get("status")), str(condition.get("reason")))


def ready_condition(document: Raw) -> Raw:
    """The Ready condition of a status that this module made."""
    condition = _condition(document["conditions"])
    assert condition is not None  # noqa: S101  # each status of this module has one
    return condition


def _with_ready(content: ConditionContent, status: Raw, generation: int, now: str) -> list[Raw]:
    """The conditions with a new Ready condition. Conditions of other types are left alone."""
    ready = _new_condition("Ready", content, status.get("conditions"), generation, now)
    others = [condition for condition in status.get("conditions") or () if condition.get("type") != "Ready"]
    return [*others, ready]


def _by_parent(parents: list[Raw]) -> dict[str, Raw]:
    """The entries by their parent, because another controller may have changed their order."""
    return {repr(sorted(dict(parent.get("parentRef") or {}).items())): parent for parent in parents}


def _new_condition(kind: str, content: ConditionContent, conditions: Any, generation: int, now: str) -> Raw:  # noqa: ANN401  # of the API
    old_condition = _condition(conditions, kind)
    since = (
        old_condition["lastTransitionTime"]
        if old_condition is not None and old_condition.get("status") == content.status
        else now
    )
    return {
        "type": kind,
        "status": content.status,
        "reason": content.reason,
        "message": content.message[:MAX_MESSAGE],
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def _condition(conditions: Any, kind: str = "Ready") -> Raw | None:  # noqa: ANN401  # whatever the API holds
    return next((condition for condition in conditions or () if condition.get("type") == kind), None)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
