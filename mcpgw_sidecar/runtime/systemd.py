"""systemd for a service: sockets that it opened for us, readiness, the watchdog.

Without systemd nothing happens.

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): environment
variables, and lines that are sent to a socket. The sockets of systemd outlive the process: while it
restarts, connections wait in them instead of being refused.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import MutableMapping

import attrs
import trio

from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.hosts import EVERYWHERE
from mcpgw_sidecar.runtime.listeners import Address

_FIRST = 3  # the first file descriptor from systemd (SD_LISTEN_FDS_START)
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


@attrs.define
class ServiceManager:
    """The sockets and settings from systemd.

    `watchdog` is the longest time between two signs of life in seconds, None without a watchdog.
    """

    _sockets: list[socket.socket] = attrs.field(factory=list)
    _notify: str | None = None
    watchdog: float | None = None

    @classmethod
    def of_environment(cls, environ: MutableMapping[str, str], pid: int) -> ServiceManager:
        """Read systemd's variables if they are for the process `pid`.

        They are removed, because they are not for the programs that we start.

        Raises ConfigurationError for a file descriptor that is no listening socket.
        """
        values = {name: environ.pop(name, "") for name in _VARIABLES}
        sockets = []
        if values["LISTEN_PID"] == str(pid):
            sockets = [_listening_socket(fd) for fd in range(_FIRST, _FIRST + _number(values["LISTEN_FDS"]))]
        is_watched = values["WATCHDOG_PID"] in {"", str(pid)}
        seconds = _number(values["WATCHDOG_USEC"]) / 1e6 if is_watched else 0.0
        return cls(sockets, values["NOTIFY_SOCKET"] or None, seconds or None)

    def take(self, address: Address) -> socket.socket | None:
        """The listening socket of an address; each socket is returned once."""
        for sock in self._sockets:
            if _is_at(sock, address):
                self._sockets.remove(sock)
                return sock
        return None

    def check_all_taken(self) -> None:
        """Raise ConfigurationError for a socket that nothing serves: its clients would wait."""
        if addresses := ", ".join(str(_address(sock)) for sock in self._sockets):
            remedy = "MCPGW_ROUTER_ADDRESS, MCPGW_BROKER_ADDRESS and MCPGW_ADMIN_ADDRESS have to be those of the socket unit"
            raise ConfigurationError([f"systemd holds {addresses}, and no option names it: {remedy}"])

    def notify(self, *lines: str) -> None:
        """Send lines to systemd, for example `READY=1` and `STATUS=3 servers`.

        Errors are ignored.
        """
        if self._notify is None:
            return
        name = "\0" + self._notify[1:] if self._notify.startswith("@") else self._notify
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # noqa: FBT003  # positional only in C
            sock.sendto("\n".join(lines).encode(), name)

    async def wait_alive(self) -> None:
        """Send a sign of life twice in the watchdog's time.

        It stops when the tasks of this process no longer get their turns.
        """
        while self.watchdog is not None:
            self.notify("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _listening_socket(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)  # noqa: FBT003  # positional only in C
        sock = socket.socket(fileno=fd)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        raise ConfigurationError([f"systemd handed over file descriptor {fd}, which is no listening stream socket"])
    return sock


def _address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return Address(path=name) if sock.family == socket.AF_UNIX else Address(name[0], name[1])


def _is_at(sock: socket.socket, address: Address) -> bool:
    own_address = _address(sock)
    if address.path is not None or own_address.path is not None:
        return address.path is not None and own_address.path is not None and _same_file(address.path, own_address.path)
    if own_address.port != address.port or own_address.host in EVERYWHERE:
        return own_address.port == address.port
    with contextlib.suppress(OSError):
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return own_address.host in {info[4][0] for info in infos}
    return False


def _same_file(path: str, other_path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.stat(path).st_mode) and os.path.samefile(path, other_path)
    return False
