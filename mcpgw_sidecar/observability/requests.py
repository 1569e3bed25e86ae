"""One record for each request, opened when the request enters and closed with its answer.

The router does not close the record of a request that it passes on: the broker, or Envoy
(admin/envoystats.py), counts that request with its answer. So each request is counted once.
"""

from __future__ import annotations

import time

import attrs

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.observability.metrics import Metrics


@attrs.define
class RequestRecord:
    """A request in flight; `method` is JSON-RPC's, GET or DELETE, `tool` is in the catalog.

    `outcome` is "" until it is closed.
    """

    metrics: Metrics
    method: str = ""
    server: str = ""
    tool: str = ""
    outcome: str = attrs.field(default="", init=False)
    _started: float = attrs.field(factory=time.perf_counter, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def refuse(self, reject: Reject) -> None:
        """Close the record of a request that is refused."""
        self.method = reject.method or self.method
        self.server, self.tool = reject.server or self.server, reject.tool
        self.close(reject.outcome)

    def close(self, outcome: str) -> None:
        """Count the request with its outcome, once: what fails later is no other request."""
        if self._closed:
            return
        self._closed, self.outcome = True, outcome
        labels = {"method": self.method, "server": self.server, "tool": self.tool, "outcome": outcome}
        self.metrics.answered(**labels, seconds=self.seconds)

    @property
    def seconds(self) -> float:
        """The age of the request."""
        return time.perf_counter() - self._started
