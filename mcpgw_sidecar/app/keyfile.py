"""The file of the session keys: it is created when missing, and read again when it changes."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from mcpgw_sidecar.errors import ConfigurationError, UnavailableError
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.files import replace_text
from mcpgw_sidecar.sessions.tokens import SessionKeys, parse_keys

log = get_logger(__name__)

GOOD = ".last-good"  # behind the file's name: the last keys that could be read, for the next start


class KeyFile:
    """The session keys of a file. Without a path the keys live as long as the process.

    `error` says why the file holds no valid key, None while it does. The last good keys count then,
    also after a restart.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.error: str | None = None
        self._keys = self._initial_keys()

    @property
    def keys(self) -> SessionKeys:
        """The current keys."""
        return self._keys

    def refresh(self) -> bool:
        """Read the file again when it has changed. True when its keys changed.

        When the file cannot be read, the last good keys stay, and `error` says why.
        """
        if self._path is None:
            return False
        try:
            stamp = self._stamp_of(self._path)
            if stamp == self._stamp:
                return False
            text = self._path.read_text(encoding="utf-8")
            keys = parse_keys(text, str(self._path))
        except (OSError, UnicodeDecodeError, ConfigurationError) as error:
            self.error, self._stamp = str(error), None
            return False
        self.error, self._stamp = None, stamp
        changed, self._keys = keys != self._keys, keys
        self._keep(self._path, text)
        return changed

    def _initial_keys(self) -> SessionKeys:
        if self._path is None:
            return parse_keys(secrets.token_urlsafe(32), "memory")
        with contextlib.suppress(FileExistsError):
            self._create(self._path)
        try:
            self._stamp = self._stamp_of(self._path)
            text = self._path.read_text(encoding="utf-8")
            keys = parse_keys(text, str(self._path))
        except (OSError, UnicodeDecodeError, ConfigurationError) as error:
            words = error if isinstance(error, ConfigurationError) else f"{self._path}: cannot be read: {error}"
            return self._last_good(self._path, str(words))
        self._keep(self._path, text)
        return keys

    def _last_good(self, path: Path, error: str) -> SessionKeys:
        """The keys of the last good file. Raises ConfigurationError without them."""
        good = path.with_name(path.name + GOOD)
        try:
            keys = parse_keys(good.read_text(encoding="utf-8"), str(good))
        except (OSError, UnicodeDecodeError, ConfigurationError):
            raise ConfigurationError(error.splitlines()) from None
        self.error, self._stamp = error, None
        log.error("No valid session key, the last good ones count", error=error, keys=str(good))
        return keys

    @staticmethod
    def _keep(path: Path, text: str) -> None:
        """Keep the text of a good file for a start with a broken one."""
        try:
            replace_text(path.with_name(path.name + GOOD), text, mode=0o600)
        except OSError as error:  # a mounted Secret: it cannot be written, and is not broken by hand
            log.debug("Session keys not kept for a start with a broken file", error=str(error))

    @staticmethod
    def _create(path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise
        except OSError as error:
            msg = f"cannot make the session key {path}: {error.strerror}; choose another place with --session-key-file"
            raise UnavailableError(msg) from None
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32) + "\n")

    @staticmethod
    def _stamp_of(path: Path) -> tuple[int, int]:
        status = os.stat(path)
        return status.st_mtime_ns, status.st_ino
