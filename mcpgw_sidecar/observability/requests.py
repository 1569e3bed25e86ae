"""One record for each request: opened where the request enters, closed where it leaves.

What the router hands on is not closed here: the broker, or Envoy (admin/envoystats.py), counts where the
answer comes from. So each request is counted once, wherever it ended.
"""

from __future__ import annotations

import time

import attrs

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.observability.metrics import Metrics


@attrs.define
class RequestRecord:
    """A request under way. `method` is that of JSON-RPC, GET or DELETE; `tool` a name that is known."""

    metrics: Metrics
    method: str = ""
    server: str = ""
    tool: str = ""
    _started: float = attrs.field(factory=time.perf_counter, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def refuse(self, reject: Reject) -> None:
        """The request ends with a refusal."""
        self.method = reject.method or self.method
        self.server, self.tool = reject.server or self.server, reject.tool
        self.close(reject.outcome)

    def close(self, outcome: str) -> None:
        """The request ends. Only its first end counts: what goes wrong later is no other request."""
        if self._closed:
            return
        self._closed = True
        labels = {"method": self.method, "server": self.server, "tool": self.tool, "outcome": outcome}
        self.metrics.answered(**labels, seconds=self.seconds)

    @property
    def seconds(self) -> float:
        """How old the request is."""
        return time.perf_counter() - self._started
