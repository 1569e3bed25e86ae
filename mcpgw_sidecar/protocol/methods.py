"""The methods of the stateful era, by who answers them; model/kinds.py compares the kinds."""

from __future__ import annotations

from typing import Final

from mcpgw_sidecar.model.kinds import KINDS, PROMPT, RESOURCE, TOOL

INITIALIZE: Final = "initialize"
CALL: Final = "tools/call"
DISCOVER: Final = "server/discover"
"""The first request of a client of the stateless era."""

LISTEN: Final = "subscriptions/listen"
"""Asks a server of the stateless era to tell of changes, for as long as its answer lasts."""

SET_LEVEL: Final = "logging/setLevel"
READ: Final = "resources/read"
SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
COMPLETE: Final = "completion/complete"
"""Names its prompt or resource template in `params.ref` (server/utilities/completion)."""

CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"
MESSAGE: Final = "notifications/message"
"""A line of a server's log."""

UPDATED: Final = "notifications/resources/updated"
INITIALIZED: Final = "notifications/initialized"

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Log levels (server/utilities/logging), the least severe first."""

TARGETS: Final = {
    CALL: TOOL,
    "prompts/get": PROMPT,
    READ: RESOURCE,
    SUBSCRIBE: RESOURCE,
    UNSUBSCRIBE: RESOURCE,
}
"""Methods whose `params` name an item, by the key of its kind."""

ADDRESSED: Final = frozenset({*TARGETS, COMPLETE})
"""Requests that one server answers."""

LISTS: Final = tuple(kind.list_method for kind in KINDS)
"""Requests for a list, in the order of KINDS."""

BROKERS: Final = (
    INITIALIZE,
    "ping",
    DISCOVER,
    *LISTS,
    LISTEN,
    SET_LEVEL,
    INITIALIZED,
    CANCELLED,
    PROGRESS,
    "notifications/roots/list_changed",
)
"""Methods that the broker answers or passes on; they need no decision."""

REPEATABLE: Final = (INITIALIZE, "ping", DISCOVER, *LISTS, SET_LEVEL, INITIALIZED)
"""Those of BROKERS that may reach it twice: nothing comes twice to a client or a server."""

KNOWN: Final = ADDRESSED | frozenset(BROKERS)
"""Every method that clients send in the stateful era."""
