"""Many callers with many scopes: `just bench callers [CALLERS]`. Prints Markdown.

Each caller has a token of its own, opens a session, lists, and calls; its group is one of SCOPES,
each of which may use other servers. Then a rule is taken away: until when is every scope's list
another, and the last call through?
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.rig import Account, load_server
from tests.e2e.access.issuing import Issuer
from tests.e2e.stack import UNLIMITED, Client, Gateway, entry, gateway, succeeded, wait_until

SERVERS, TOOLS, SCOPES, AT_ONCE, CHANGES = 60, 100, 20, 16, 5


def rules(*, with_t0: bool = True) -> list[dict[str, Any]]:
    """Each scope may use two thirds of the servers."""
    return [
        {
            "servers": [f"ns/s{number}" for number in range(SERVERS) if (number + scope) % 3],
            "tools": ["t*"] if with_t0 else [f"t{digit}*" for digit in range(1, 10)],
            "allow": [{"groups": [f"g{scope}"]}],
        }
        for scope in range(SCOPES)
    ]


def main(count: str = "10000") -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(load_server(directory, "server", TOOLS))
        issuer = stack.enter_context(Issuer())
        servers = [entry(f"ns/s{number}", f"http://127.0.0.1:{port}/mcp", f"s{number}_") for number in range(SERVERS)]
        access = directory / "access.yaml"
        login = {"issuers": [issuer.entry()]}

        def write(*, with_t0: bool = True) -> None:
            document = {"authentication": login, "authorization": rules(with_t0=with_t0), "limits": UNLIMITED}
            new = access.with_suffix(".new")
            new.write_text(yaml.safe_dump(document))
            new.replace(access)

        write()
        running = stack.enter_context(gateway(directory, servers, f"--access={access}"))
        wait_until(lambda: running.status()["authentication"]["issuers"][0]["keys"], "the keys")
        wait_until(lambda: all(each["tools"] >= TOOLS for each in running.status()["servers"]), "the tools")
        used(running, issuer, int(count))
        changed(running, issuer, write)


def client_of(running: Gateway, issuer: Issuer, number: int) -> Client:
    token = issuer.token(sub=f"caller{number}", groups=[f"g{number % SCOPES}"], exp=2_000_000_000)
    return Client(running.url, authorization=f"Bearer {token}")


def allowed(number: int) -> int:
    """A server that a caller may use."""
    return next(each for each in range(SERVERS) if (each + number % SCOPES) % 3)


def used(running: Gateway, issuer: Issuer, count: int) -> None:
    """Each caller opens a session, lists, and calls three times."""
    sidecar, envoy = Account(running.sidecar.popen.pid), Account(running.envoy.popen.pid)
    with client_of(running, issuer, 0) as first:  # the lists of a scope are made once
        assert first.tools()
    before = sidecar.rss, envoy.rss
    begun = time.monotonic()

    def use(number: int) -> int:
        with client_of(running, issuer, number) as client:
            listed = len(client.tools())
            for _ in range(3):
                assert succeeded(client.call(f"s{allowed(number)}_t0")), number
            return listed

    with ThreadPoolExecutor(AT_ONCE) as pool:
        lists = set(pool.map(use, range(count)))
    seconds = time.monotonic() - begun
    of_sidecar, of_envoy = ((now - then) * 1024 / count for now, then in zip((sidecar.rss, envoy.rss), before, strict=True))
    lookups = {
        result: float(value)
        for result, value in re.findall(
            r'^mcpgw_memo_lookups_total\{result="(\w+)"\} (\S+)$', running.metrics(), re.MULTILINE
        )
    }
    print(
        f"{count} callers, {SCOPES} scopes, {SERVERS} x {TOOLS} tools; pages of {max(lists)} tools; {count / seconds:.0f} callers a second\n"
    )
    print("| kB of each caller | sidecar | Envoy | calls that Envoy remembered |\n|---|---|---|---|")
    print(f"| | {of_sidecar:.1f} | {of_envoy:.1f} | {lookups['hit'] / sum(lookups.values()):.0%} of three |", flush=True)


def changed(running: Gateway, issuer: Issuer, write: Any) -> None:
    """A tool of all servers is taken from all scopes, and given again."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client_of(running, issuer, number)) for number in range(SCOPES)]
        for number, client in enumerate(clients):
            assert succeeded(client.call(f"s{allowed(number)}_t0"))
        listed, called = [], []
        for turn in range(2 * CHANGES):
            is_taken = turn % 2 == 0
            begun = time.monotonic()
            write(with_t0=not is_taken)
            waiting = dict(enumerate(clients))
            last_call = begun
            while waiting:
                for number, client in list(waiting.items()):
                    name = f"s{allowed(number)}_t0"
                    through = succeeded(client.call(name))
                    if through == is_taken:
                        last_call = time.monotonic()
                        continue
                    if (name in client.tools()) != is_taken:
                        del waiting[number]
            listed.append(time.monotonic() - begun)
            called.append(last_call - begun)
    print("\n| a change of rules, s | median | longest |\n|---|---|---|")
    print(f"| until all {SCOPES} lists and calls follow | {statistics.median(listed):.2f} | {max(listed):.2f} |")
    print(f"| until the last call by the old rules | {statistics.median(called):.2f} | {max(called):.2f} |")
