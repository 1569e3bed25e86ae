"""Replaces files atomically."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def replace_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Replace the file `path`, so that a reader gets the old text or the new one, never a half.

    The text is written to a file beside it, which is then moved. Without a `mode` the file keeps
    its own, or can be read by everybody. Raises OSError, and leaves the old file.
    """
    path = path.resolve()  # replace the target of a symbolic link, not the link
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if mode is None:  # Envoy may run as another user
            mode = stat.S_IMODE(os.stat(path).st_mode) if path.exists() else 0o644
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
