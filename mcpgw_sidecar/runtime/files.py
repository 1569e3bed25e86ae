"""Writing files so that nobody ever reads half of one."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file beside its place, then move it there: whoever reads gets the old file or the new one, never a half.

    Raises OSError, with everything as it was.
    """
    path = path.resolve()  # a link stays one
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, stat.S_IMODE(os.stat(path).st_mode) if path.exists() else 0o644)  # Envoy may run as another user
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
