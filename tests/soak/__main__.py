"""`python -m tests.soak`: prints what happens, and what nothing explains; exit 1 then."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.run import SETTINGS, soaked

MAX_TOLD = 30  # failures


def main() -> int:
    """Run the settings one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=1.0, help="of chaos, for each setting (default 1)")
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="one replica, two with a store, two without")
    parser.add_argument("--seed", type=int, default=None, help="that of a run before, for the same faults in the same order")
    parser.add_argument("--clients", type=int, default=40)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    failed = False
    for setting in given.setting or SETTINGS:
        began = time.monotonic()

        def say(words: str, began: float = began) -> None:
            print(f"{time.monotonic() - began:7.1f} {words}", flush=True)

        with tempfile.TemporaryDirectory(prefix="mcpgw-soak-") as directory:
            ledger = soaked(setting, given.minutes * 60, seed, Path(directory), say, given.clients)
            failures = [*ledger.wrongs, *ledger.unexplained]
            for words in failures[:MAX_TOLD]:
                print(f"NOT EXPLAINED {words}", flush=True)
            if failures:
                failed = True
                kept = Path(tempfile.mkdtemp(prefix="mcpgw-soak-failed-"))
                (kept / "failures").write_text("\n".join([*ledger.around(0, by=float("inf")), *failures, ""]))
                for log in Path(directory).rglob("*.log"):
                    (kept / str(log.relative_to(directory)).replace("/", "-")).write_bytes(log.read_bytes())
                print(f"{len(failures)} failures, and logs: {kept}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
