"""Fuzz the readers of untrusted bytes: `python -m tests.fuzz [--seconds N] [TARGET ...]`.

Each target runs for N seconds, guided by coverage. A finding ends the program with 1, which then
prints where it kept the input; `python -m tests.fuzz --input FILE TARGET` runs that input alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mcpgw_sidecar", "grpclib", "json"]):
    from tests.fuzz.targets import TARGETS

MAX_LEN = 4096  # bytes of an input: beyond it searching is slow and finds the same


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    options.add_argument("--jobs", type=int, default=2, help="targets at a time (default: %(default)s)")
    options.add_argument("--corpus", type=Path, help="where inputs are kept between runs (default: nowhere)")
    options.add_argument("--input", type=Path, help="run this one input, of the one target given")
    options.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    arguments = options.parse_args()
    names = arguments.targets or list(TARGETS)
    if arguments.input is not None:
        TARGETS[names[0]][0](arguments.input.read_bytes())
        return 0
    with tempfile.TemporaryDirectory() as kept:
        corpus = arguments.corpus or Path(kept)
        if arguments.worker:
            _fuzz(names[0], corpus / names[0], arguments.seconds)
        return _run_all(names, corpus, arguments.seconds, arguments.jobs)


def _fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Search until the time is over; atheris ends the process."""
    target, seeds = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LEN}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={name}-", str(corpus)], target)
    atheris.Fuzz()


def _run_all(names: list[str], corpus: Path, seconds: int, jobs: int) -> int:
    """Each target in a process of its own, some at a time; the number of those with a finding."""
    waiting, running, findings = list(names), {}, 0
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            log = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the target is done
            command = [sys.executable, "-m", "tests.fuzz", "--worker", f"--seconds={seconds}", f"--corpus={corpus}", name]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            running[process.pid] = (process, name, log)
        pid, status = os.wait()
        process, name, log = running.pop(
            pid
        )  # held until now: of one that nobody holds, the next Popen takes the status away
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        output = log.read().decode(errors="replace")
        log.close()
        done = next((line.split()[-1] for line in output.splitlines() if "number_of_executed_units" in line), "?")
        print(f"{name}: {done} inputs, {'no finding' if status == 0 else 'FINDING'}", flush=True)
        if status != 0:
            findings += 1
            print(output[-6000:], flush=True)
    return min(findings, 1)


if __name__ == "__main__":
    sys.exit(main())
