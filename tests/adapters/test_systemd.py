"""What systemd hands over, by its own variables and real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.runtime import systemd, trust
from mcpgw_sidecar.runtime.frozen import restore_library_path
from mcpgw_sidecar.runtime.listeners import Address, open_listener
from mcpgw_sidecar.runtime.systemd import ServiceManager


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield held


def test_nothing_is_there_without_systemd() -> None:
    manager = ServiceManager.of_environment({}, 7)
    assert manager.take(Address("127.0.0.1", 8080)) is None
    manager.check_all_taken()
    manager.notify("READY=1")
    assert manager.watchdog is None


@pytest.mark.parametrize(
    "environ",
    [
        {"LISTEN_PID": "8", "LISTEN_FDS": "2"},
        {"LISTEN_PID": "7", "LISTEN_FDS": "x"},
        {"LISTEN_PID": "7"},
        {"LISTEN_FDS": "2"},
        {"WATCHDOG_PID": "8", "WATCHDOG_USEC": "1000000"},
        {"WATCHDOG_PID": "7", "WATCHDOG_USEC": "-1"},
    ],
)
def test_what_is_meant_for_others_or_makes_no_sense_is_left(environ: dict[str, str]) -> None:
    manager = ServiceManager.of_environment(environ, 7)
    manager.check_all_taken()
    assert manager.watchdog is None
    assert environ == {}  # programs that we start do not take it for theirs


def test_a_held_socket_is_known_by_its_address_and_given_once(port: socket.socket, tmp_path: Path) -> None:
    file = tmp_path / "router.sock"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(file))
        manager = ServiceManager([port.dup(), unix.dup()])
    bound = port.getsockname()[1]
    for other in (
        Address("127.0.0.1", bound + 1),
        Address("127.0.0.2", bound),
        Address(path=str(tmp_path)),
        Address(path="/nowhere"),
    ):
        assert manager.take(other) is None
    sockets = manager.take(Address("localhost", bound))
    assert sockets is not None
    assert sockets.getsockname() == port.getsockname()
    sockets.close()
    assert manager.take(Address("127.0.0.1", bound)) is None
    with pytest.raises(ConfigurationError, match=r"systemd holds unix:.*router\.sock, and no option names it"):
        manager.check_all_taken()
    same = manager.take(Address(path=str(tmp_path / "." / "router.sock")))
    assert same is not None
    same.close()
    manager.check_all_taken()


async def test_a_held_socket_serves(port: socket.socket) -> None:
    address = Address(*port.getsockname())
    listener, bound = await open_listener(address, "--x-address", port.dup())
    async with listener:
        assert bound == address
        with socket.create_connection(port.getsockname()):
            async with await listener.accept():
                pass


@pytest.mark.parametrize("abstract", [True, False])
async def test_signs_of_life(abstract: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    del autojump_clock
    name = f"\0mcpgw-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket:
        notify_socket.bind(name)
        environ = {"NOTIFY_SOCKET": name.replace("\0", "@"), "WATCHDOG_USEC": "20000000"}
        manager = ServiceManager.of_environment(environ, 7)
        assert manager.watchdog == 20
        with trio.move_on_after(25):
            await manager.wait_alive()
        assert [notify_socket.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        manager.notify("READY=1", "STATUS=x")
        assert notify_socket.recv(100) == b"READY=1\nSTATUS=x"
    manager.notify("READY=1")  # nobody listens any more


def test_the_library_path_of_a_frozen_program_is_not_handed_on() -> None:
    environ = {"LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/opt/lib"}
    restore_library_path(environ, frozen=True)
    assert environ == {"LD_LIBRARY_PATH": "/opt/lib"}
    environ = {"LD_LIBRARY_PATH": "/bundle"}
    restore_library_path(environ, frozen=True)
    assert environ == {}
    environ = {"LD_LIBRARY_PATH": "/mine"}
    restore_library_path(environ, frozen=False)
    assert environ == {"LD_LIBRARY_PATH": "/mine"}


def test_trust_is_the_systems_or_what_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    bundle = tmp_path / "bundle.pem"
    monkeypatch.setattr(trust, "_BUNDLES", (str(tmp_path / "missing.pem"), str(bundle)))
    assert trust.system_bundle() is None
    bundle.touch()
    assert trust.system_bundle() == str(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    assert trust.system_bundle() == "/mine.pem"


def test_what_is_no_listening_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as held:
            monkeypatch.setattr(systemd, "_FIRST", held.fileno())
            with pytest.raises(ConfigurationError, match="no listening stream socket"):
                ServiceManager.of_environment({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)
            held.detach()
    monkeypatch.setattr(systemd, "_FIRST", 99_999)
    with pytest.raises(ConfigurationError, match="99999"):
        ServiceManager.of_environment({"LISTEN_PID": "7", "LISTEN_FDS": "3"}, 7)


def test_what_listens_everywhere_listens_at_each_address() -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        port = everywhere.getsockname()[1]
        manager = ServiceManager([everywhere.dup()])
    assert manager.take(Address("127.0.0.1", port + 1)) is None
    sockets = manager.take(Address("127.0.0.1", port))
    assert sockets is not None
    sockets.close()
