"""Decides the era of a request by its protocol version. No other module compares versions.

The ladder (duties in shared/reference/mcp-duties.md 1.0), first match wins. A *modern* request has
its version in `params._meta`; initialize has none:

| header `MCP-Protocol-Version` | message              | era                                     |
|-------------------------------|----------------------|-----------------------------------------|
| any                           | initialize           | stateful: it negotiates the version     |
| a stateful version            | not modern           | stateful                                |
| a stateful version            | modern               | 400, -32020: they disagree              |
| a stateless version, served   | any                  | stateless                               |
| any other                     | any                  | 400, -32022, with the versions here     |
| none                          | modern               | 400, -32020                             |
| none                          | not modern           | stateful: 2025-03-26 had no header      |
"""

from __future__ import annotations

import enum

import attrs

from mcpgw_sidecar.catalog.snapshot import EMPTY, Snapshot
from mcpgw_sidecar.inbound import guard as options
from mcpgw_sidecar.inbound.guard import Guard
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import NULL
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.envelope import HEADER_MISMATCH
from mcpgw_sidecar.protocol.jsonrpc import UNSUPPORTED_VERSION
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.protocol.versions import STATEFUL, STATELESS, SUPPORTED


class Era(enum.Enum):
    """How client and server keep state between two requests."""

    STATEFUL = "stateful"
    STATELESS = "stateless"


def era_of(version: str | None, *, modern: bool = False, initializes: bool = False, served: bool = False) -> Era | Reject:
    """The era of a request by its version header (the ladder above)."""
    if initializes and not modern:
        return Era.STATEFUL
    if version in STATELESS and served:
        return Era.STATELESS
    if version is None or version in STATEFUL:
        if not modern:
            return Era.STATEFUL
        message = f"Header mismatch: {h.VERSION} is missing, or is not what the body says"
        return Reject(status=400, code=HEADER_MISMATCH, message=message, id=NULL)
    versions = SUPPORTED if served else STATEFUL
    message = f"Unsupported protocol version: use one of {', '.join(versions)}"
    return refusal(UNSUPPORTED_VERSION, message, data={"supported": list(versions), "requested": version})


def serves_stateless(guard: Guard) -> bool:
    """Whether requests of the stateless era are served."""
    return guard.prefer_era != options.STATEFUL


@attrs.frozen
class Spoken:
    """How many servers speak both eras, or one alone, or have not said it yet."""

    both: int
    stateful: int
    stateless: int
    unknown: int


def spoken(catalog: Snapshot) -> Spoken:
    """Which eras the servers speak."""
    modern = (catalog.stateless or EMPTY).offers
    either = sum(offer.speaks_stateless for offer in modern.values())
    alone = sum(offer.is_stateless for offer in catalog.offers.values())
    silent = sum(not offer.protocol_versions for offer in modern.values())
    others = len(catalog.offers) - either - silent
    return Spoken(both=either - alone, stateful=others, stateless=alone, unknown=silent)


def offers(catalog: Snapshot, guard: Guard) -> bool:
    """Whether server/discover leads a client that knows both eras to the stateless one.

    With `auto` that is the era in which more servers are called straight through Envoy; calls to
    the others are carried by the broker. It is the stateful one where both have as many.
    """
    if guard.prefer_era != options.AUTO:
        return guard.prefer_era == options.STATELESS
    servers = spoken(catalog)
    return servers.stateless > servers.stateful or (not servers.stateful and servers.both > 0)
