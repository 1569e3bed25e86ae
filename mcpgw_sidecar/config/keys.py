"""The file of the session keys: it is created when missing, and read again when it changes."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from mcpgw_sidecar.errors import ConfigurationError, UnavailableError
from mcpgw_sidecar.sessions.tokens import SessionKeys, parse_keys


class KeyFile:
    """The session keys of a file. Without a path the keys live as long as the process."""

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
            keys = parse_keys(self._path.read_text(encoding="utf-8"), str(self._path))
        except (OSError, UnicodeDecodeError, ConfigurationError) as error:
            self.error = str(error)
            return False
        self.error, self._stamp = None, stamp
        changed, self._keys = keys != self._keys, keys
        return changed

    def _initial_keys(self) -> SessionKeys:
        if self._path is None:
            return parse_keys(secrets.token_urlsafe(32), "memory")
        with contextlib.suppress(FileExistsError):
            self._create(self._path)
        try:
            self._stamp = self._stamp_of(self._path)
            return parse_keys(self._path.read_text(encoding="utf-8"), str(self._path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError([f"{self._path}: the session key cannot be read: {error}"]) from None

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
