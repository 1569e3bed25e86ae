"""Who calls: the claims of a token that Envoy has verified (jwt_authn), as it passes them on.

Envoy removes the header with the claims from the requests of clients, and refuses a bad token
before anybody reads it. Judged here is what Envoy does not judge: the subject and the scopes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.model.access import Authentication
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ENDPOINT
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import SESSION_NOT_FOUND

WELL_KNOWN = "/.well-known/oauth-protected-resource"
"""Path of the metadata of a protected resource (RFC 9728); an endpoint's path may follow it."""

UNAUTHORIZED = SESSION_NOT_FOUND
"""The code of a refusal for want of a token: -32001, as interface.md says."""

_NO_TOKEN = "Unauthorized: send the Bearer token of an authorization server that this gateway trusts"  # noqa: S105  # words
_NO_SUBJECT = "Unauthorized: the token names no subject"


@attrs.frozen
class Caller:
    """A verified caller. `claims` are those of its token."""

    issuer: str
    subject: str
    claims: Mapping[str, Any] = attrs.field(eq=False, repr=False)

    @property
    def owner(self) -> str:
        """A short name for (issuer, subject), sealed into the caller's sessions."""
        return hashlib.sha256(f"{self.issuer}\0{self.subject}".encode()).hexdigest()[:32]


def caller_of(headers: Mapping[str, str], authentication: Authentication | None) -> Caller | Reject | None:
    """The caller of a request, or its refusal; None where nobody has to say who they are."""
    if authentication is None:
        return None
    text = headers.get(h.X_CLAIMS, "")
    if not text and not authentication.required:
        return None
    caller = _read(text, authentication)
    if isinstance(caller, str):
        error = 'error="invalid_token"' if text else ""
        return _refusal(401, caller, challenge(headers, authentication, error))
    missing = set(authentication.scopes) - _scopes(caller.claims)
    if missing:
        wanted = " ".join(authentication.scopes)
        error = f'error="insufficient_scope", scope="{wanted}"'
        message = f"Forbidden: the token lacks the scope {min(missing)}"
        return _refusal(403, message, challenge(headers, authentication, error))
    return caller


@functools.lru_cache(maxsize=4096)
def _read(text: str, authentication: Authentication) -> Caller | str:
    """The caller that claims (base64url of JSON) name, or why they name none."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        return _NO_TOKEN
    if not isinstance(claims, dict):
        return _NO_TOKEN
    issuer = next((each for each in authentication.issuers if each.issuer == claims.get("iss")), None)
    if issuer is None:
        return _NO_TOKEN
    subject = claims.get(issuer.subject)
    return Caller(issuer.issuer, subject, claims) if isinstance(subject, str) and subject else _NO_SUBJECT


def _scopes(claims: Mapping[str, Any]) -> set[str]:
    """The scopes of a token: `scope`, or `scp` as some issuers say, at spaces or in a list."""
    found: set[str] = set()
    for value in (claims.get("scope"), claims.get("scp")):
        found |= set(value.split()) if isinstance(value, str) else set()
        found |= {each for each in value if isinstance(each, str)} if isinstance(value, list) else set()
    return found


def _refusal(status: int, message: str, words: str) -> Reject:
    return Reject(status=status, code=UNAUTHORIZED, message=message, challenge=words)


def challenge(headers: Mapping[str, str], authentication: Authentication, error: str = "") -> str:
    """The value of WWW-Authenticate: where the metadata are (RFC 9728, section 5.1)."""
    path = headers.get(":path", ENDPOINT).partition("?")[0]
    where = f'Bearer resource_metadata="{_origin(headers, authentication)}{WELL_KNOWN}{path}"'
    return f"{where}, {error}" if error else where


def _origin(headers: Mapping[str, str], authentication: Authentication) -> str:
    if authentication.resource is not None:
        parts = urlsplit(authentication.resource)
        return f"{parts.scheme}://{parts.netloc}"
    return f"{headers.get('x-forwarded-proto', 'http')}://{headers.get(':authority', '')}"


def metadata(headers: Mapping[str, str], authentication: Authentication) -> dict[str, object]:
    """The metadata of the endpoint whose path follows WELL_KNOWN, or of the bare one."""
    path = headers.get(":path", "").partition("?")[0].removeprefix(WELL_KNOWN).rstrip("/") or ENDPOINT
    resource = f"{_origin(headers, authentication)}{path}"
    if authentication.resource is not None:
        resource = authentication.resource.rstrip("/") + path.removeprefix(ENDPOINT)
    return {
        "resource": resource,
        "authorization_servers": [issuer.issuer for issuer in authentication.issuers],
        "bearer_methods_supported": ["header"],
        **({"scopes_supported": list(authentication.scopes)} if authentication.scopes else {}),
    }
