"""The addresses that the program listens on: `HOST:PORT` or `unix:PATH`."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from mcpgw_sidecar.errors import TakenError, UnavailableError

MAX_PATH = 107  # bytes of the path of a UNIX socket (sun_path)
BACKLOG = 4096  # connections that wait for accept: enough for 2,000 clients that return at once


@attrs.frozen
class Address:
    """Where to bind or connect. Port 0 lets the system choose; `path` is set for a UNIX socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the system takes its path for a socket."""
        return len(os.fsencode(self.path or "")) <= MAX_PATH

    def __str__(self) -> str:
        """The address as text for an option."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, unix: bool = False) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT`, `:PORT` (all interfaces) and, where allowed, `unix:PATH`.

    Raises ValueError.
    """
    if unix and text.startswith("unix:"):
        return Address(path=text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  # the port range
        msg = f"{text!r} is not HOST:PORT" + (" or unix:PATH" if unix else "")
        raise ValueError(msg)
    return Address(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))  # noqa: S104  # the user wrote ":PORT"


async def open_listener(
    address: Address, option: str, listening_socket: socket.socket | None = None
) -> tuple[trio.SocketListener, Address]:
    """Bind and listen. Returns the listener, and the address with its real port.

    A `listening_socket` for the address, from systemd, is used as it is.
    Raises UnavailableError, naming `option`, when the address is not this machine's, and TakenError
    when it is taken.
    """
    if listening_socket is not None:
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening_socket)), address
    try:
        if address.path is not None:
            return _unix_listener(address.path), address
        listeners = await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except (OSError, socket.gaierror) as error:
        msg = f"cannot listen on {address}: {error.strerror or error}; choose another with {option}"
        is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise (TakenError if is_taken else UnavailableError)(msg) from None
    for spare in listeners[1:]:
        await spare.aclose()
    name = listeners[0].socket.getsockname()
    return listeners[0], Address(address.host, name[1])


def _unix_listener(path: str) -> trio.SocketListener:
    # The socket file of a killed process refuses connections: only such a file is replaced.
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    os.chmod(path, 0o666)  # noqa: S103  # as open as a port on loopback: Envoy runs as another user
    sock.listen(BACKLOG)
    sock.setblocking(False)  # noqa: FBT003  # positional only in C
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def wait_accepting(
    listener: trio.SocketListener,
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    connections: trio.Nursery,
    stop: trio.Event,
) -> None:
    """Handle connections in a nursery until `stop` is set, then close the listener.

    Those that the system has accepted by then are handled, too: closing alone would reset them,
    with the requests that are already written to them.
    """
    number = listener.socket.fileno()
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(number))))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, handle, [accepting], handler_nursery=connections))
        await stop.wait()
        nursery.cancel_scope.cancel()
    with socket.socket(fileno=os.dup(number)) as waiting, contextlib.suppress(OSError):
        while True:  # until nobody waits, or there are no descriptors
            connection, _ = waiting.accept()
            connection.setblocking(False)  # noqa: FBT003  # positional only in C
            connections.start_soon(handle, trio.SocketStream(trio.socket.from_stdlib_socket(connection)))
    listener.socket.close()
