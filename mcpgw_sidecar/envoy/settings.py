"""What Envoy's resources depend on besides the servers."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Endpoint:
    """Where something listens: host and port, or the path of a UNIX socket."""

    host: str = ""
    port: int = 0
    path: str | None = None


@attrs.frozen(kw_only=True)
class EnvoySettings:
    """`directory` is where Envoy finds its files; `max_body` in bytes, times in seconds. `ca_bundle` is the system's.

    `heal` and `messages` are texts of Lua filters: one exchanges a session that its server has forgotten, the other repeats the
    router's decisions and makes the requests of servers name their server (envoyfiles/scripts.py).
    """

    directory: str
    gateway: Endpoint
    admin: Endpoint
    broker: Endpoint
    router: Endpoint
    max_body: int
    call_timeout: float
    heal: str
    messages: str
    tls_cert: str | None = None
    tls_key: str | None = None
    ca_bundle: str | None = None
    allowed_origins: tuple[str, ...] = ()
    debug: bool = False
    memo: bool = True
