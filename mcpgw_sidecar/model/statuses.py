"""The status of each server: the published value that `/status` and the metrics read."""

from __future__ import annotations

import attrs

from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server


@attrs.frozen(kw_only=True)
class Conflict:
    """A name of this server that an earlier server owns."""

    kind: str
    name: str
    owner: ServerName


@attrs.frozen(kw_only=True)
class Invalid:
    """An item of a server's list that is left out, and why."""

    kind: str
    name: str
    reason: str


@attrs.frozen(kw_only=True)
class Warned:
    """An item that clients see, and with which some of them will have trouble."""

    kind: str
    name: str
    reason: str


@attrs.frozen(kw_only=True)
class Health:
    """The state of the gateway's own connection to a server.

    `last_contact` is in epoch seconds, None before the first.
    """

    ready: bool = False
    reason: str = "Pending"
    message: str = "not tried yet"
    protocol_version: str | None = None
    last_contact: float | None = None
    failures: int = 0
    tried: bool = False


@attrs.frozen(kw_only=True)
class ServerStatus:
    """One row of `/status`."""

    server: Server
    health: Health
    tools: int = 0
    prompts: int = 0
    resources: int = 0
    conflicts: tuple[Conflict, ...] = ()
    invalid: tuple[Invalid, ...] = ()
    warnings: tuple[Warned, ...] = ()
