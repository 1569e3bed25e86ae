"""Envoy's flags of responses (its access log, RESPONSE_FLAGS), by what they mean for a call."""

from __future__ import annotations

from typing import Final

from mcpgw_sidecar.model.reasons import BROKEN_OFF, TIMEOUT, UNREACHABLE as NOT_REACHED

UNREACHABLE: Final = ["UF", "UH", "URX", "UO", "NC"]
"""Envoy's flags of a response that no upstream gave, because it could not be asked."""

NO_ROUTE: Final = ["NR"]
"""Envoy's flag of a response without a route: a gateway of Istio may not have one (yet)."""

NONSENSE: Final = ["UPE"]
"""Envoy's flag of a response that is no HTTP."""

BROKEN: Final = ["UC", "UR", "LR"]
"""Envoy's flags of a response that broke off."""

TOO_MANY: Final = ["RL"]
"""Envoy's flag of a request above a limit."""

UNCOUNTED: Final = ["RLSE"]
"""Envoy's flag of a request whose rate limit service did not answer."""

SILENT: Final = ["UT", "SI", "UMSDR"]
"""Envoy's flags of a response that did not go on in time."""

OF_FLAGS: Final = (
    ((*BROKEN, *NONSENSE), BROKEN_OFF),
    ((*UNREACHABLE, *NO_ROUTE), NOT_REACHED),
    (SILENT, TIMEOUT),
)
"""The reasons why a response that began well did not end so, by flags, in order."""

OF_STATUS: Final = {"503": "unavailable", "504": "timeout", "502": "unavailable", "408": "timeout"}
"""The outcome of a response, by HTTP status; "rejected" for others that are no success."""
