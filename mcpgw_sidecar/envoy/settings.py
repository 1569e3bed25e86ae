"""The settings of Envoy's resources, besides the servers."""

from __future__ import annotations

import attrs

LISTENER_PORT = 8888  # of the gateway, by default
MAX_BODY = 4 << 20  # bytes of a client's request, by default


@attrs.frozen(kw_only=True)
class Endpoint:
    """An address: host and port, or the path of a UNIX socket."""

    host: str = ""
    port: int = 0
    path: str | None = None


@attrs.frozen(kw_only=True)
class EnvoySettings:
    """`directory` is Envoy's path to its files; `max_body` is in bytes, times are in seconds.

    `secret` follows the paths of Envoy's own questions to the broker.

    `heap` is the limit of Envoy's own memory in bytes, None for none. `ca_bundle` is the system's.
    At `inner` the broker hands in the messages of batches. `trusted_hops` is the number of proxies
    in front that say who the client is (X-Forwarded-For). `log_collector` is the URL of a collector
    of OpenTelemetry that gets each request's line.

    `refused`, `heal` and `messages` are the texts of Lua filters (envoyfiles/scripts.py). `refused`
    and `heal` replace a session that its server has forgotten. `messages` repeats decisions of the
    router, puts the name of the server into the requests of servers, and makes errors of answers
    that are none.
    """

    directory: str
    gateway: Endpoint
    admin: Endpoint
    broker: Endpoint
    router: Endpoint
    inner: Endpoint | None
    max_body: int
    call_timeout: float
    discovery_timeout: float
    refused: str
    heal: str
    messages: str
    tls_cert: str | None = None
    tls_key: str | None = None
    ca_bundle: str | None = None
    allowed_origins: tuple[str, ...] = ()
    debug: bool = False
    memo: bool = True
    heap: int | None = None
    trusted_hops: int = 0
    log_collector: str | None = None
    secret: str = ""
