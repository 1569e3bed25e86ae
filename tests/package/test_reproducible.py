"""Two builds of one commit give the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT


def test_a_second_build_gives_the_same_bytes(dist: Path, facts: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git here to tell which commit this is")
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if facts.get("commit") != head.stdout.strip():
        pytest.skip("what lies in dist/ was built from another commit, or with changes")
    done = subprocess.run(
        [str(ROOT / "build" / "package"), str(tmp_path)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
