"""Durations and sizes as people write them: `250ms`, `5m`, `24h`; `4MiB`."""

from __future__ import annotations

import re

MAX_DURATION = 86400.0  # seconds: a day; for a longer limit the user should set none
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SIZE = re.compile(r"(\d+)\s*(|KiB|MiB|GiB)")


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError with the remedy."""
    parts = _DURATION.findall(text)
    if text == "0":
        return 0.0
    if not parts or "".join(number + unit for number, unit in parts) != text:
        msg = f"{text!r} is not a duration: write it like 250ms, 30s, 5m or 24h"
        raise ValueError(msg)
    return sum(float(number) * _TIMES[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError with the remedy."""
    match = _SIZE.fullmatch(text)
    if match is None:
        msg = f"{text!r} is not a size: write it like 512KiB or 4MiB"
        raise ValueError(msg)
    return int(match[1]) * _SIZES[match[2]]


def duration_text(seconds: float) -> str:
    """A duration for `parse_duration`, in the largest unit of which it is a multiple above one."""
    milliseconds = round(seconds * 1000)
    for unit, factor in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds > factor and milliseconds % factor == 0:
            return f"{milliseconds // factor}{unit}"
    return f"{milliseconds}ms"


def size_text(size: int) -> str:
    """A size for `parse_size`, in the largest unit of which it is a multiple."""
    return next(f"{size // factor}{unit}" for unit, factor in reversed(_SIZES.items()) if size % factor == 0)
