"""The configuration file as a source: read at start, followed for ever.

It looks at the file ten times a second (one stat, some microseconds) instead of asking the kernel for events: renames,
symlink swaps of mounted ConfigMaps, editors that truncate and write, and network file systems all look the same then. A file
counts once it has been quiet for one look, so a half-written one is not read. One that is replaced again and again (moved into place, so
never half-written) is read once a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from mcpgw_sidecar.config.decode import decode
from mcpgw_sidecar.errors import ConfigurationError, UnreadableError
from mcpgw_sidecar.model.servers import Desired, Server

LOOK = 0.1  # seconds
RESTLESS = 10  # looks without quiet, after which a file that was replaced by another one counts

_Stamp = tuple[int, int, int, int] | None
_NEVER: _Stamp = (0, 0, 0, 0)  # what no file is stamped with


def load(path: Path) -> Desired:
    """Read and decode the file. Raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: not UTF-8 (byte {error.start}): save it as UTF-8"]) from None
    except OSError as error:
        raise UnreadableError([f"{path}: cannot be read: {error.strerror}"]) from None
    content = decode(text, str(path))
    return Desired(
        source=f"file:{path}",
        servers=tuple(_located(server, path.parent) for server in content.servers),
        virtual_servers=content.virtual_servers,
        generation=1,
        loaded_at=time.time(),
    )


def _located(server: Server, directory: Path) -> Server:
    """Paths in the file are relative to the file, and absolute from here on: Envoy may run elsewhere."""

    def located(path: str | None) -> str | None:
        return os.path.abspath(directory / path) if path else path

    return attrs.evolve(server, ca_file=located(server.ca_file), credential_file=located(server.credential_file))


def _refused(current: Desired, error: ConfigurationError) -> Desired:
    """The old servers, with the reason why there are no new ones."""
    return attrs.evolve(current, error=str(error), failed_loads=current.failed_loads + 1)


async def wait_following(path: Path, current: Desired, publish: Callable[[Desired], None]) -> None:
    """Publish what the file says each time it has changed, for ever. `current` is what it said at start."""
    known = pending = _stamp(path)
    restless = 0
    while True:
        await trio.sleep(LOOK)
        stamp = _stamp(path)
        if stamp == known:
            pending, restless = stamp, 0
            continue
        if stamp != pending:
            replaced = stamp is not None and pending is not None and stamp[:2] != pending[:2]
            pending, restless = stamp, restless + 1
            if not replaced or restless < RESTLESS:
                continue  # still being written: look again
        known, restless = stamp, 0
        try:
            new = load(path)
            following = attrs.evolve(new, generation=current.generation + 1, failed_loads=current.failed_loads)
        except UnreadableError as error:
            known = _NEVER  # it may be for a passing reason (no descriptor left, a mount that is coming): look again
            if str(error) == current.error:
                continue  # said once
            following = _refused(current, error)
        except ConfigurationError as error:
            following = _refused(current, error)
        current = following
        publish(current)


def _stamp(path: Path) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
