"""Why a server's answer is missing, as clients and metrics see it (interface.md, Errors)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

UNREACHABLE: Final = "Unreachable"
TIMEOUT: Final = "Timeout"
BROKEN_OFF: Final = "BrokenOff"
REDIRECT: Final = "Redirect"
UNAUTHORIZED: Final = "Unauthorized"
BAD_ANSWER: Final = "BadAnswer"

LIMITED: Final = "Limited"
"""No server was asked: the caller has asked too much."""

RPC_ERROR: Final = "RpcError"
"""The server's own JSON-RPC error, with an HTTP status that is no success. Clients get it."""

OUTCOMES: Final[Mapping[str, str]] = {
    UNREACHABLE: "unavailable",
    TIMEOUT: "timeout",
    BROKEN_OFF: "broken",
    REDIRECT: "unavailable",
    UNAUTHORIZED: "unauthorized",
    BAD_ANSWER: "unavailable",
    RPC_ERROR: "rpc_error",
    LIMITED: "limited",
}
"""The outcome of a request in the metrics, by reason."""
