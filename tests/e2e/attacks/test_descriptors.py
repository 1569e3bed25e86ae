"""One client against everybody: sockets and files of the process."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mcpgw_sidecar.runtime.descriptors import STREAMS_OF_CLIENTS
from tests.e2e.stack import PLAIN, SOURCE, Client, Gateway, entry, succeeded, wait_until
from tests.servers.scripted import ScriptedServer, tool

LIMIT = 160
EVENTS = {"accept": "text/event-stream"}


class Small(Gateway):
    """A gateway whose sidecar may open few files."""

    program = ("sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh", *SOURCE)


@pytest.fixture
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("one")) as server:
        yield server


@pytest.mark.duty("security.descriptors")
def test_many_sessions_with_streams_leave_enough_for_everybody_else(one: ScriptedServer, tmp_path: Path) -> None:
    """300 sessions held 300 sockets; at the limit /healthz timed out, and nothing recovered."""
    running = Small(tmp_path, [entry("ns/one", one.url, "a_")])
    capable = {"sampling": {}, "elicitation": {}, "roots": {}}
    try:
        with running.client() as calm, contextlib.ExitStack() as greedy:
            assert succeeded(calm.call("a_one"))
            statuses = []
            for _ in range(LIMIT):
                client = greedy.enter_context(Client(running.url, capabilities=capable))
                with contextlib.suppress(httpx2.ReadTimeout):
                    client.call("a_one")
                stream = greedy.enter_context(client.http.stream("GET", running.url, headers=client.headers | EVENTS))
                statuses.append(stream.status_code)
            assert {200, 503} == set(statuses), "some streams are refused"
            open_files = len(list(Path(f"/proc/{running.sidecar.popen.pid}/fd").iterdir()))
            assert open_files < LIMIT - 10
            assert PLAIN.get(f"{running.admin}/healthz").status_code == 200
            assert succeeded(calm.call("a_one"))
            with running.client() as another:
                assert succeeded(another.call("a_one"))
        # Streams to servers wait five minutes for their clients, up to their own part.
        usable = STREAMS_OF_CLIENTS * (LIMIT - LIMIT // 8)
        wait_until(lambda: len(list(Path(f"/proc/{running.sidecar.popen.pid}/fd").iterdir())) < usable, "it recovers")
        with running.client() as client, client.http.stream("GET", running.url, headers=client.headers | EVENTS) as stream:
            assert stream.status_code == 200
    finally:
        running.stop()


@pytest.mark.duty("security.descriptors")
def test_a_flood_of_notifications(one: ScriptedServer, tmp_path: Path) -> None:
    """1,500 over one connection took 640 sockets."""
    running = Small(tmp_path, [entry("ns/one", one.url, "a_")])
    try:
        with running.client() as client, running.client() as calm:
            assert succeeded(client.call("a_one"))
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
            with concurrent.futures.ThreadPoolExecutor(20) as pool:
                list(pool.map(lambda _: client.send(cancelled), range(600)))
            assert succeeded(calm.call("a_one"))
            assert PLAIN.get(f"{running.admin}/healthz").status_code == 200
    finally:
        running.stop()
