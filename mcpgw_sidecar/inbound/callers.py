"""Who calls: the claims of a token that Envoy has verified (jwt_authn), as it passes them on.

Envoy removes the header with the claims from the requests of clients, and refuses a bad token
before anybody reads it. Judged here is what Envoy does not judge: the subject, the scopes, and
whether the key of a token that Envoy verified some time ago is still there.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.model.access import Authentication, Issuer, KnownKeys
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
_OTHER_AUDIENCE = "Unauthorized: the token is for another audience"
_NO_KEY = "Unauthorized: the key of the token was withdrawn: get a new one"
_BEARER = re.compile(r"bearer +([A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_-]*){2}", re.IGNORECASE)
MAX_KEPT = 4096  # characters of claims that are kept read; larger ones are read each time

Keys = Callable[[Issuer], KnownKeys | None]
"""What is known of the keys of an issuer."""


@attrs.frozen
class Caller:
    """A verified caller. `claims` are those of its token."""

    issuer: str
    subject: str
    claims: Mapping[str, Any] = attrs.field(eq=False, repr=False)
    skew: float = 0.0

    @property
    def until(self) -> float:
        """When its token ends, in epoch seconds."""
        expires = self.claims.get("exp")
        return expires + self.skew if isinstance(expires, int | float) else math.inf

    @property
    def owner(self) -> str:
        """A short name for (issuer, subject), sealed into the caller's sessions."""
        return hashlib.sha256(f"{self.issuer}\0{self.subject}".encode()).hexdigest()[:32]


def no_keys(_issuer: Issuer) -> KnownKeys | None:
    """Nothing is known of any key."""
    return None


def caller_of(
    headers: Mapping[str, str], authentication: Authentication | None, keys: Keys = no_keys
) -> Caller | Reject | None:
    """The caller of a request, or its refusal; None where nobody has to say who they are."""
    if authentication is None:
        return None
    text = headers.get(h.X_CLAIMS, "")
    if not text and not authentication.required:
        return None
    caller = (_read_kept if len(text) <= MAX_KEPT else _read)(text, authentication)
    if isinstance(caller, Caller):
        caller = _with_key(caller, headers.get("authorization", ""), authentication, keys)
    if isinstance(caller, str):
        error = 'error="invalid_token"' if text else ""
        return _refusal(401, caller, challenge(headers, authentication, error))
    missing = set(authentication.scopes) - scopes_of(caller.claims)
    if missing:
        wanted = " ".join(authentication.scopes)
        error = f'error="insufficient_scope", scope="{wanted}"'
        message = f"Forbidden: the token lacks the scope {min(missing)}"
        return _refusal(403, message, challenge(headers, authentication, error))
    return caller


def _with_key(caller: Caller, authorization: str, authentication: Authentication, keys: Keys) -> Caller | str:
    """The caller, or why its token does not count any more.

    Anything but one token would leave open which of several Envoy has verified.
    """
    token = _BEARER.fullmatch(authorization.strip())
    if token is None:
        return _NO_TOKEN
    issuer = next(each for each in authentication.issuers if each.issuer == caller.issuer)
    known, issued = keys(issuer), caller.claims.get("iat")
    if known is None:
        return caller
    try:
        ident = json.loads(_decoded(token[1])).get("kid")
    except (ValueError, RecursionError, AttributeError):
        return _NO_TOKEN
    issued = issued if isinstance(issued, int | float) else math.inf
    return caller if known.signs(ident if isinstance(ident, str) else None, issued, issuer.skew) else _NO_KEY


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _read(text: str, authentication: Authentication) -> Caller | str:
    """The caller that claims (base64url of JSON) name, or why they name none."""
    try:
        claims = json.loads(_decoded(text))
    except (ValueError, RecursionError):
        return _NO_TOKEN
    if not isinstance(claims, dict):
        return _NO_TOKEN
    issuer = next((each for each in authentication.issuers if each.issuer == claims.get("iss")), None)
    if issuer is None:
        return _NO_TOKEN
    if authentication.by_istio and not is_for(claims.get("aud"), issuer):
        return _OTHER_AUDIENCE
    subject = claims.get(issuer.subject)
    return Caller(issuer.issuer, str(subject), claims, issuer.skew) if is_subject(subject) else _NO_SUBJECT


def is_subject(value: object) -> bool:
    """Whether a claim can name a caller.

    In a header for servers, in the log: what is no plain line would be another subject there.
    """
    return isinstance(value, str) and value.isprintable() and value == (value.strip() or None)


def is_for(audience: object, issuer: Issuer) -> bool:
    """Whether a token is for one of the audiences: a RequestAuthentication may take any."""
    named = [audience] if isinstance(audience, str) else audience
    return isinstance(named, list) and any(each in issuer.audiences for each in named)


_read_kept = functools.lru_cache(maxsize=4096)(_read)


def scopes_of(claims: Mapping[str, Any]) -> set[str]:
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


def name_of(caller: Caller | None, headers: Mapping[str, str]) -> str:
    """Who a client is: the verified caller, else its address; "" if nobody can know it again."""
    return caller.owner if caller is not None else headers.get(h.X_CLIENT, "")
