"""Differences of a frozen program (one binary, by PyInstaller)."""

from __future__ import annotations

import json
import sys
from collections.abc import MutableMapping
from importlib.resources import files

FROZEN: bool = getattr(sys, "frozen", False)
BILL = "bill.json"
"""The file with the bill of materials in a frozen program, beside the package."""
COMMIT = "mcpgw:commit"
_LIBRARIES = "LD_LIBRARY_PATH"


def own_program(*args: str) -> list[str]:
    """The command line of this program, in a checkout, an installation or a frozen binary."""
    return [sys.executable, *args] if FROZEN else [sys.executable, "-m", "mcpgw_sidecar", *args]


def commit() -> str:
    """The commit of which a frozen program was built, "" for any other."""
    if not FROZEN:
        return ""
    materials = json.loads((files("mcpgw_sidecar") / BILL).read_text(encoding="utf-8"))
    facts = {fact["name"]: fact["value"] for fact in materials["metadata"]["component"]["properties"]}
    return str(facts.get(COMMIT, ""))


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
