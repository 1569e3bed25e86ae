"""The results of build/package in `dist/`.

These tests want `--program dist/mcpgw-sidecar/mcpgw-sidecar`, as build/test gives it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import FROZEN


@pytest.fixture(scope="session")
def folder() -> Path:
    """The frozen program's folder."""
    if FROZEN is None:
        pytest.skip("there is no frozen program: build/package, then --program dist/mcpgw-sidecar/mcpgw-sidecar")
    return Path(FROZEN).parent


@pytest.fixture(scope="session")
def dist(folder: Path) -> Path:
    return folder.parent


@pytest.fixture(scope="session")
def bill(folder: Path) -> Any:
    return json.loads((folder / "bill.cdx.json").read_text())


@pytest.fixture(scope="session")
def facts(bill: Any) -> dict[str, str]:
    return {fact["name"].removeprefix("mcpgw:"): fact["value"] for fact in bill["metadata"]["component"]["properties"]}


@pytest.fixture(scope="session")
def single(dist: Path) -> Path:
    """The program as one file."""
    return next(path for path in dist.glob("mcpgw-sidecar-*-linux-*") if path.suffix not in {".tar", ".txt"})
