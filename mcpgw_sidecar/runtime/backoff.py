"""A back-off: longer waits after each failure in a row.

Jitter keeps many clients from retrying at once.
"""

from __future__ import annotations

import random

import attrs


@attrs.define
class Backoff:
    """`next()` returns seconds to wait: `base`, doubled each time up to `cap`, minus up to half.

    The part that is subtracted is random.
    """

    base: float
    cap: float
    _attempt: int = 0

    def next(self, at_least: float | None = None) -> float:
        """Seconds to wait after one more failure.

        `at_least` is the wait that the peer asked for; `cap` limits it.
        """
        # With 2**20 every sensible cap is reached, and a float cannot double for ever.
        delay = min(self.cap, self.base * 2.0 ** min(self._attempt, 20))
        self._attempt += 1
        delay *= random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        return max(delay, min(at_least or 0.0, self.cap))

    def reset(self) -> None:
        """Start again at `base`, after a success."""
        self._attempt = 0
