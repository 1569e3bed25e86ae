"""The queue between the source, which sees objects change, and the writer of their status."""

from __future__ import annotations

import attrs
import trio

from mcpgw_sidecar.resources.kinds import ACCESS_POLICY, HTTP_ROUTE, MCP_SERVER, VIRTUAL_SERVER
from mcpgw_sidecar.resources.objects import Ref

KINDS = (MCP_SERVER.name, VIRTUAL_SERVER.name, ACCESS_POLICY.name, HTTP_ROUTE.name)
"""The kinds whose status the sidecar writes."""

Target = tuple[str, Ref]
"""Kind, namespace and name of an object that may need another status."""


@attrs.define
class Targets:
    """The targets that were added since the last `take`. Objects of other kinds are ignored."""

    _targets: set[Target] = attrs.field(factory=set)
    _added: trio.Event = attrs.field(factory=trio.Event)

    def add(self, kind: str, refs: set[Ref]) -> None:
        """These objects may need another status."""
        if kind in KINDS and refs:
            self._targets |= {(kind, ref) for ref in refs}
            self._added.set()

    def take(self) -> set[Target]:
        """Remove and return the targets."""
        targets, self._targets = self._targets, set()
        self._added = trio.Event()
        return targets

    async def wait_added(self) -> None:
        """Wait until there are targets."""
        await self._added.wait()
