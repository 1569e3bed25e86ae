"""An index of all watched objects, and the servers that they resolve to.

Each change costs one small computation.

An MCPServer is resolved again when it changes, or when an object changes that its last resolution
looked up: `_dependencies` holds these objects for each MCPServer, `_dependents` the way back.
MCPServers are ordered by age, then by namespace and name. So all replicas agree on the order, and
of two MCPServers in conflict the older one wins.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from mcpgw_sidecar.model.access import Policy, Rule
from mcpgw_sidecar.model.names import ServerName, VirtualName
from mcpgw_sidecar.model.servers import Refused, Server, VirtualServer
from mcpgw_sidecar.resources.external import Resolved
from mcpgw_sidecar.resources.kinds import (
    ACCESS_POLICY,
    GRANT,
    HTTP_ROUTE,
    MCP_SERVER,
    SECRET,
    SERVICE,
    VIRTUAL_SERVER,
    watch_name,
)
from mcpgw_sidecar.resources.lookup import NOTHING, Dependency, Permissions, Problem
from mcpgw_sidecar.resources.objects import (
    Grant,
    HttpRoute,
    McpServer,
    PolicyObject,
    Ref,
    Secret,
    Service,
    VirtualServerObject,
    WatchedObject,
)
from mcpgw_sidecar.resources.resolve import Resolution, Row, resolve
from mcpgw_sidecar.resources.rules import Gateway

T = TypeVar("T")
_NAME = "name"  # the kind of dependency that is a name outside of the cluster


class _RecordingLookup:
    """A `Lookup` in the index that records each object it was asked for as a dependency."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.dependencies: set[Dependency] = set()

    def route(self, ref: Ref) -> HttpRoute | None:
        return self._object(HTTP_ROUTE.name, ref, HttpRoute)

    def service(self, ref: Ref) -> Service | None:
        return self._object(SERVICE.name, ref, Service)

    def secret(self, ref: Ref) -> Secret | None:
        return self._object(SECRET.name, ref, Secret)

    def grants(self, namespace: str) -> Iterable[Grant]:
        self.dependencies.add((GRANT.name, namespace, ""))
        return self._index.grants.get(namespace, {}).values()

    def troubles(self) -> Mapping[str, str]:
        return self._index.troubles

    def allowed(self) -> Permissions:
        return self._index.allowed

    def is_judged(self, gateways: Iterable[Gateway]) -> bool:
        return any(self._index.judged[gateway] for gateway in gateways)

    def resolved(self, host: str) -> Resolved | None:
        self.dependencies.add((_NAME, "", host))
        return self._index.resolved.get(host)

    def _object(self, kind: str, ref: Ref, expected: type[T]) -> T | None:
        self.dependencies.add((kind, ref.namespace, ref.name))
        value = self._index.objects[kind].get(ref)
        return value if isinstance(value, expected) else None


class Index:
    """`apply`, `delete` and `reset` return the MCPServers whose row may have changed.

    An object that equals the one in the index changes nothing. `troubles` has the reason why a
    watch fails, by `watch_name`; `judged` how many routes of each gateway its controller has
    judged.
    """

    def __init__(self, allowed: Permissions = NOTHING) -> None:
        self.allowed = allowed
        self.objects: dict[str, dict[Ref, WatchedObject]] = defaultdict(dict)
        self.grants: dict[str, dict[Ref, Grant]] = defaultdict(dict)
        self.troubles: dict[str, str] = {}
        self.resolved: dict[str, Resolved] = {}
        self.judged: Counter[Gateway] = Counter()
        self._resolutions: dict[Ref, Resolution] = {}
        self._dependencies: dict[Ref, set[Dependency]] = {}
        self._dependents: dict[Dependency, set[Ref]] = defaultdict(set)
        self._by_name: dict[ServerName, set[Ref]] = defaultdict(set)
        self._by_host: dict[str, set[Ref]] = defaultdict(set)

    def apply(self, kind: str, value: WatchedObject) -> set[Ref]:
        """An object was added or modified."""
        old_value = self.objects[kind].get(value.ref)
        self.objects[kind][value.ref] = value
        self._count(old_value, value)
        if isinstance(value, Grant):
            self.grants[value.ref.namespace][value.ref] = value
        return set() if old_value == value else self._changed(kind, value.ref)

    def delete(self, kind: str, ref: Ref) -> set[Ref]:
        """An object was deleted."""
        old_value = self.objects[kind].pop(ref, None)
        if old_value is None:
            return set()
        self._count(old_value, None)
        if kind == GRANT.name:
            del self.grants[ref.namespace][ref]
        return self._changed(kind, ref)

    def reset(self, kind: str, values: Iterable[WatchedObject], namespace: str | None = None) -> set[Ref]:
        """These objects are all that exist of a kind, or of a kind in a namespace."""
        by_ref = {value.ref: value for value in values}
        changed: set[Ref] = set()
        there = [ref for ref in self.objects[kind] if namespace in {None, ref.namespace}]
        for ref in [ref for ref in there if ref not in by_ref]:
            changed |= self.delete(kind, ref)
        for value in by_ref.values():
            changed |= self.apply(kind, value)
        return changed

    def trouble(self, kind: str, reason: str | None, namespace: str | None = None) -> set[Ref]:
        """The watch of a kind (in a namespace) fails for `reason`, or works again (None)."""
        watch = watch_name(kind, namespace)
        if self.troubles.get(watch) == reason:
            return set()
        if reason is None:
            del self.troubles[watch]
        else:
            self.troubles[watch] = reason
        refs = [
            ref
            for ref, dependencies in self._dependencies.items()
            if any(dependency[0] == kind for dependency in dependencies)
        ]
        return self._resolve_all(refs)

    def external_hosts(self) -> set[str]:
        """The names outside of the cluster that are to be resolved."""
        return {dependency[2] for dependency in self._dependents if dependency[0] == _NAME}

    def resolve_name(self, host: str, resolved: Resolved) -> set[Ref]:
        """A name stands for these addresses now."""
        if self.resolved.get(host) == resolved:
            return set()
        self.resolved[host] = resolved
        return self._resolve_all(list(self._dependents.get((_NAME, "", host), ())))

    def forget_names(self, hosts: Collection[str]) -> None:
        """Forget what all names but these stand for."""
        self.resolved = {host: resolved for host, resolved in self.resolved.items() if host in hosts}

    def row(self, ref: Ref) -> Row | None:
        """The row of one MCPServer; None without such an object."""
        mcp_server = self.objects[MCP_SERVER.name].get(ref)
        resolution = self._resolutions.get(ref)
        if not isinstance(mcp_server, McpServer) or resolution is None:
            return None
        server, problem = resolution.server, resolution.problem
        if server is not None:
            first = min(self._by_name[server.name], key=self._age)
            if first != ref:
                message = f"HTTPRoute {server.name} is referenced by the older MCPServer {first}, which keeps it: delete one"
                return Row(found=mcp_server, server=None, problem=Problem(reason="NameConflict", message=message))
        same_host = self._same_host(server) if server is not None else ()
        return Row(found=mcp_server, server=server, problem=problem, same_host=same_host, remarks=resolution.remarks)

    def _same_host(self, server: Server) -> tuple[ServerName, ...]:
        servers = (self._resolutions[ref].server for ref in self._by_host[server.hostname])
        return tuple(sorted({other.name for other in servers if other is not None} - {server.name}))

    def rows(self) -> list[Row]:
        """The rows of all MCPServers, in the order that decides conflicts."""
        rows = (self.row(ref) for ref in sorted(self.objects[MCP_SERVER.name], key=self._age))
        return [row for row in rows if row is not None]

    def servers(self) -> tuple[Server, ...]:
        """The servers, in the order of `rows`."""
        return tuple(row.server for row in self.rows() if row.server is not None)

    def refused(self) -> tuple[Refused, ...]:
        """The MCPServers with a problem, in the order of `rows`."""
        return tuple(
            Refused(name=str(row.found.ref), reason=row.problem.reason, message=row.problem.message)
            for row in self.rows()
            if row.problem is not None
        )

    def virtual_servers(self) -> tuple[VirtualServer, ...]:
        """The virtual servers, sorted by name."""
        return tuple(
            VirtualServer(name=VirtualName(str(ref)), tools=virtual.tools)
            for ref, virtual in sorted(self.objects[VIRTUAL_SERVER.name].items())
            if isinstance(virtual, VirtualServerObject)
        )

    def owner(self, name: ServerName) -> Ref | None:
        """The MCPServer that owns a server name: the oldest that refers to its HTTPRoute."""
        refs = self._by_name.get(name)
        return min(refs, key=self._age) if refs else None

    def users(self, route: Ref) -> list[Ref]:
        """The MCPServers that refer to a route, the oldest first."""
        return sorted(self._by_name.get(ServerName(str(route)), ()), key=self._age)

    def _count(self, old_value: WatchedObject | None, value: WatchedObject | None) -> None:
        for route, number in ((old_value, -1), (value, 1)):
            for gateway in {verdict.gateway for verdict in route.verdicts} if isinstance(route, HttpRoute) else ():
                self.judged[gateway] += number

    def _changed(self, kind: str, ref: Ref) -> set[Ref]:
        if kind == MCP_SERVER.name:
            return self._resolve_all([ref])
        dependency = (kind, ref.namespace, "" if kind == GRANT.name else ref.name)
        return self._resolve_all(list(self._dependents.get(dependency, ())))

    def _resolve_all(self, refs: Iterable[Ref]) -> set[Ref]:
        changed: set[Ref] = set()
        for ref in refs:
            changed |= self._resolve(ref)
        return changed

    def _resolve(self, ref: Ref) -> set[Ref]:
        """Resolve an MCPServer again.

        Returns it, and the MCPServers that share its server name or host name now or before.
        """
        for dependency in self._dependencies.pop(ref, set()):
            self._dependents[dependency].discard(ref)
            if not self._dependents[dependency]:
                del self._dependents[dependency]
        old_resolution = self._resolutions.pop(ref, None)
        changed = {ref} | self._unregister(ref, old_resolution)
        mcp_server = self.objects[MCP_SERVER.name].get(ref)
        if not isinstance(mcp_server, McpServer):
            return changed
        lookup = _RecordingLookup(self)
        resolution = self._resolutions[ref] = resolve(mcp_server, lookup)
        self._dependencies[ref] = lookup.dependencies
        for dependency in lookup.dependencies:
            self._dependents[dependency].add(ref)
        if resolution.server is not None:
            self._by_name[resolution.server.name].add(ref)
            self._by_host[resolution.server.hostname].add(ref)
            changed |= self._by_name[resolution.server.name] | self._by_host[resolution.server.hostname]
        return changed

    def _unregister(self, ref: Ref, resolution: Resolution | None) -> set[Ref]:
        if resolution is None or resolution.server is None:
            return set()
        changed: set[Ref] = set()
        for table, key in ((self._by_name, resolution.server.name), (self._by_host, resolution.server.hostname)):
            refs: set[Ref] = table[key]  # type: ignore[index]  # each table has its own keys
            refs.discard(ref)
            if not refs:
                del table[key]  # type: ignore[arg-type]
            changed |= refs
        return changed

    def _age(self, ref: Ref) -> tuple[str, Ref]:
        mcp_server: Any = self.objects[MCP_SERVER.name].get(ref)
        return (mcp_server.created if mcp_server is not None else "", ref)


def policies_of(index: Index) -> tuple[Policy, ...]:
    """The rules of each namespace that has a policy, sorted."""
    by_namespace: dict[str, tuple[Rule, ...]] = {}
    found = [policy for policy in index.objects[ACCESS_POLICY.name].values() if isinstance(policy, PolicyObject)]
    for policy in sorted(found, key=lambda each: each.ref):
        by_namespace[policy.ref.namespace] = by_namespace.get(policy.ref.namespace, ()) + policy.rules
    return tuple(Policy(namespace, rules) for namespace, rules in by_namespace.items())
