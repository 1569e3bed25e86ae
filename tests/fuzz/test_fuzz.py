"""A minute of the fuzzers, as a test; `just fuzz` searches longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT, environment
from tests.fuzz.targets import TARGETS, LawBrokenError, sse

SECONDS = 8  # for each target


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_hold(name: str) -> None:
    target, seeds = TARGETS[name]
    for seed in [*seeds, b"", b"\0"]:
        target(seed)


def test_a_broken_law_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.targets.SseParser", _Forgetful)
    with pytest.raises(LawBrokenError):
        sse(b"\xffdata: a\ndata: b\n\n")


class _Forgetful:
    """A parser that holds nothing between two chunks."""

    def __init__(self, _limit: int) -> None: ...

    def feed(self, chunk: bytes) -> list[bytes]:
        return chunk.split(b"\n")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="there is no atheris for this Python on PyPI")
def test_a_minute_without_a_finding(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={SECONDS}"]
    environ = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environ, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("no finding") == len(TARGETS)
