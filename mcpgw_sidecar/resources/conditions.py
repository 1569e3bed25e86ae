"""What is said of objects in their status. A document is written only when it differs from the one that is there.

`now` is a time as the API writes it (RFC 3339); it counts only where the status of a condition changes (`lastTransitionTime`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from mcpgw_sidecar.model.statuses import ServerStatus
from mcpgw_sidecar.resources.index import Row
from mcpgw_sidecar.resources.kinds import GROUP, MCP_SERVER
from mcpgw_sidecar.resources.objects import HttpRoute, Raw, Ref, VirtualServerObject

CONTROLLER = f"{GROUP}/sidecar"
"""Our `controllerName` in the status of routes: what others say there stays theirs."""

MAX_MESSAGE = 1024  # characters (the API takes 32,768): a person reads it
MAX_PARENTS = 32  # of a route's status.parents (Gateway API)
_SHOWN = 5  # names that a message lists
Document = dict[str, Any]


@attrs.frozen(kw_only=True)
class Verdict:
    """What a Ready condition says."""

    status: str
    reason: str
    message: str


def judge(row: Row, seen: ServerStatus | None) -> Verdict | None:
    """The truth about an MCPServer: its object, then its server as the broker sees it. None while nothing is known of it."""
    if row.problem is not None:
        return Verdict(status="False", reason=row.problem.reason, message=row.problem.message)
    if seen is None or not seen.health.tried:
        return None
    health = seen.health
    if not health.ready:
        hint = f": check that the pods behind {row.server.url if row.server else ''} are ready and serve MCP there"
        more = hint if health.reason in {"Unreachable", "Timeout"} else ""
        return Verdict(status="False", reason=health.reason, message=f"MCP server {health.message}{more}")
    parts = [f"{seen.tools} tools, protocol version {health.protocol_version}"]
    if row.same_host:
        parts.append(f"has one host name with {_some(list(row.same_host))}: behind Istio give each HTTPRoute its own")
    if seen.conflicts:
        shown = [f"{clash.kind} {clash.name} (owned by {clash.owner})" for clash in seen.conflicts]
        parts.append(f"left out, change toolPrefix to have them: {_some(shown)}")
    if seen.invalid:
        shown = [f"{bad.kind} {bad.name} ({bad.reason})" for bad in seen.invalid]
        parts.append(f"left out, not usable: {_some(shown)}")
    return Verdict(status="True", reason="Ready", message="; ".join(parts))


def server_status(row: Row, seen: ServerStatus | None, now: str) -> Document | None:
    """The status of an MCPServer; None when it is to stay as it is."""
    verdict, before = judge(row, seen), row.found.status
    if verdict is None:
        if _condition(before.get("conditions")) is not None:
            return None  # this process has just started: what another one saw is better than nothing
        verdict = Verdict(status="Unknown", reason="Pending", message="not tried yet")
    tools = seen.tools if seen is not None and row.server is not None else 0
    document = {**before, "discoveredTools": tools, "conditions": _ready(verdict, before, row.found.generation, now)}
    return None if document == before else document


def virtual_status(found: VirtualServerObject, tools: Collection[str], now: str) -> Document | None:
    """The status of an MCPVirtualServer, by the tools that there are; None when it is to stay as it is."""
    missing = [tool for tool in found.tools if tool not in tools]
    count = f"{len(found.tools) - len(missing)} of {len(found.tools)} tools"
    verdict = Verdict(status="True", reason="Ready", message=count)
    if missing:
        message = f"{count}; no server offers {_some(missing)}: check the names (with prefix) and the MCPServers"
        verdict = Verdict(status="False", reason="ToolsNotFound", message=message)
    before = found.status
    document = {**before, "conditions": _ready(verdict, before, found.generation, now)}
    return None if document == before else document


def route_parents(route: HttpRoute, users: list[Ref], now: str) -> list[Raw] | None:
    """`status.parents` of an HTTPRoute with what we say there, once for each parent; None when it is to stay as it is."""
    others = [parent for parent in route.parents if parent.get("controllerName") != CONTROLLER]
    ours = [parent for parent in route.parents if parent.get("controllerName") == CONTROLLER]
    wanted: list[Raw] = []
    for ref in route.parent_refs if users else ():
        before = next((parent for parent in ours if parent.get("parentRef") == ref), {})
        verdict = Verdict(
            status="True",
            reason="InUseByMCPServer",
            message=f"HTTPRoute is referenced by {MCP_SERVER.name} {_some([str(user) for user in users])}",
        )
        condition = _conditioned("Programmed", verdict, before.get("conditions"), route.generation, now)
        wanted.append({"parentRef": ref, "controllerName": CONTROLLER, "conditions": [condition]})
    wanted = wanted[: max(0, MAX_PARENTS - len(others))]
    return None if _by_parent(wanted) == _by_parent(ours) else [*others, *wanted]


def ready_of(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Status and reason of the Ready condition, None without one."""
    found = _condition(status.get("conditions"))
    return None if found is None else (str(found.get("status")), str(found.get("reason")))


def ready_condition(document: Raw) -> Raw:
    """The Ready condition of a document that this module made."""
    found = _condition(document["conditions"])
    assert found is not None  # noqa: S101  # it made one
    return found


def _ready(verdict: Verdict, before: Raw, generation: int, now: str) -> list[Raw]:
    """The conditions with ours in its place; what others say there stays theirs."""
    ready = _conditioned("Ready", verdict, before.get("conditions"), generation, now)
    others = [found for found in before.get("conditions") or () if found.get("type") != "Ready"]
    return [*others, ready]


def _by_parent(parents: list[Raw]) -> dict[str, Raw]:
    """In no order: another controller may have put them into one of its own."""
    return {repr(sorted(dict(parent.get("parentRef") or {}).items())): parent for parent in parents}


def _conditioned(kind: str, verdict: Verdict, before: Any, generation: int, now: str) -> Raw:  # noqa: ANN401  # of the API
    old = _condition(before, kind)
    since = old["lastTransitionTime"] if old is not None and old.get("status") == verdict.status else now
    return {
        "type": kind,
        "status": verdict.status,
        "reason": verdict.reason,
        "message": verdict.message[:MAX_MESSAGE],
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def _condition(conditions: Any, kind: str = "Ready") -> Raw | None:  # noqa: ANN401  # whatever the API holds
    return next((found for found in conditions or () if found.get("type") == kind), None)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
