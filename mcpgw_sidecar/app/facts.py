"""What the parts know, for `/status`, `/readyz` and the metrics."""

from __future__ import annotations

from collections import Counter

import attrs
import trio

from mcpgw_sidecar.admin.status import Facts
from mcpgw_sidecar.app.inputs import Inputs
from mcpgw_sidecar.app.readiness import Readiness
from mcpgw_sidecar.app.values import Values
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.directory.store import SessionStore
from mcpgw_sidecar.envoyfiles.writer import EnvoyFiles
from mcpgw_sidecar.front.pooling import Pooling
from mcpgw_sidecar.front.streams import Streams
from mcpgw_sidecar.inbound.eras import offers, spoken
from mcpgw_sidecar.inbound.guard import Guard
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.upstream.issuers import IssuerKeys


@attrs.frozen(kw_only=True)
class Sources:
    """The parts that know something; `envoy_files` is None without `--envoy-dir`."""

    inputs: Inputs
    values: Values
    envoy_files: EnvoyFiles | None
    store: SessionStore
    streams: Streams
    directory: Directory
    ready: Readiness
    issuers: IssuerKeys
    pooling: Pooling
    guard: Guard

    def waiting_for(self) -> str | None:
        """Why requests should go elsewhere; None if they need not (interface.md, /readyz)."""
        return self.ready.reason(
            incomplete=self.inputs.incomplete(),
            files=self.envoy_files.error if self.envoy_files is not None else None,
            refusal=self.values.verdict.value.refusal(trio.current_time()),
            keys=self.inputs.keys_error(),
        )

    def facts(self) -> Facts:
        """The current state, for status and metrics."""
        counts, verdict, limits = self.directory.statistics(), self.values.verdict.value, self.values.limits.value
        error = "not configured: start with --envoy-dir"
        return Facts(
            desired=self.values.desired.value,
            statuses=self.values.statuses.value,
            gateway_sessions=counts.gateway,
            dropped=self.streams.budget.dropped,
            upstream_sessions=Counter(counts.upstream) + Counter(self.pooling.pool.counts()),
            held=self.pooling.count(),
            eras=(self.guard.prefer_era, offers(self.values.live.value, self.guard), spoken(self.values.live.value)),
            envoy_accepted=verdict.accepted if self.envoy_files is not None else None,
            writes=self.inputs.writes() if self.inputs.writes is not None else None,
            issuers=self.issuers.facts(),
            tools=self.values.live.value.of(TOOL).owned,
            store=(self.store.name, self.store.error) if self.store.shared or self.store.error else None,
            limits=(limits.url, limits.error, limits.failed) if limits.url is not None else None,
            files_written=self.envoy_files.error is None if self.envoy_files is not None else None,
            keys_valid=self.inputs.keys_error() is None,
            envoy_error=(self.envoy_files.error or verdict.error) if self.envoy_files is not None else error,
        )
