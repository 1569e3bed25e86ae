"""The envelope of a request of the stateless era (2026-07-28): what it says of itself, twice.

`check` is a ladder; the first failure wins (specification, basic/index and basic/transports):

1. `params._meta` has `protocolVersion`, a string, and
   `clientCapabilities`, an object                              else 400, -32602
2. the version header is that of `_meta`                        else 400, -32020
3. `Mcp-Method` is the method; of a request for a tool, prompt
   or resource `Mcp-Name` is its name or URI                    else 400, -32020
4. the era has the method                                       else 404, -32601
5. `logLevel`, if there, is a level                             else 400, -32602
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TOOL, Kind
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.extensions import UI
from mcpgw_sidecar.protocol.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, Request
from mcpgw_sidecar.protocol.jsontext import JsonTextError, only
from mcpgw_sidecar.protocol.methods import CALL, COMPLETE, DISCOVER, LEVELS, LISTEN, LISTS, READ
from mcpgw_sidecar.protocol.versions import LATEST_STATELESS, META_VERSION

HEADER_MISMATCH: Final = -32020
RESERVED: Final = "io.modelcontextprotocol/"
"""How the names of the members of `_meta` begin that are the protocol's own."""

META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_LEVEL: Final = "io.modelcontextprotocol/logLevel"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"

NAMED: Final[Mapping[str, Kind]] = {CALL: TOOL, "prompts/get": PROMPT, READ: RESOURCE}
"""Methods whose requests name their item in a header, too."""

ADDRESSED: Final = frozenset({*NAMED, COMPLETE})
"""Requests that one server answers."""

METHODS: Final = frozenset({*ADDRESSED, DISCOVER, LISTEN, *LISTS})
"""The methods of this era that are spoken here."""

_BASE64 = re.compile(r"=\?base64\?([A-Za-z0-9+/=]*)\?=")


@attrs.frozen
class Envelope:
    """What a request says of its client: the capabilities, decoded."""

    capabilities: Mapping[str, Any]

    @property
    def has_apps(self) -> bool:
        """Whether the client shows pages (MCP Apps)."""
        extensions = self.capabilities.get("extensions")
        return isinstance(extensions, dict) and UI in extensions


def members_text(info: JsonText, capabilities: JsonText, level: str = "") -> str:
    """The members of `_meta` that every request has, as JSON without the braces."""
    text = f'"{META_VERSION}":"{LATEST_STATELESS}","{META_CLIENT}":{info},"{META_CAPABILITIES}":{capabilities}'
    return f'{text},"{META_LEVEL}":"{level}"' if level else text


def meta_of(request: Request) -> dict[str, Any] | None:
    """The `_meta` of a request, decoded; None without one. Raises JsonTextError for two."""
    member = only(request.params or [], "_meta")
    return member.value if member is not None and isinstance(member.value, dict) else None


def check(request: Request, headers: Mapping[str, str]) -> Envelope | Reject:
    """What a request says of its client, or its refusal (the ladder above)."""
    try:
        meta = meta_of(request)
        kind = NAMED.get(request.method)
        key = only(request.params or [], kind.key) if kind is not None else None
    except JsonTextError as error:
        return _refusal(request, 400, INVALID_REQUEST, f"Invalid Request: {error}")
    if meta is None or not isinstance(meta.get(META_VERSION), str):
        return _refusal(request, 400, INVALID_PARAMS, f"Invalid params: _meta needs {META_VERSION}, a string")
    capabilities = meta.get(META_CAPABILITIES)
    if not isinstance(capabilities, dict):
        return _refusal(request, 400, INVALID_PARAMS, f"Invalid params: _meta needs {META_CAPABILITIES}, an object")
    for name, wanted in ((h.VERSION, meta[META_VERSION]), (h.MCP_METHOD, request.method)):
        if headers.get(name, "").strip(" \t") != wanted:
            return _mismatch(request, name)
    if kind is not None and (key is None or not isinstance(key.value, str) or _named(headers) != key.value):
        return _mismatch(request, h.MCP_NAME)
    if request.method not in METHODS:
        return _refusal(request, 404, METHOD_NOT_FOUND, f"Method not found: {request.method[:100]}")
    level = meta.get(META_LEVEL)
    if level is not None and level not in LEVELS:
        return _refusal(request, 400, INVALID_PARAMS, f"Invalid params: {META_LEVEL} is no log level")
    return Envelope(capabilities)


def encode_value(name: str) -> str:
    """A name or URI as the value of `Mcp-Name`.

    It is in base64 when it is not plain ASCII, has a blank at an edge, or looks like base64 itself.
    """
    is_plain = name.isascii() and name.isprintable() and name == name.strip() and not _BASE64.fullmatch(name)
    return name if is_plain else f"=?base64?{base64.b64encode(name.encode('utf-8', 'surrogatepass')).decode()}?="


def _named(headers: Mapping[str, str]) -> str | None:
    """The name in `Mcp-Name`; None without one, or if it cannot be decoded."""
    value = headers.get(h.MCP_NAME)
    if value is None:
        return None
    encoded = _BASE64.fullmatch(value.strip(" \t"))
    if encoded is None:
        return value.strip(" \t")
    try:
        return base64.b64decode(encoded[1], validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None


def _mismatch(request: Request, header: str) -> Reject:
    return _refusal(request, 400, HEADER_MISMATCH, f"Header mismatch: {header} is missing, or is not what the body says")


def _refusal(request: Request, status: int, code: int, message: str) -> Reject:
    return Reject(status=status, code=code, message=message, id=request.id, method=request.method)
