"""systemd, as a service sees it: sockets that it holds for us, readiness, the watchdog. Without systemd nothing of this happens.

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): variables of the environment, and lines sent to a socket.
Sockets that systemd holds outlive the process: while it is restarted, connections wait in them instead of being refused.
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
from mcpgw_sidecar.runtime.listeners import Address

_FIRST = 3  # the first file descriptor that is handed over (SD_LISTEN_FDS_START)
_EVERYWHERE = frozenset({"::", "0.0.0.0"})  # noqa: S104  # what listens there listens at each address
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


@attrs.define
class ServiceManager:
    """What systemd gave to this process. `watchdog` is the longest time between two signs of life in seconds, None for no watchdog."""

    _sockets: list[socket.socket] = attrs.field(factory=list)
    _notify: str | None = None
    watchdog: float | None = None

    @classmethod
    def of_environment(cls, environ: MutableMapping[str, str], pid: int) -> ServiceManager:
        """Take what is meant for the process `pid`, and the variables away: programs that we start are not meant.

        Raises ConfigurationError for what is no listening socket.
        """
        found = {name: environ.pop(name, "") for name in _VARIABLES}
        sockets = []
        if found["LISTEN_PID"] == str(pid):
            sockets = [_taken(fd) for fd in range(_FIRST, _FIRST + _number(found["LISTEN_FDS"]))]
        watched = found["WATCHDOG_PID"] in {"", str(pid)}
        seconds = _number(found["WATCHDOG_USEC"]) / 1e6 if watched else 0.0
        return cls(sockets, found["NOTIFY_SOCKET"] or None, seconds or None)

    def take(self, address: Address) -> socket.socket | None:
        """The listening socket that is held at this address; each is given out once."""
        for held in self._sockets:
            if _is_at(held, address):
                self._sockets.remove(held)
                return held
        return None

    def check_all_taken(self) -> None:
        """Raises ConfigurationError when a socket is held that nothing serves: whoever connects to it would wait for ever."""
        if left := ", ".join(str(_address(held)) for held in self._sockets):
            remedy = "MCPGW_ROUTER_ADDRESS, MCPGW_BROKER_ADDRESS and MCPGW_ADMIN_ADDRESS have to be those of the socket unit"
            raise ConfigurationError([f"systemd holds {left}, and no option names it: {remedy}"])

    def notify(self, *lines: str) -> None:
        """Tell systemd, for example `READY=1` and `STATUS=3 servers`. That it does not listen is no reason to fail."""
        if self._notify is None:
            return
        name = "\0" + self._notify[1:] if self._notify.startswith("@") else self._notify
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # noqa: FBT003  # positional only in C
            sock.sendto("\n".join(lines).encode(), name)

    async def wait_alive(self) -> None:
        """Give a sign of life twice in the time that the watchdog allows, as long as the tasks of this process get their turns."""
        while self.watchdog is not None:
            self.notify("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _taken(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)  # noqa: FBT003  # positional only in C
        held = socket.socket(fileno=fd)
        listens = held.type == socket.SOCK_STREAM and held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        raise ConfigurationError([f"systemd handed over file descriptor {fd}, which is no listening stream socket"])
    return held


def _address(held: socket.socket) -> Address:
    name = held.getsockname()
    return Address(path=name) if held.family == socket.AF_UNIX else Address(name[0], name[1])


def _is_at(held: socket.socket, address: Address) -> bool:
    bound = _address(held)
    if address.path is not None or bound.path is not None:
        return address.path is not None and bound.path is not None and _same_file(address.path, bound.path)
    if bound.port != address.port or bound.host in _EVERYWHERE:
        return bound.port == address.port
    with contextlib.suppress(OSError):
        named = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return bound.host in {info[4][0] for info in named}
    return False


def _same_file(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.stat(one).st_mode) and os.path.samefile(one, other)
    return False
