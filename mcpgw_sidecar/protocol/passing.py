"""Which headers of clients servers get (interface.md, What passes between clients and servers).

All servers get PASSED and PARAMS. No credential is among them, and nothing that a proxy before a
server may trust. `forwardHeaders` names more for one server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mcpgw_sidecar.model.servers import ForwardedHeader
from mcpgw_sidecar.protocol import headers as h

_OF_ANY_REQUEST: Final = ("user-agent", "accept-language", "traceparent", "tracestate", "baggage", "x-request-id")
_OF_THE_MESSAGE: Final = ("content-type", "accept", h.VERSION, h.SESSION, h.LAST_EVENT, "mcp-method", "mcp-name")
PASSED: Final = (*_OF_ANY_REQUEST, *_OF_THE_MESSAGE, "content-length")

PROTO: Final = "x-forwarded-proto"
"""Envoy finds no route without it; it is Envoy's own word, and our routes remove it."""

PARAMS: Final = "mcp-param-"
"""How the names of other headers begin that all servers get."""

KEPT: Final = (
    *PASSED,
    *(name for name in h.OURS if name not in {h.X_SESSION, h.X_OWNER, h.X_PASSED, h.X_CLIENT, h.X_CLAIMS, h.X_CARRIED}),
    PROTO,
    "transfer-encoding",
)
"""What a request keeps on the way to a server, besides PARAMS: Envoy's headers and ours, too.

The limits count by X_SUBJECT; the route takes it away from servers that do not want it.
"""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?")
_RESERVED: Final = re.compile(
    "|".join(
        (
            *(re.escape(name) for name in PASSED if name not in _OF_ANY_REQUEST),
            r"(mcp|x-mcp|x-envoy|access-control|sec|proxy)-.*",
            r"host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect",  # RFC 9110, section 7.6.1
            r"accept-encoding|content-encoding|origin",
        )
    )
)
_KEPT: Final = frozenset(KEPT)
_KEYS: Final = {"name": str, "as": str, "required": bool}


def for_server(headers: Mapping[str, str], forwarded: Iterable[ForwardedHeader]) -> dict[str, str]:
    """What a server gets of a client's headers with the gateway's own requests for the client."""
    of_any = {name: headers[name].strip(" \t") for name in _OF_ANY_REQUEST if name in headers}
    return of_any | {each.sent: headers[each.name].strip(" \t") for each in forwarded if each.name in headers}


def changes(headers: Mapping[str, str], forwarded: Iterable[ForwardedHeader]) -> tuple[list[str], dict[str, str]]:
    """What a request loses on the way to a server, and what it gets instead (passed.lua)."""
    lost = [name for name in headers if name not in _KEPT and not name.startswith((":", PARAMS, "x-envoy-"))]
    return lost, {each.sent: headers[each.name] for each in forwarded if each.name in headers}


def brought_text(headers: Mapping[str, str], forwarded: Iterable[ForwardedHeader]) -> str:
    """The values of a client's headers that a server wants; with another one Envoy asks again."""
    return "\n".join(headers.get(each.name, "") for each in forwarded)


def passed_text(forwarded: Iterable[ForwardedHeader]) -> str:
    """For passed.lua: `NAME=SENT` for each header, `NAME!=SENT` for a required one, or "-"."""
    texts = (f"{each.name}{'!' if each.required else ''}={each.sent}" for each in forwarded)
    return " ".join(texts) or "-"


def read_forwarded(values: object) -> tuple[ForwardedHeader, ...]:
    """The value of `forwardHeaders`: names, or `{name, as, required}`.

    Raises ValueError, with the remedy, for any other value.
    """
    if not isinstance(values, list):
        msg = "must be a list of header names, such as [authorization]"
        raise ValueError(msg)  # noqa: TRY004  # one kind of error for all that is wrong
    headers = tuple(_read_header(value) for value in values)
    for names in ([each.name for each in headers], [each.sent for each in headers]):
        for name in names:
            if names.count(name) > 1:
                msg = f"{name} stands there twice: remove one"
                raise ValueError(msg)
    return headers


def is_credential_header(name: str) -> bool:
    """Whether a server's credential may stand in a header of this name."""
    return bool(_NAME.fullmatch(name.lower())) and not _RESERVED.fullmatch(name.lower())


def _read_header(value: object) -> ForwardedHeader:
    entry: Any = {"name": value} if isinstance(value, str) else value
    if (
        not isinstance(entry, dict)
        or any(type(each) is not _KEYS.get(key) for key, each in entry.items())
        or "name" not in entry
    ):
        msg = f"{value!r:.60} cannot be used: write the name of a header, or {{name: NAME, as: NAME, required: true}}"
        raise ValueError(msg)
    name, required = entry["name"].lower(), entry.get("required", False)
    sent = entry.get("as", name).lower()
    for text in (name, sent):
        if not _NAME.fullmatch(text):
            msg = f"{text!r:.60} cannot be used: write the name of a header in letters, digits and -, at most 100 characters"
            raise ValueError(msg)
        # The verified caller is forwarded under its own name, and nothing else under that.
        if _RESERVED.fullmatch(text) and (name, text) != (h.X_SUBJECT, h.X_SUBJECT):
            msg = f"{text} cannot be forwarded: the gateway sets it, or every server gets it already"
            raise ValueError(msg)
    return ForwardedHeader(name, sent, required)
