"""How a caller's token becomes one of a server's: the configuration, and what comes of it."""

from __future__ import annotations

import hashlib
from typing import Final

import attrs

RFC_8693, ENTRA, ID_JAG = "rfc8693", "entra-obo", "id-jag"
PROFILES: Final = (RFC_8693, ENTRA, ID_JAG)
"""Ways to ask: RFC 8693, Entra's on-behalf-of, and an Identity Assertion JWT Authorization Grant.

With the last one the identity provider gives a grant for the server's authorization server, and
that one the token (SEP-990; RFC 8693, then RFC 7523).
"""


@attrs.frozen(kw_only=True)
class TokenClient:
    """Where this gateway asks for tokens, and as which client; it may have no secret."""

    token_url: str
    client_id: str
    client_secret: str | None = attrs.field(default=None, repr=False)
    client_secret_file: str | None = None
    ca_file: str | None = None


@attrs.frozen(kw_only=True)
class TokenExchange:
    """What a server's `tokenExchange` says.

    `subject_type` is the kind of token that callers log in with (RFC 8693, section 3, without its
    urn). `grant` is the server's own authorization server, for ID_JAG alone.
    """

    client: TokenClient
    profile: str = RFC_8693
    audience: str | None = None
    resource: str | None = None
    scope: str | None = None
    subject_type: str = "access_token"
    grant: TokenClient | None = None

    @property
    def clients(self) -> tuple[tuple[str, TokenClient], ...]:
        """The clients, each with the place of its keys."""
        return ("", self.client), *([("grant.", self.grant)] if self.grant is not None else [])

    @property
    def files(self) -> tuple[tuple[str, str | None], ...]:
        """The files that are named, each with its key."""
        return tuple(
            (place + key, path)
            for place, client in self.clients
            for key, path in (("clientSecretFile", client.client_secret_file), ("caFile", client.ca_file))
        )

    @property
    def mark(self) -> str:
        """A text that differs where the tokens do, and is the same at all replicas."""
        clients = [(each.token_url, each.client_id) for _, each in self.clients]
        asked = (self.profile, self.audience, self.resource, self.scope, self.subject_type)
        return hashlib.sha256(repr((clients, asked)).encode()).hexdigest()


@attrs.frozen
class Given:
    """The value of Authorization that a caller has at a server, until `until` (epoch seconds)."""

    value: str = attrs.field(repr=False)
    until: float
