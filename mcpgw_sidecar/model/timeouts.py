"""Times that must add up, in seconds: whoever waits for somebody waits longer than that one may.

::

    ROUTER (Envoy waits for the router)
    └── DECISION (the router waits for its answer)
        ├── START        a configuration, after a start
        └── OPENING      a session with a server
            ├── STORE    has another replica opened one?
            ├── REQUEST  initialize, and the notification behind it
            ├── STORE    offer it to the other replicas
            └── LISTEN   the stream on which the server may ask the client something

    HEALING (heal.lua waits for the broker)
    ├── PING             does the server still know the session?
    └── OPENING          another one in its place

The sums stand below as sums, and tests/core/test_contract.py checks the rest.
"""

from __future__ import annotations

from typing import Final

MARGIN: Final = 1.0
"""What an answer needs to reach whoever waits for it, on a machine that is busy."""

STORE: Final = 0.5
"""One operation of the session store: a call would rather open another session than wait longer."""

CONNECT: Final = 5.0
"""Until a TCP and TLS connection with a server stands."""

REQUEST: Final = 10.0
"""One of the broker's own requests to a server, answer included."""

PING: Final = REQUEST
"""The same, for the ping that asks whether a session lives."""

LISTEN: Final = 1.0
"""How long the first call of a session waits until its server can ask the client something."""

CLOSE: Final = 2.0
"""How long a server may take to end a session before it is left to its own expiry."""

OPENING: Final = STORE + REQUEST + STORE + LISTEN
"""The longest that a session with a server takes to open."""

DECISION: Final = OPENING + MARGIN
"""The longest that the router takes for one request, whatever it waits for."""

ROUTER: Final = DECISION + MARGIN
"""How long Envoy waits for the router."""

START: Final = 9.0
"""How long a request waits for a configuration after a start: it is answered within DECISION."""

START_AT_BROKER: Final = 10.0
"""The same at the broker, for which Envoy waits for ever: below what clients and proxies give a request."""

HEALING: Final = PING + OPENING + MARGIN
"""How long heal.lua waits for the broker."""
