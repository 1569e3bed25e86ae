"""How many calls the broker carries at a time: of one client, and of all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.runtime import descriptors

OF_ONE, OF_ALL = 50, 500
PATIENCE: Final = 600.0  # seconds that a client has for an answer: a person may have to read, and to think
RESTARTING: Final = "MCP server {} had not answered when the gateway had to restart: the call may have run"
MAX_HELD = 16 << 20  # characters of their requests, each of which is in memory several times


def silence_of(server: Server, usual: float) -> float | None:
    """The longest pause of a server in a call, in seconds; None for no limit."""
    return (usual if server.call_timeout is None else server.call_timeout) or None


def busy() -> UpstreamError:
    """Why a call is not carried that has no room."""
    return UpstreamError("Busy", "was not asked: too many calls are being carried")


@attrs.define
class Room:
    """The calls that are carried, by the key of their client."""

    _of_client: Counter[str] = attrs.field(factory=Counter, init=False)
    _size: int = attrs.field(default=0, init=False)

    @contextlib.contextmanager
    def taken(self, key: str, size: int) -> Iterator[bool]:
        """Whether there is room for one more call of a client, which takes it meanwhile.

        `size` is that of its request, in characters.
        """
        if (
            self._of_client[key] >= OF_ONE
            or self._of_client.total() >= OF_ALL
            or (self._size > 0 and self._size + size > MAX_HELD)
            or not descriptors.has_room(descriptors.STREAMS_TO_SERVERS)
        ):
            yield False
            return
        self._of_client[key] += 1
        self._size += size
        try:
            yield True
        finally:
            self._size -= size
            self._of_client[key] -= 1
            if not self._of_client[key]:
                del self._of_client[key]
