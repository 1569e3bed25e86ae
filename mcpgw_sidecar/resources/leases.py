"""The Lease that decides which sidecar writes, used as client-go does. Pure.

Clocks of other machines are never compared with ours: a holder counts as dead when its Lease has
not changed for `DURATION` seconds **of our own clock**.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

# Seconds without a renewal after which the holder counts as dead; another sidecar takes over within
# 15 seconds.
DURATION = 10.0
RENEW = 3.0  # seconds between two renewals
LOOK = 2.0  # seconds between two reads of the Lease by a sidecar that does not hold it


@attrs.define
class Observed:
    """The last version of the Lease that we read, and when it changed. `now` is monotonic."""

    identity: str
    _version: str | None = None
    _since: float = 0.0

    def may_take(self, lease: Mapping[str, Any], now: float) -> bool:
        """Whether the Lease is ours or free, or its holder is dead."""
        version, spec = lease["metadata"]["resourceVersion"], lease.get("spec") or {}
        if version != self._version:
            self._version, self._since = version, now
        holder = spec.get("holderIdentity")
        return not holder or holder == self.identity or now - self._since >= DURATION


def taken(lease: Mapping[str, Any], identity: str, wall: str) -> dict[str, Any]:
    """The Lease with us as its holder.

    `wall` is a time for people to read (RFC 3339, microseconds).
    """
    spec = dict(lease.get("spec") or {})
    if spec.get("holderIdentity") != identity:
        spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + ("holderIdentity" in spec)
        spec["acquireTime"] = wall
    spec |= {"holderIdentity": identity, "leaseDurationSeconds": int(DURATION), "renewTime": wall}
    return {**lease, "spec": spec}


def released(lease: Mapping[str, Any], wall: str) -> dict[str, Any]:
    """The Lease without a holder, so that the next sidecar can take it at once."""
    spec = {**(lease.get("spec") or {}), "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": wall}
    return {**lease, "spec": spec}
