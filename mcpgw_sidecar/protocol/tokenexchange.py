"""What an authorization server is asked for a server's token, and what its answer means.

RFC 8693 (token exchange), RFC 7523 (JWT grants), Entra's on-behalf-of, and SEP-990 for both in a
row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from mcpgw_sidecar.model.exchanges import ENTRA, ID_JAG, TokenExchange
from mcpgw_sidecar.protocol.headers import is_header_value

MAX_TOKEN: Final = 8192  # characters: the limit of common servers for a header
UNSAID: Final = 60.0  # seconds of a life that the answer does not tell
MAX_LIFE: Final = 86400.0
_TYPE = "urn:ietf:params:oauth:token-type:"
_GRANT = "urn:ietf:params:oauth:grant-type:"
_ERROR = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_OK, _SERVER_FAULT = 200, 500


class NotGivenError(Exception):
    """Why there is no token; `error` is the word of the authorization server, "" for none."""

    def __init__(self, words: str, error: str = "") -> None:
        super().__init__(words)
        self.error = error


def fields_of(exchange: TokenExchange, token: str) -> dict[str, str]:
    """What the authorization server of callers is asked, without the client."""
    if exchange.profile == ENTRA:
        asked = {"grant_type": f"{_GRANT}jwt-bearer", "assertion": token, "requested_token_use": "on_behalf_of"}
    else:
        asked = {
            "grant_type": f"{_GRANT}token-exchange",
            "subject_token": token,
            "subject_token_type": _TYPE + exchange.subject_type,
            "requested_token_type": _TYPE + ("id-jag" if exchange.profile == ID_JAG else "access_token"),
        }
    target = {"audience": exchange.audience, "resource": exchange.resource, "scope": exchange.scope}
    return asked | {key: value for key, value in target.items() if value is not None}


def fields_of_grant(exchange: TokenExchange, grant: str) -> dict[str, str]:
    """What the server's own authorization server is asked."""
    asked = {"grant_type": f"{_GRANT}jwt-bearer", "assertion": grant}
    return asked if exchange.scope is None else {**asked, "scope": exchange.scope}


def read_answer(status: int, body: bytes) -> dict[str, Any]:
    """The members of an answer. Raises NotGivenError (RFC 6749, sections 5.1 and 5.2)."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    members: dict[str, Any] = answer if isinstance(answer, dict) else {}
    if status != _OK:
        word = members.get("error")
        word = word if isinstance(word, str) and _ERROR.fullmatch(word) and status < _SERVER_FAULT else ""
        raise NotGivenError(f"it answered HTTP {status}{word and f' ({word})'}", word)
    return members


def token_of(answer: Mapping[str, Any]) -> str:
    """The token, or the grant, in an answer. Raises NotGivenError."""
    token = answer.get("access_token")
    if not isinstance(token, str) or not is_header_value(token) or " " in token or len(token) > MAX_TOKEN:
        raise NotGivenError("it answered without a token that a header can hold")
    return token


def bearer_of(answer: Mapping[str, Any]) -> tuple[str, float]:
    """The value of Authorization and its life in seconds. Raises NotGivenError."""
    kind, seconds = answer.get("token_type"), answer.get("expires_in")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NotGivenError("it gave no Bearer token")
    try:  # some servers write the number as a text
        life = float(seconds) if isinstance(seconds, int | float | str) else UNSAID
    except (ValueError, OverflowError):
        life = UNSAID
    return f"Bearer {token_of(answer)}", min(life, MAX_LIFE) if life > 0 else UNSAID
