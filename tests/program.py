"""A plugin of pytest, `--program PATH`: the program that the end-to-end tests run.

Without it they run this checkout, with the Python of the tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "MCPGW_TEST_PROGRAM"  # read by tests/e2e/stack.py, in the workers of pytest-xdist too


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--program", help="The frozen program that the end-to-end tests run (dist/mcpgw-sidecar/mcpgw-sidecar)."
    )


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    named = early_config.known_args_namespace.program
    if named is not None:
        path = Path(named).resolve()
        if not os.access(path, os.X_OK):
            raise pytest.UsageError(f"--program {path} is no program: make it with build/package")
        os.environ[VARIABLE] = str(path)


def pytest_report_header() -> str:
    return f"program: {os.environ.get(VARIABLE, 'this checkout')}"
