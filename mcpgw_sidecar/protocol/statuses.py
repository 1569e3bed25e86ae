"""The HTTP status of a JSON-RPC error: one table for each era.

A refusal that is about the HTTP request itself (Host, path, session, size) names its own status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import NULL, JsonText, ServerName
from mcpgw_sidecar.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RESOURCE_NOT_FOUND,
    SERVER_ERROR,
    UNSUPPORTED_VERSION,
)
from mcpgw_sidecar.protocol.versions import STATELESS

STATEFUL: Final[Mapping[int, int]] = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    METHOD_NOT_FOUND: 200,
    INVALID_PARAMS: 200,
    RESOURCE_NOT_FOUND: 200,
    INTERNAL_ERROR: 500,
    UNSUPPORTED_VERSION: 400,
}
"""200 is an answer of JSON-RPC: clients of this era take 4xx and 5xx as a broken transport."""


def refusal(code: int, message: str, *, id: JsonText = NULL, data: Any = None) -> Reject:  # noqa: A002, ANN401  # JSON-RPC's word; any JSON value
    """An error of JSON-RPC, with the HTTP status of its code in the stateful era."""
    return Reject(status=STATEFUL[code], code=code, message=message, id=id, data=data)


def for_era(reject: Reject, version: str | None) -> Reject:
    """A refusal for a client of this version.

    Codes from -32000 to -32019 are not the gateway's in the stateless era (its basic/index, Error
    Codes).
    """
    if version in STATELESS and SERVER_ERROR - 19 <= reject.code <= SERVER_ERROR:
        return attrs.evolve(reject, code=INTERNAL_ERROR)
    return reject


def failure(server: ServerName, reason: str, message: str) -> Reject:
    """The failure of one server (model/reasons.py), which must not cost a client its session.

    So it has HTTP 200: the transports of many clients take 4xx and 5xx for the end of the session.
    """
    data = {"server": server, "reason": reason}
    return Reject(status=200, code=SERVER_ERROR, message=message, data=data, server=server, reason=reason)
