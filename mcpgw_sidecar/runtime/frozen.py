"""What is different when the program is one frozen binary (PyInstaller)."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

FROZEN: bool = getattr(sys, "frozen", False)
_LIBRARIES = "LD_LIBRARY_PATH"


def own_program(*args: str) -> list[str]:
    """The command line of this program itself, from a checkout, an installation or a frozen binary."""
    return [sys.executable, *args] if FROZEN else [sys.executable, "-m", "mcpgw_sidecar", *args]


def restore_library_path(environ: MutableMapping[str, str], *, frozen: bool = FROZEN) -> None:
    """Give the programs that are started (credential plugins, Envoy) the library path that this one was started with.

    The loader of a frozen program lets LD_LIBRARY_PATH point into its own folder and keeps the old value as LD_LIBRARY_PATH_ORIG; this
    process has long read it. Another program would find our OpenSSL there instead of its own.
    """
    if not frozen:
        return
    before = environ.pop(f"{_LIBRARIES}_ORIG", None)
    environ.pop(_LIBRARIES, None)
    if before is not None:
        environ[_LIBRARIES] = before
