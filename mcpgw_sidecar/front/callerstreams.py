"""The notification streams that callers have open, which `limits.streams` bounds."""

from __future__ import annotations

from collections import Counter

import attrs

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.reasons import LIMITED
from mcpgw_sidecar.protocol.jsonrpc import SERVER_ERROR
from mcpgw_sidecar.sessions.rows import one_less


@attrs.frozen
class CallerStreams:
    """Counts streams by caller; "" is one that nobody knows (inbound/callers.py, `name_of`)."""

    _open: Counter[str] = attrs.field(factory=Counter, init=False)

    def refuses(self, caller: str, limit: int | None) -> Reject | None:
        """Why a caller may open no other stream; None if it may."""
        if limit is None or not caller or self._open[caller] < limit:
            return None
        message = f"Limited: at most {limit} open streams for each caller; close one, calls go on without it"
        return Reject(status=429, code=SERVER_ERROR, message=message, data={"reason": LIMITED}, reason=LIMITED)

    def begin(self, caller: str) -> None:
        """A stream of a caller begins."""
        self._open[caller] += 1

    def end(self, caller: str) -> None:
        """A stream of a caller is over."""
        one_less(self._open, caller)
