"""Reads and writes of sockets with as few turns of Trio's loop as can be.

Trio's own let all other tasks run after each read and write, and try to read before they wait. On
the path of a call each such turn is a system call more, and costs as much as the write itself.
"""

from __future__ import annotations

import os

import trio


def written(stream: trio.abc.Stream, data: bytes | bytearray) -> int:
    """How many bytes of `data` the system took at once; `send_all` has to send the rest.

    Nobody else may be writing to the stream. With TLS it is none. A fault shows at the next write
    or read, as Trio's.
    """
    if not data or not isinstance(stream, trio.SocketStream):
        return 0
    try:
        return os.write(stream.socket.fileno(), data)
    except OSError:  # full, closed or broken: send_all waits, or says it
        return 0


async def wait_read(stream: trio.abc.ReceiveStream, most: int) -> bytes:
    """What has come, up to `most` bytes; nothing at the end. Raises what `receive_some` raises."""
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(most))
    number = stream.socket.fileno()
    if number < 0:
        raise trio.ClosedResourceError
    await trio.lowlevel.wait_readable(number)
    if stream.socket.fileno() != number:  # it was closed meanwhile, and another one may have the number
        raise trio.ClosedResourceError
    try:
        return os.read(number, most)
    except BlockingIOError:
        return bytes(await stream.receive_some(most))
    except OSError as error:
        raise trio.BrokenResourceError from error
