"""What the client of each session may see at the moment: the rules of now, its claims of last time.

A request is judged by its own claims (inbound/classify.py). Streams and messages of servers have no
request of their own: they are judged here, when they come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from mcpgw_sidecar.catalog.rights import sees_server
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.catalog.views import current
from mcpgw_sidecar.model.names import Scope, ServerName, VirtualName
from mcpgw_sidecar.runtime.watch import Watched

_Claims = Mapping[str, Any] | None


@attrs.define
class Sight:
    """The newest claims and endpoint of each session of a caller that is known."""

    live: Watched[Snapshot]
    _last: dict[str, tuple[_Claims, VirtualName | None]] = attrs.field(factory=dict)

    def note(self, key: str, claims: _Claims, virtual: VirtualName | None) -> None:
        """A request of a session came with these claims, to this endpoint."""
        if claims is not None or virtual is not None or key in self._last:
            self._last[key] = claims, virtual

    def forget(self, key: str) -> None:
        """A session is over."""
        self._last.pop(key, None)

    def scope(self, key: str, scope: Scope) -> Scope | None:
        """The scope of a session by the rules of now; None if its endpoint is closed to it."""
        return current(scope, self.live.value, self._last.get(key, (None, None))[0])

    def sees(self, key: str, server: ServerName) -> bool:
        """Whether a session may see anything of a server now."""
        claims, virtual = self._last.get(key, (None, None))
        scope = current(Scope(virtual=virtual), self.live.value, claims)
        return scope is not None and (scope.rules is None or sees_server(scope.rules, virtual, server))
