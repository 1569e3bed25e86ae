"""The published values in which the parts meet, each with one writer."""

from __future__ import annotations

import attrs

from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.envoyfiles.limitservice import LimitServiceState
from mcpgw_sidecar.envoyfiles.verdict import Verdict
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.supervisor import Statuses


@attrs.frozen
class Values:
    """The published values."""

    desired: Watched[Desired]
    live: Watched[Snapshot] = attrs.field(factory=lambda: Watched(EMPTY))
    statuses: Watched[Statuses] = attrs.field(factory=lambda: Watched(()))
    verdict: Watched[Verdict] = attrs.field(factory=lambda: Watched(Verdict(None, None)))
    limits: Watched[LimitServiceState] = attrs.field(factory=lambda: Watched(LimitServiceState()))

    def current(self) -> Desired:
        """The configuration that was published last."""
        return self.desired.value
