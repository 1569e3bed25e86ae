"""The sidecar under systemd, which the test plays with real sockets.

systemd holds the sockets and gets the status, and a restart loses no call.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import PROGRAM, Client, Gateway, Process, answer, entry, free_ports, wait_until
from tests.servers.scripted import ScriptedServer, tool

# What systemd does between fork and exec (sd_listen_fds(3)): the sockets from 3 on, and for whom
# they are.
LAUNCHER = """
import os, sys
given, command = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2:]
high = [os.dup2(fd, 100 + place) for place, fd in enumerate(given)]
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "WATCHDOG_PID": str(os.getpid())}
os.execvp(command[0], command)
"""


class Manager:
    """Listening sockets that outlive the sidecar, and the socket that it reports to."""

    def __init__(self, directory: Path) -> None:
        self.reports = directory / "notify"
        self.told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told.bind(str(self.reports))
        self.router = directory / "router.sock"
        self.held: list[socket.socket] = []

    def hold(self, *addresses: tuple[str, int] | str) -> None:
        for address in addresses:
            sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
            sock.bind(address)
            sock.listen(4096)
            self.held.append(sock)

    @property
    def launcher(self) -> tuple[str, ...]:
        return (sys.executable, "-c", LAUNCHER, ",".join(str(sock.fileno()) for sock in self.held))

    def wait_told(self, word: str) -> None:
        self.told.settimeout(20)
        while word not in self.told.recv(4096).decode().splitlines():
            pass

    def close(self) -> None:
        for sock in (*self.held, self.told):
            sock.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    new_manager = Manager(tmp_path)
    yield new_manager
    new_manager.close()


class Service(Gateway):
    """A gateway whose sockets the manager holds: the router's is a file, the others are ports."""

    manager: Manager

    def start_sidecar(self) -> Process:
        manager = self.manager
        if not manager.held:
            manager.hold(str(manager.router), *(("127.0.0.1", self.ports[name]) for name in ("broker", "admin")))
            self.options = (f"--router-address=unix:{manager.router}", "--drain-time=5s")
        self.launcher, self.fds = manager.launcher, tuple(sock.fileno() for sock in manager.held)
        self.env = {"NOTIFY_SOCKET": str(manager.reports), "WATCHDOG_USEC": "400000"}
        return super().start_sidecar()


@pytest.fixture
def service(manager: Manager, one: ScriptedServer, tmp_path: Path) -> Iterator[Service]:
    one.tools = [tool("one")]
    Service.manager = manager
    running = Service(tmp_path, [entry("ns/one", one.url, "a_")])
    yield running
    running.stop()


def test_systemd_is_told(service: Service, manager: Manager) -> None:
    manager.wait_told("READY=1")
    manager.wait_told("WATCHDOG=1")
    manager.wait_told("WATCHDOG=1")
    service.sidecar.popen.terminate()
    manager.wait_told("STOPPING=1")
    assert service.sidecar.wait() == 0


def worker(act: Callable[[], object], stop: threading.Event, counts: Counter[object]) -> threading.Thread:
    def work() -> None:
        while not stop.is_set():
            try:
                counts[act()] += 1
            except Exception as error:  # noqa: BLE001  # a lost call, whatever it looks like
                counts[repr(error)] += 1

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_restart_loses_no_call(service: Service) -> None:
    """Three restarts with known and new sessions, calls and lists: every answer is a result."""
    stop, results = threading.Event(), Counter[object]()

    def call(client: Client) -> object:
        response = client.call("a_one")
        return (response.status_code, "result" in answer(response))

    def listed(client: Client) -> object:
        response = client.post("tools/list")
        return (response.status_code, "result" in response.json())

    def begin() -> object:
        with service.client() as client:
            return call(client)

    clients = [service.client() for _ in range(4)]
    acts: list[Callable[[], object]] = [
        *(lambda c=c: call(c) for c in clients),
        *(lambda c=c: listed(c) for c in clients),
        begin,
    ]
    threads = [worker(act, stop, results) for act in acts]
    counts = []
    for _ in range(3):
        before = results.total()
        wait_until(lambda before=before: results.total() > before + 50, "calls")
        service.sidecar.popen.terminate()
        assert service.sidecar.wait() == 0
        counts.append(results.total())
        service.start_sidecar()
    wait_until(lambda: results.total() > counts[-1] + 50, "calls after the last restart")
    stop.set()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert set(results) == {(200, True)}, results


def test_a_socket_that_nothing_serves_is_an_error(manager: Manager, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("servers: []\n")
    held, *ports = free_ports(4)
    manager.hold(("127.0.0.1", held))
    options = [f"--{name}-address=127.0.0.1:{port}" for name, port in zip(("router", "broker", "admin"), ports, strict=True)]
    command = [*manager.launcher, *PROGRAM, "run", f"--config={config}", *options]
    process = Process(command, tmp_path / "log", fds=(manager.held[0].fileno(),))
    assert process.wait() == 64
    assert f"systemd holds 127.0.0.1:{held}, and no option names it" in process.text
