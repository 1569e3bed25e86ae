"""Hosts of listeners."""

from __future__ import annotations

from typing import Final

_REACHABLE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # not where to listen
EVERYWHERE: Final = frozenset(_REACHABLE)
"""A socket there listens on every address."""


def reachable(host: str) -> str:
    """The host by which this machine reaches what listens there."""
    return _REACHABLE.get(host, host)
