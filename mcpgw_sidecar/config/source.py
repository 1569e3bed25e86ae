"""The configuration file as a source: loaded at start, and followed for ever.

The source polls the file ten times a second (one stat, some microseconds) instead of asking the
kernel for events. So renames, symlink swaps of mounted ConfigMaps, editors that truncate and write,
and network file systems all look the same. A changed file is loaded when it has not changed between
two polls, so that a half-written one is not read. A file that is replaced again and again (moved
into place, so never half-written) is loaded once a second.
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

LOOK = 0.1  # seconds between two polls
RESTLESS = 10  # polls in a row with a change, after which a file that was replaced is loaded anyway

_Stamp = tuple[int, int, int, int] | None
_NEVER: _Stamp = (0, 0, 0, 0)  # the stamp of no file


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
        servers=tuple(_with_absolute_paths(server, path.parent) for server in content.servers),
        virtual_servers=content.virtual_servers,
        generation=1,
        loaded_at=time.time(),
    )


def _with_absolute_paths(server: Server, directory: Path) -> Server:
    """Make the paths of a server absolute.

    They are relative to the file, and Envoy may run in another directory.
    """

    def absolute(path: str | None) -> str | None:
        return os.path.abspath(directory / path) if path else path

    return attrs.evolve(server, ca_file=absolute(server.ca_file), credential_file=absolute(server.credential_file))


def _with_error(current: Desired, error: ConfigurationError) -> Desired:
    """The old servers, with the error that kept new ones away."""
    return attrs.evolve(current, error=str(error), failed_loads=current.failed_loads + 1)


async def wait_following(path: Path, current: Desired, publish: Callable[[Desired], None]) -> None:
    """Publish the configuration after each change of the file, for ever.

    `current` is the one from the start.
    """
    loaded_stamp = last_stamp = _stamp(path)
    changes = 0
    while True:
        await trio.sleep(LOOK)
        stamp = _stamp(path)
        if stamp == loaded_stamp:
            last_stamp, changes = stamp, 0
            continue
        if stamp != last_stamp:
            is_replaced = stamp is not None and last_stamp is not None and stamp[:2] != last_stamp[:2]
            last_stamp, changes = stamp, changes + 1
            if not is_replaced or changes < RESTLESS:
                continue  # the file is still being written: poll again
        loaded_stamp, changes = stamp, 0
        try:
            desired = load(path)
            next_desired = attrs.evolve(desired, generation=current.generation + 1, failed_loads=current.failed_loads)
        except UnreadableError as error:
            # The reason may pass (no descriptor left, a mount that is still to come): poll again.
            loaded_stamp = _NEVER
            if str(error) == current.error:
                continue  # published already
            next_desired = _with_error(current, error)
        except ConfigurationError as error:
            next_desired = _with_error(current, error)
        current = next_desired
        publish(current)


def _stamp(path: Path) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
