"""Protocol versions, by era (specification, basic/versioning)."""

from __future__ import annotations

from typing import Final

STATEFUL: Final = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Versions with initialize and sessions, oldest first."""

LATEST_STATEFUL: Final = STATEFUL[-1]

BATCHED: Final = "2025-03-26"
"""The one version with batches (its basic, Batching)."""

PRIMED: Final = "2025-11-25"
"""From this version on an event may have an id and no message (basic/transports, Sending)."""


def negotiate(requested: str | None) -> str:
    """The version in the answer to initialize: the client's if it is supported, else the latest."""
    return requested if requested in STATEFUL else LATEST_STATEFUL
