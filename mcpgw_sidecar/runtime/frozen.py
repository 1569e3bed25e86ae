"""Differences of a frozen program (one binary, by PyInstaller)."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

FROZEN: bool = getattr(sys, "frozen", False)
_LIBRARIES = "LD_LIBRARY_PATH"


def own_program(*args: str) -> list[str]:
    """The command line of this program, in a checkout, an installation or a frozen binary."""
    return [sys.executable, *args] if FROZEN else [sys.executable, "-m", "mcpgw_sidecar", *args]


def restore_library_path(environ: MutableMapping[str, str], *, frozen: bool = FROZEN) -> None:
    """Restore the user's library path for the programs that we start (credential plugins, Envoy).

    The loader of a frozen program points LD_LIBRARY_PATH to its own folder, and keeps the old value
    in LD_LIBRARY_PATH_ORIG. This process has loaded its libraries already. Another program would
    load our OpenSSL from there instead of its own.
    """
    if not frozen:
        return
    old_value = environ.pop(f"{_LIBRARIES}_ORIG", None)
    environ.pop(_LIBRARIES, None)
    if old_value is not None:
        environ[_LIBRARIES] = old_value
