"""Session ids of the gateway. They are sealed tokens.

Any process with the key can verify a token, and none has to store it. It is `<claims>.<tag>`, both
base64url without padding: visible ASCII as the specification asks. The claims hold 128 random bits,
so an id cannot be guessed. The tag is HMAC-SHA256 under a key that is derived from the operator's
once, so it cannot be forged. The claims are not secret: they repeat the client's own initialize.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.model.sessions import Session, SessionFault
from mcpgw_sidecar.protocol.headers import MAX_TOKEN

RANDOM_BYTES = 16
MIN_KEY_CHARACTERS = 32  # 128 bits even of hexadecimal digits
MAX_VERIFIED = 1000  # session ids that are remembered: to verify one costs 0.05 ms
MAX_CLIENT = 2048  # sealed bytes of client_info, and of capabilities: both fit into MAX_TOKEN after base64
_PURPOSE = b"mcpgw-sidecar session v1"
_TICKETS = b"mcpgw-sidecar ticket v1"


@attrs.frozen
class _Key:
    id: str
    secret: bytes = attrs.field(repr=False)
    tickets: AESSIV = attrs.field(repr=False, eq=False)


@attrs.frozen
class SessionKeys:
    """Keys in their order: the first signs, all verify. `parse_keys` makes them."""

    keys: tuple[_Key, ...] = attrs.field(repr=False)
    _verified: dict[str, Session] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def seal(self, session: Session) -> str:
        """The session id of a session, signed with the first key."""
        key = self.keys[0]
        claims = {
            "k": key.id,
            "s": session.key,
            "e": session.expires,
            "v": session.protocol_version,
            "c": session.client_info,
            "a": session.capabilities,
        }
        if session.owner:
            claims["o"] = session.owner
        payload = encode(json.dumps(claims, separators=(",", ":")).encode())
        return f"{payload}.{_tag(key, payload)}"

    def verify(self, token: str | None, now: float) -> Session | SessionFault:
        """The session of a session id, if one of the keys signed it.

        The id must not have expired at `now` (epoch seconds).
        """
        if not token:
            return SessionFault.MISSING
        session = self._verified.get(token)
        if session is None:
            opened = self._opened(token)
            if isinstance(opened, SessionFault):
                return opened
            if len(self._verified) >= MAX_VERIFIED:
                self._verified.clear()
            session = self._verified[token] = opened
        return session if now < session.expires else SessionFault.EXPIRED

    def _opened(self, token: str) -> Session | SessionFault:
        """What is sealed in a session id, if one of the keys signed it."""
        payload, dot, tag = token.partition(".")
        if not dot or len(token) > MAX_TOKEN or not token.isascii():
            return SessionFault.UNKNOWN
        if not any(hmac.compare_digest(_tag(key, payload), tag) for key in self.keys):
            return SessionFault.UNKNOWN
        try:
            claims = json.loads(decode(payload))
            return Session(
                key=claims["s"],
                expires=claims["e"],
                protocol_version=claims["v"],
                client_info=JsonText(claims["c"]),
                capabilities=JsonText(claims["a"]),
                owner=claims.get("o", ""),
            )
        except (ValueError, KeyError, TypeError):  # another version of this program sealed it
            return SessionFault.UNKNOWN


def parse_keys(text: str, source: str) -> SessionKeys:
    """The keys of a key file: one a line, the first signs.

    Raises ConfigurationError, which names the line, but never the key.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    short_lines = [number for number, line in lines if len(line) < MIN_KEY_CHARACTERS]
    if short_lines:
        raise ConfigurationError(
            [
                f"{source}:{number}: the session key is shorter than {MIN_KEY_CHARACTERS} characters; "
                "make one with: openssl rand -base64 32"
                for number in short_lines
            ]
        )
    if not lines:
        raise ConfigurationError([f"{source}: no session key in it; make one with: openssl rand -base64 32"])
    return SessionKeys(tuple(_derive(line) for _, line in lines))


def _derive(line: str) -> _Key:
    secret = hmac.digest(line.encode(), _PURPOSE, "sha256")
    tickets = AESSIV(hmac.digest(line.encode(), _TICKETS, "sha512"))
    return _Key(hashlib.sha256(b"id" + secret).hexdigest()[:8], secret, tickets)


def _tag(key: _Key, payload: str) -> str:
    return encode(hmac.digest(key.secret, payload.encode(), "sha256"))


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of base64url without padding. Raises ValueError."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))  # binascii.Error is a ValueError
