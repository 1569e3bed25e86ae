"""Timeouts in seconds, which must add up: each is longer than the timeouts inside it.

::

    ROUTER (Envoy waits for the router)
    └── DECISION (the router waits for its answer)
        ├── START        a configuration, after a start
        └── OPENING      a session with a server
            ├── STORE    has another replica opened one?
            ├── REQUEST  initialize, and the notification after it
            ├── STORE    offer it to the other replicas
            └── LISTEN   the stream on which the server may send requests to the client

    HEALING (heal.lua waits for the broker)
    ├── PING             does the server still know the session?
    └── OPENING          another session in its place

The sums stand below as sums, and tests/core/test_contract.py checks the rest.
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

PING: Final = REQUEST
"""The ping that checks whether a session is still valid."""

LISTEN: Final = 1.0
"""How long the first call of a session waits until its server can send requests to the client."""

CLOSE: Final = 2.0
"""How long a server may take to end a session; after that the session is left to its expiry."""

OPENING: Final = STORE + REQUEST + STORE + LISTEN
"""The longest time that opening a session with a server takes."""

DECISION: Final = OPENING + MARGIN
"""The longest time that the router takes for one request."""

ROUTER: Final = DECISION + MARGIN
"""How long Envoy waits for the router."""

START: Final = 9.0
"""How long a request waits for a configuration after a start, so that DECISION is kept."""

START_AT_BROKER: Final = 10.0
"""The same at the broker, for which Envoy waits for ever.

It is below the timeouts of clients and proxies.
"""

HEALING: Final = PING + OPENING + MARGIN
"""How long heal.lua waits for the broker."""
