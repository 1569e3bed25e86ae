"""How many files and sockets this process may still open, and for what.

Whoever opens a socket for a client asks first, so that a client with many sessions leaves enough
for calls, and all clients together leave enough for Envoy's router and the admin port. A process
without a descriptor can neither answer a probe nor recover.
"""

from __future__ import annotations

import os
import resource

RESERVE = 64  # for the admin port, the router, files; an eighth where the limit is low
STREAMS_TO_SERVERS, STREAMS_OF_CLIENTS = 0.6, 0.8
"""The parts of the limit up to which long-lived streams are opened; the rest is for requests."""


def raise_limit() -> None:
    """Raise the soft limit, usually 1,024: each stream of a client is a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def has_room(part: float = 1.0) -> bool:
    """Whether fewer than this part of the descriptors, without the reserve, are in use."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest_free = os.open("/", os.O_PATH | os.O_CLOEXEC)  # an image may have no /dev
    except OSError:
        return False
    os.close(lowest_free)
    return lowest_free < part * (limit - min(RESERVE, limit // 8))
