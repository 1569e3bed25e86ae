"""The document of `/status`, and the gauges with the same facts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mcpgw_sidecar import __version__
from mcpgw_sidecar.inbound.eras import Spoken
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Desired, VirtualServer
from mcpgw_sidecar.model.statuses import ServerStatus
from mcpgw_sidecar.runtime.frozen import commit

_COMMIT = commit()


@attrs.frozen(kw_only=True)
class Facts:
    """The facts for status and gauges, taken at one moment."""

    desired: Desired
    statuses: tuple[ServerStatus, ...]
    gateway_sessions: int
    dropped: int
    """Messages of servers for clients that were dropped, for there was no room."""
    upstream_sessions: Mapping[ServerName, int]
    envoy_accepted: bool | None
    envoy_error: str | None
    files_written: bool | None = None
    """Whether Envoy's files could be written; None without them."""
    keys_valid: bool = True
    store: tuple[str, str | None] | None = None
    """URL of the session store, and why it does not answer; None without a store."""
    limits: tuple[str, str | None, int] | None = None
    """URL of the rate limit service, why it does not count, and its failures; None without one."""
    writes: tuple[bool, str | None] | None = None
    """Whether this sidecar holds the Lease, and the error of the Lease; None without a cluster."""
    issuers: tuple[tuple[str, bool | None, str | None], ...] | None = None
    """Each issuer of tokens, whether its keys are here, and why not; None where nobody logs in."""
    tools: Collection[str] = ()
    """The names of all tools, as clients see them."""
    eras: tuple[str, bool, Spoken] = ("stateful", False, Spoken(0, 0, 0, 0))
    """`--prefer-era`, whether server/discover offers the stateless era, and what servers speak."""
    held: int = 0
    """Calls that wait for what the users of clients without sessions answer."""


def document(facts: Facts) -> dict[str, Any]:
    """`/status` (interface.md)."""
    desired = facts.desired
    shared: dict[str, Any] = (
        {"sessionStore": {"url": facts.store[0], "error": facts.store[1]}} if facts.store is not None else {}
    )
    if facts.limits is not None:
        shared["limitService"] = {"url": facts.limits[0], "error": facts.limits[1]}
    if facts.writes is not None:
        shared["kubernetes"] = {"writesStatus": facts.writes[0], "error": facts.writes[1]}
    if facts.issuers is not None:
        names = ("issuer", "keys", "error")
        shared["authentication"] = {"issuers": [dict(zip(names, each, strict=True)) for each in facts.issuers]}
    if desired.refused:
        shared["refused"] = [attrs.asdict(refusal) for refusal in desired.refused]
    if desired.virtual_servers:
        shared["virtualServers"] = [_virtual(virtual, facts.tools) for virtual in desired.virtual_servers]
    return {
        "version": __version__,
        "config": {
            "source": desired.source,
            "generation": desired.generation,
            "loadedAt": _time(desired.loaded_at),
            "error": "\n".join(filter(None, desired.errors)) or None,
        },
        "servers": [server(status) for status in facts.statuses],
        "sessions": {
            "gateway": facts.gateway_sessions,
            "upstream": sum(facts.upstream_sessions.values()),
            "droppedMessages": facts.dropped,
            "heldCalls": facts.held,
        },
        "eras": {
            "prefer": facts.eras[0],
            "offered": "stateless" if facts.eras[1] else "stateful",
            "servers": attrs.asdict(facts.eras[2]),
        },
        "envoy": {"accepted": facts.envoy_accepted, "error": facts.envoy_error},
        **shared,
    }


def _virtual(virtual: VirtualServer, tools: Collection[str]) -> dict[str, Any]:
    missing_tools = [tool for tool in virtual.tools if tool not in tools]
    return {"name": virtual.name, "tools": len(virtual.tools) - len(missing_tools), "missing": missing_tools}


def server(status: ServerStatus) -> dict[str, Any]:
    """One server of `/status`."""
    upstream, health = status.server, status.health
    return {
        "name": upstream.name,
        "url": upstream.shown_url,
        "hostname": upstream.hostname,
        "toolPrefix": upstream.tool_prefix,
        "enabled": upstream.enabled,
        "ready": health.ready,
        "reason": health.reason,
        "message": health.message,
        "protocolVersion": health.protocol_version,
        "tools": status.tools,
        "prompts": status.prompts,
        "resources": status.resources,
        "lastContact": _time(health.last_contact),
        "conflicts": [attrs.asdict(conflict) for conflict in status.conflicts],
        "invalid": [attrs.asdict(invalid) for invalid in status.invalid],
        "warnings": [attrs.asdict(warned) for warned in status.warnings],
    }


def gauges(facts: Facts) -> Iterator[Metric]:
    """The gauges of interface.md, from the same facts."""
    ready = GaugeMetricFamily("mcpgw_server_ready", "1 for a server whose tools can be called", labels=["server"])
    tools = GaugeMetricFamily("mcpgw_server_tools", "Tools that clients see of a server", labels=["server"])
    words = "Items that cannot be used, and lists that were cut, of a server"
    left_out = GaugeMetricFamily("mcpgw_server_left_out", words, labels=["server"])
    for status in facts.statuses:
        ready.add_metric([status.server.name], float(status.health.ready))
        tools.add_metric([status.server.name], status.tools)
        left_out.add_metric([status.server.name], len(status.invalid))
    yield ready
    yield tools
    yield left_out
    build = GaugeMetricFamily("mcpgw_build_info", "1, with the program's version and commit", labels=["version", "commit"])
    build.add_metric([__version__, _COMMIT], 1.0)
    yield build
    if facts.files_written is not None:
        accepted = float(facts.envoy_accepted is True)
        yield GaugeMetricFamily("mcpgw_envoy_accepted", "1 while Envoy runs what was written for it", value=accepted)
        written = float(facts.files_written)
        yield GaugeMetricFamily("mcpgw_envoy_files_written", "1 while Envoy's files can be written", value=written)
    valid = float(facts.keys_valid)
    yield GaugeMetricFamily("mcpgw_session_keys_valid", "1 while the source of session keys holds a valid one", value=valid)
    yield GaugeMetricFamily("mcpgw_sessions", "Sessions of clients seen here and not over", value=facts.gateway_sessions)
    words = "Messages of servers that were dropped, because too many waited for a client"
    yield CounterMetricFamily("mcpgw_messages_dropped", words, value=facts.dropped)
    words = "Calls that wait for what the users of clients without sessions answer"
    yield GaugeMetricFamily("mcpgw_held_calls", words, value=facts.held)
    upstream = GaugeMetricFamily("mcpgw_upstream_sessions", "Open sessions with servers, for clients", labels=["server"])
    for name, count in facts.upstream_sessions.items():
        upstream.add_metric([name], count)
    yield upstream
    if facts.store is not None:
        up = float(facts.store[1] is None)
        yield GaugeMetricFamily("mcpgw_session_store_up", "1 while the session store answers", value=up)
    if facts.limits is not None:
        up = float(facts.limits[1] is None)
        yield GaugeMetricFamily("mcpgw_limit_service_up", "1 while the rate limit service answers", value=up)
        words = "Questions that the rate limit service did not answer"
        yield CounterMetricFamily("mcpgw_limit_service_failures", words, value=facts.limits[2])


def not_ready(statuses: tuple[ServerStatus, ...]) -> list[str]:
    """The enabled servers whose tools cannot be called."""
    return [status.server.name for status in statuses if status.server.enabled and not status.health.ready]


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else None
