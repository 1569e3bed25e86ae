"""Python's collector of cycles, set for a process that serves."""

from __future__ import annotations

import gc

YOUNG = 5000  # new objects between two looks at the young ones; a request makes a few hundred


def tune() -> None:
    """Look less often, and never again at what is there now: modules live as long as the process.

    A fifth of the time in which sessions were opened went into looks (2026-11-30).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 10)
