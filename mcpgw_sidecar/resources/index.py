"""All watched objects, and what follows from them: one small computation for each change.

An MCPServer is resolved anew when it changes, or something that its last resolution looked at: `depends` remembers what that was.
Order is age, then namespace and name, so that all replicas agree and the older one of two that clash stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs

from mcpgw_sidecar.model.names import ServerName, VirtualName
from mcpgw_sidecar.model.servers import Refused, Server, VirtualServer
from mcpgw_sidecar.resources.kinds import GRANT, HTTP_ROUTE, MCP_SERVER, SECRET, SERVICE, VIRTUAL_SERVER
from mcpgw_sidecar.resources.objects import (
    Grant,
    HttpRoute,
    McpServer,
    Ref,
    Secret,
    Service,
    VirtualServerObject,
    Watched,
)
from mcpgw_sidecar.resources.resolve import Dependency, Problem, Resolution, resolve

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Row:
    """An MCPServer and what it stands for. Of two for one HTTPRoute the younger has no server and the problem says so.

    `same_host` are other servers with its host name: where Envoy routes by that (Istio), calls of all would go to one of them.
    """

    found: McpServer
    server: Server | None
    problem: Problem | None
    same_host: tuple[ServerName, ...] = ()


class _Noting:
    """A look at the index that notes what was looked at."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.seen: set[Dependency] = set()

    def route(self, ref: Ref) -> HttpRoute | None:
        return self._one(HTTP_ROUTE.name, ref, HttpRoute)

    def service(self, ref: Ref) -> Service | None:
        return self._one(SERVICE.name, ref, Service)

    def secret(self, ref: Ref) -> Secret | None:
        return self._one(SECRET.name, ref, Secret)

    def grants(self, namespace: str) -> Iterable[Grant]:
        self.seen.add((GRANT.name, namespace, ""))
        return self._index.grants.get(namespace, {}).values()

    def troubles(self) -> Mapping[str, str]:
        return self._index.troubles

    def _one(self, kind: str, ref: Ref, expected: type[T]) -> T | None:
        self.seen.add((kind, ref.namespace, ref.name))
        found = self._index.objects[kind].get(ref)
        return found if isinstance(found, expected) else None


class Index:
    """`apply`, `delete` and `reset` give the MCPServers whose row may have changed; what equals what was there changes nothing."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[Ref, Watched]] = defaultdict(dict)
        self.grants: dict[str, dict[Ref, Grant]] = defaultdict(dict)
        self.troubles: dict[str, str] = {}
        self._resolutions: dict[Ref, Resolution] = {}
        self._seen: dict[Ref, set[Dependency]] = {}
        self._dependents: dict[Dependency, set[Ref]] = defaultdict(set)
        self._named: dict[ServerName, set[Ref]] = defaultdict(set)
        self._hosts: dict[str, set[Ref]] = defaultdict(set)

    def apply(self, kind: str, found: Watched) -> set[Ref]:
        """An object is there, or is different."""
        before = self.objects[kind].get(found.ref)
        self.objects[kind][found.ref] = found
        if isinstance(found, Grant):
            self.grants[found.ref.namespace][found.ref] = found
        return set() if before == found else self._changed(kind, found.ref)

    def delete(self, kind: str, ref: Ref) -> set[Ref]:
        """An object has gone."""
        if self.objects[kind].pop(ref, None) is None:
            return set()
        if kind == GRANT.name:
            del self.grants[ref.namespace][ref]
        return self._changed(kind, ref)

    def reset(self, kind: str, found: Iterable[Watched]) -> set[Ref]:
        """These are all of a kind."""
        listed = {each.ref: each for each in found}
        changed: set[Ref] = set()
        for ref in [ref for ref in self.objects[kind] if ref not in listed]:
            changed |= self.delete(kind, ref)
        for each in listed.values():
            changed |= self.apply(kind, each)
        return changed

    def trouble(self, kind: str, reason: str | None) -> set[Ref]:
        """A kind cannot be watched, or can be again."""
        if self.troubles.get(kind) == reason:
            return set()
        if reason is None:
            del self.troubles[kind]
        else:
            self.troubles[kind] = reason
        refs = [ref for ref, seen in self._seen.items() if any(dependency[0] == kind for dependency in seen)]
        return self._resolve_all(refs)

    def row(self, ref: Ref) -> Row | None:
        """One MCPServer."""
        found = self.objects[MCP_SERVER.name].get(ref)
        resolution = self._resolutions.get(ref)
        if not isinstance(found, McpServer) or resolution is None:
            return None
        server, problem = resolution.server, resolution.problem
        if server is not None:
            first = min(self._named[server.name], key=self._age)
            if first != ref:
                message = f"HTTPRoute {server.name} is referenced by the older MCPServer {first}, which keeps it: delete one"
                return Row(found=found, server=None, problem=Problem(reason="NameConflict", message=message))
        return Row(
            found=found, server=server, problem=problem, same_host=self._same_host(server) if server is not None else ()
        )

    def _same_host(self, server: Server) -> tuple[ServerName, ...]:
        there = (self._resolutions[ref].server for ref in self._hosts[server.hostname])
        return tuple(sorted({other.name for other in there if other is not None} - {server.name}))

    def rows(self) -> list[Row]:
        """All MCPServers, in the order that decides conflicts."""
        found = (self.row(ref) for ref in sorted(self.objects[MCP_SERVER.name], key=self._age))
        return [row for row in found if row is not None]

    def servers(self) -> tuple[Server, ...]:
        """The servers, in that order."""
        return tuple(row.server for row in self.rows() if row.server is not None)

    def refused(self) -> tuple[Refused, ...]:
        """The MCPServers with a problem, in that order."""
        return tuple(
            Refused(name=str(row.found.ref), reason=row.problem.reason, message=row.problem.message)
            for row in self.rows()
            if row.problem is not None
        )

    def virtual_servers(self) -> tuple[VirtualServer, ...]:
        """The virtual servers, by name."""
        return tuple(
            VirtualServer(name=VirtualName(str(ref)), tools=found.tools)
            for ref, found in sorted(self.objects[VIRTUAL_SERVER.name].items())
            if isinstance(found, VirtualServerObject)
        )

    def owner(self, name: ServerName) -> Ref | None:
        """The MCPServer that a server's name stands for."""
        refs = self._named.get(name)
        return min(refs, key=self._age) if refs else None

    def users(self, route: Ref) -> list[Ref]:
        """The MCPServers that reach their server through a route, in their order."""
        return sorted(self._named.get(ServerName(str(route)), ()), key=self._age)

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
        """Resolve anew; gives the MCPServer, and those whose place in a clash it may have changed."""
        for dependency in self._seen.pop(ref, set()):
            self._dependents[dependency].discard(ref)
            if not self._dependents[dependency]:
                del self._dependents[dependency]
        before = self._resolutions.pop(ref, None)
        changed = {ref} | self._leave(ref, before)
        found = self.objects[MCP_SERVER.name].get(ref)
        if not isinstance(found, McpServer):
            return changed
        noting = _Noting(self)
        resolution = self._resolutions[ref] = resolve(found, noting)
        self._seen[ref] = noting.seen
        for dependency in noting.seen:
            self._dependents[dependency].add(ref)
        if resolution.server is not None:
            self._named[resolution.server.name].add(ref)
            self._hosts[resolution.server.hostname].add(ref)
            changed |= self._named[resolution.server.name] | self._hosts[resolution.server.hostname]
        return changed

    def _leave(self, ref: Ref, before: Resolution | None) -> set[Ref]:
        if before is None or before.server is None:
            return set()
        changed: set[Ref] = set()
        for table, key in ((self._named, before.server.name), (self._hosts, before.server.hostname)):
            others: set[Ref] = table[key]  # type: ignore[index]  # each table has its own keys
            others.discard(ref)
            if not others:
                del table[key]  # type: ignore[arg-type]
            changed |= others
        return changed

    def _age(self, ref: Ref) -> tuple[str, Ref]:
        found: Any = self.objects[MCP_SERVER.name].get(ref)
        return (found.created if found is not None else "", ref)
