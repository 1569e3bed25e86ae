"""Protocol versions, by era (specification, basic/versioning)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

STATEFUL: Final = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Versions with initialize and sessions, oldest first."""

LATEST_STATEFUL: Final = STATEFUL[-1]

STATELESS: Final = ("2026-07-28",)
"""Versions whose requests stand each for itself, oldest first."""

LATEST_STATELESS: Final = STATELESS[-1]

SUPPORTED: Final = (*reversed(STATELESS), *reversed(STATEFUL))
"""All versions that are spoken here, newest first."""

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
"""Member of `_meta` in every request of the stateless era."""

OLDER: Final = {"2024-11-05": "2025-03-26"}
"""Versions that servers in the field still answer with, and the version whose rules they keep.

2024-11-05 differs from 2025-03-26 in its transport, which a server that answers here has not, and
in batches, which the gateway sends to no server.
"""

BATCHED: Final = "2025-03-26"
"""The one version with batches (its basic, Batching)."""

PRIMED: Final = "2025-11-25"
"""From this version on an event may have an id and no message (basic/transports, Sending)."""


def next_version(tried: Collection[str], supported: object) -> str | None:
    """The version to ask a server for that refused all of `tried`; None when there is no other.

    `supported` is what its error names (`data.supported`): the newest of these that is spoken here,
    else the next older version.
    """
    named = supported if isinstance(supported, list) else ()
    candidates = [version for version in reversed(STATEFUL) if version not in tried]
    return next((version for version in candidates if version in named), candidates[0] if candidates else None)


def negotiate(requested: str | None) -> str:
    """The version in the answer to initialize: the client's if it is supported, else the latest."""
    return requested if requested in STATEFUL else LATEST_STATEFUL
