"""What login and rules cost a hit: the same call with and without them, in one run.

Usage: login [CONNECTIONS[,CONNECTIONS...] [ROUNDS]].
"""

from __future__ import annotations

import random
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.calls import Case, gateway
from tests.benchmarks.rig import Load, call, load_server
from tests.e2e.access.issuing import Issuer

WARM, ROUND = 2.0, 0.6  # seconds
RULES = [
    {"servers": ["ns/*"], "tools": ["t*", "sse"], "allow": [{"groups": [f"g{number}" for number in range(20)]}]},
    {"servers": ["other/*"], "allow": [{"groups": ["admins"]}]},
]


def main(connections: str = "1,8,32,128", rounds: str = "15") -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {name: stack.enter_context(load_server(directory, name)) for name in ("one", "two")}
        issuer = stack.enter_context(Issuer())
        token = ("-token", issuer.token(groups=["g7", "x"], exp=2_000_000_000))
        login = {"issuers": [issuer.entry()]}
        cases = [
            Case("without login", gateway(stack, directory / "none", ports), call("one_t0")),
            Case("without login, again", gateway(stack, directory / "again", ports), call("one_t0")),
            Case("login", gateway(stack, directory / "login", ports, authentication=login), call("one_t0"), token),
            Case(
                "login and rules",
                gateway(stack, directory / "rules", ports, authentication=login, authorization=RULES),
                call("one_t0"),
                token,
            ),
        ]
        for count in map(int, connections.split(",")):
            loads = [Load(case.target, count, case.message, *case.options) for case in cases]
            for load in loads:
                load.round(WARM)
            results: list[list[dict[str, float]]] = [[] for _ in cases]
            for _ in range(int(rounds)):
                for place in random.sample(range(len(cases)), len(cases)):
                    results[place].append(loads[place].round(ROUND))
            print(f"\n**{count} connections**\n\n| | CPU, us | of the first | failed |\n|{'---|' * 4}")
            first = statistics.median(each["cpu"] for each in results[0])
            for place, case in enumerate(cases):
                cpu = statistics.median(each["cpu"] for each in results[place])
                failed = sum(each["errors"] for each in results[place])
                print(f"| {case.name} | {cpu:.0f} | {cpu / first:.2f} | {failed:.0f} |", flush=True)
            for load in loads:
                load.close()
