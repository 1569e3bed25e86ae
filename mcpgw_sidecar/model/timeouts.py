"""Timeouts in seconds, which must add up: each is longer than the timeouts inside it.

::

    router (Envoy waits for the router)
    └── decision (the router waits for its answer)
        ├── START        a configuration, after a start
        └── opening      a session with a server
            ├── STORE    has another replica opened one?
            ├── REQUEST  initialize, and the notification after it
            ├── STORE    offer it to the other replicas
            └── LISTEN   the stream on which the server may send requests to the client

    healing (heal.lua waits for the broker)
    ├── REQUEST          does the server still know the session?
    └── opening          another session in its place

REQUEST is a default: the operator may give slow servers more (`--discovery-timeout`). What grows
with it is a function of it. tests/core/test_contract.py checks that the sums hold.
"""

from __future__ import annotations

from typing import Final

MARGIN: Final = 1.0
"""The time that an answer needs to arrive, on a busy machine."""

STORE: Final = 0.5
"""One operation of the session store: opening another session is better than a longer wait."""

CONNECT: Final = 5.0
"""Until a TCP and TLS connection with a server is open."""

REQUEST: Final = 10.0
"""One of the gateway's own requests to a server, answer included."""

LISTEN: Final = 1.0
"""How long the first call of a session waits until its server can send requests to the client."""

CLOSE: Final = 2.0
"""How long a server may take to end a session; after that the session is left to its expiry."""

START: Final = 9.0
"""How long a request waits for a configuration after a start, so that a decision is in time."""

START_AT_BROKER: Final = 10.0
"""The same at the broker, for which Envoy waits for ever.

It is below the timeouts of clients and proxies.
"""


def opening(request: float = REQUEST) -> float:
    """The longest time that opening a session with a server takes."""
    return STORE + request + STORE + LISTEN


def decision(request: float = REQUEST) -> float:
    """The longest time that the router takes for one request."""
    return opening(request) + MARGIN


def router(request: float = REQUEST) -> float:
    """How long Envoy waits for the router."""
    return decision(request) + MARGIN


def healing(request: float = REQUEST) -> float:
    """How long heal.lua waits for the broker: for a ping, and for another session."""
    return request + opening(request) + MARGIN
