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

from mcpgw_sidecar.config.decode import decode, decode_access
from mcpgw_sidecar.errors import ConfigurationError, UnreadableError
from mcpgw_sidecar.model.access import OPEN, Access
from mcpgw_sidecar.model.exchanges import TokenClient
from mcpgw_sidecar.model.servers import Desired, Server

LOOK = 0.1  # seconds between two polls
RESTLESS = 10  # polls in a row with a change, after which a file that was replaced is loaded anyway

_Stamp = tuple[int, int, int, int] | None
Refuse = Callable[..., None]
"""Takes why a file is refused, and `is_new`: whether that is said again although it was said."""
_NEVER: _Stamp = (0, 0, 0, 0)  # the stamp of no file


def load(path: Path, *, has_access: bool = False) -> Desired:
    """Read and decode a configuration file. Raises ConfigurationError.

    With `has_access` the access document is another file, and its keys may not stand here.
    """
    content = decode(_text(path), str(path), has_access=has_access)
    exchanging = [server.name for server in content.servers if server.token_exchange is not None]
    if exchanging and not has_access and (content.access is None or content.access.authentication is None):
        words = "tokenExchange needs callers that log in: add authentication, or remove it"
        raise ConfigurationError([f"{path}: server {exchanging[0]}: {words}"])
    return Desired(
        source=f"file:{path}",
        servers=tuple(_with_absolute_paths(server, path.parent) for server in content.servers),
        virtual_servers=content.virtual_servers,
        generation=1,
        loaded_at=time.time(),
        access=_with_absolute_files(content.access or OPEN, path.parent),
        policies=content.policies,
    )


def load_access(path: Path) -> Access:
    """Read and decode an access document. Raises ConfigurationError."""
    return _with_absolute_files(decode_access(_text(path), str(path)), path.parent)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: not UTF-8 (byte {error.start}): save it as UTF-8"]) from None
    except OSError as error:
        raise UnreadableError([f"{path}: cannot be read: {error.strerror}"]) from None


def _with_absolute_paths(server: Server, directory: Path) -> Server:
    """Make the paths of a server absolute.

    They are relative to the file, and Envoy may run in another directory.
    """
    credential_file, exchange = _absolute(server.credential_file, directory), server.token_exchange
    if exchange is not None:
        client, grant = _of_client(exchange.client, directory), exchange.grant
        grant = None if grant is None else _of_client(grant, directory)
        exchange = attrs.evolve(exchange, client=client, grant=grant)
    ca_file = _absolute(server.ca_file, directory)
    return attrs.evolve(server, ca_file=ca_file, credential_file=credential_file, token_exchange=exchange)


def _of_client(client: TokenClient, directory: Path) -> TokenClient:
    secret, ca_file = _absolute(client.client_secret_file, directory), _absolute(client.ca_file, directory)
    return attrs.evolve(client, client_secret_file=secret, ca_file=ca_file)


def _with_absolute_files(access: Access, directory: Path) -> Access:
    """Make the paths of issuers and of the rate limit service absolute."""
    service = access.limits.service
    if service is not None:
        service = attrs.evolve(service, ca_file=_absolute(service.ca_file, directory))
        access = attrs.evolve(access, limits=attrs.evolve(access.limits, service=service))
    if access.authentication is None:
        return access
    issuers = tuple(
        attrs.evolve(each, jwks_file=_absolute(each.jwks_file, directory), ca_file=_absolute(each.ca_file, directory))
        for each in access.authentication.issuers
    )
    return attrs.evolve(access, authentication=attrs.evolve(access.authentication, issuers=issuers))


def _absolute(path: str | None, directory: Path) -> str | None:
    return os.path.abspath(directory / path) if path else path


async def wait_following(
    path: Path, current: Callable[[], Desired], publish: Callable[[Desired], None], *, has_access: bool = False
) -> None:
    """Publish the configuration after each change of the file, for ever.

    `current` returns the last one that was published.
    """

    def read() -> None:
        old, new = current(), load(path, has_access=has_access)
        publish(
            attrs.evolve(
                new,
                generation=old.generation + 1,
                failed_loads=old.failed_loads,
                access=old.access if has_access else new.access,
                access_error=old.access_error,
            )
        )

    def refuse(reason: str, *, is_new: bool) -> None:
        if is_new or reason != current().error:
            publish(attrs.evolve(current(), error=reason, failed_loads=current().failed_loads + 1))

    await _wait_changes(path, read, refuse)


async def wait_following_access(path: Path, current: Callable[[], Desired], publish: Callable[[Desired], None]) -> None:
    """Publish the access document after each change of its file, for ever."""

    def read() -> None:
        old, access = current(), load_access(path)
        publish(attrs.evolve(old, access=access, access_error=None, generation=old.generation + 1, loaded_at=time.time()))

    def refuse(reason: str, *, is_new: bool) -> None:
        if is_new or reason != current().access_error:
            publish(attrs.evolve(current(), access_error=reason, failed_loads=current().failed_loads + 1))

    await _wait_changes(path, read, refuse)


async def _wait_changes(path: Path, read: Callable[[], None], refuse: Refuse) -> None:
    """Read a file after each change, for ever. What was good before stays when it is refused."""
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
            read()
        except UnreadableError as error:
            # The reason may pass (no descriptor left, a mount that is still to come): poll again.
            loaded_stamp = _NEVER
            refuse(str(error), is_new=False)
        except ConfigurationError as error:
            refuse(str(error), is_new=True)


def _stamp(path: Path) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
