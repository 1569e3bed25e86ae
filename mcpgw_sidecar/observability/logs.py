"""Writes one line per event to stderr: `LEVEL message key=value …`, or JSON (interface.md, Logs).

A level that is off costs one method call that does nothing. No line contains a secret: callers log
names, counts and `short(...)` of a session, never ids, tokens, arguments or results.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog

LEVELS = {"-4": 10, "debug": 10, "0": 20, "info": 20, "4": 30, "warn": 30, "warning": 30, "8": 40, "error": 40}
"""Spellings of `LOG_LEVEL` (numbers of Go's slog, and the usual names), with Python's numbers."""

_PLAIN = re.compile(r"[^\s\"=\\]+\Z")
Event = MutableMapping[str, Any]


def get_logger(name: str) -> Any:  # noqa: ANN401  # structlog's lazy proxy
    """A logger. `name` is the module's, for the reader of the code; the lines do not contain it."""
    return structlog.get_logger(name)


def set_up(level: int, log_format: str) -> None:
    """Send this program's lines (and the warnings of libraries) to stderr."""
    render = _json_line if log_format == "json" else _text_line
    processors: list[Callable[..., Any]] = [structlog.processors.add_log_level, structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*processors, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)


class _Lines:
    """Writes lines to stderr.

    A line that cannot be written, because a disk is full, is lost, and has no other effect.
    """

    def msg(self, line: str) -> None:
        """Write a line."""
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)  # noqa: T201  # the one place that writes log lines

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Bridge(logging.Handler):
    """Passes on the lines of libraries that use the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _quote(value: object) -> str:
    text = value if isinstance(value, str) else _scalar(value)
    return text if _PLAIN.match(text) else json.dumps(text, ensure_ascii=False)


def _scalar(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return str(value)


def _text_line(_logger: object, _method: str, event: Event) -> str:
    level, message, trace = event.pop("level"), event.pop("event"), event.pop("exception", None)
    message = str(message).replace("\n", "\\n")
    pairs = "".join(f" {_quote(key)}={_quote(value)}" for key, value in event.items())
    line = f"{level.upper().replace('WARNING', 'WARN')} {message}{pairs}"
    return f"{line}\n{trace}" if trace else line


def _json_line(_logger: object, _method: str, event: Event) -> str:
    level, message = event.pop("level"), event.pop("event")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level.upper().replace("WARNING", "WARN"), "msg": message, **event}, default=str)
