"""Waiting longer after each failure in a row, with jitter so that many do not return in step."""

from __future__ import annotations

import random

import attrs


@attrs.define
class Backoff:
    """`next()` gives seconds to wait: `base`, doubled each time up to `cap`, of which a random half is taken off."""

    base: float
    cap: float
    _attempt: int = 0

    def next(self, at_least: float | None = None) -> float:
        """How long to wait after one more failure; `at_least` is what the peer asked for (up to `cap`)."""
        # Beyond 2**20 every sensible cap has been reached; a float does not double for ever.
        delay = min(self.cap, self.base * 2.0 ** min(self._attempt, 20))
        self._attempt += 1
        delay *= random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        return max(delay, min(at_least or 0.0, self.cap))

    def reset(self) -> None:
        """It worked: start over at `base`."""
        self._attempt = 0
