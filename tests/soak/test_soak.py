"""A minute of load and faults in each setting, and docs/failures.md says what the driver holds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.e2e.clients import CACHE
from tests.e2e.test_replicas import redis_program
from tests.soak.faults import ROWS
from tests.soak.run import SETTINGS, soaked

CLIENTS = 10
SECONDS = 20.0  # of faults; the account takes as long again


def test_the_table_is_what_the_driver_holds() -> None:
    text = Path("docs/failures.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| ")][1:] == [
        f"| {row.fault} | {row.text} |" for row in ROWS
    ]


@pytest.mark.skipif(not (CACHE / "mcp1").exists(), reason="needs the servers of others: build/clients")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.duty("restart.soak")
def test_nothing_fails_that_no_fault_explains(setting: str, tmp_path: Path) -> None:
    if setting == "store" and redis_program() is None:
        pytest.skip("no redis-server: install redis or valkey for this Python")
    seed, said = random.SystemRandom().randrange(10**6), list[str]()
    ledger = soaked(setting, SECONDS, seed, tmp_path, said.append, CLIENTS)
    failures = [*ledger.wrongs, *ledger.unexplained]
    assert not failures, "\n".join([*said, *failures[:10]])
    assert ledger.count > 0
