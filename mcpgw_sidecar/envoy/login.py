"""Login: Envoy verifies the tokens of clients (jwt_authn), before the memo and the router.

It gets the public keys from the sidecar, which fetches them from the issuers and says in `/status`
whether it has them; it asks every REFRESH seconds, and goes on with those that it has while the
sidecar is away. The claims of a good token follow in a header that servers never see. A token that
Envoy has verified it knows for as long as the token is good, whatever becomes of its key: that the
key was withdrawn is seen by the ladder (inbound/callers.py), and the memo's stamps change with the
keys.
"""

from __future__ import annotations

import hashlib
import math

from mcpgw_sidecar.envoy.clusters import Resource, duration, type_url
from mcpgw_sidecar.envoy.contract import BROKER_CLUSTER, JWKS_PATH
from mcpgw_sidecar.inbound.callers import WELL_KNOWN
from mcpgw_sidecar.model.access import Authentication, Issuer
from mcpgw_sidecar.protocol import headers as h

JWT = "envoy.filters.http.jwt_authn"
CLAIMS = "claims"
"""Member of the filter's metadata with the claims of a good token, for the access log."""

FAILED = "failed"
"""Member of the filter's metadata that says why a token was refused."""

REFRESH = 4.0  # seconds; with the sidecar's own look, new keys count within ten (interface.md)
MAX_CACHED = 10_000  # verified tokens that Envoy keeps


def login(authentication: Authentication, secret: str) -> Resource:
    """The filter. `secret` follows the path of Envoy's questions for keys."""
    providers = {issuer.mark: _provider(issuer, secret) for issuer in authentication.issuers}
    requirements: list[Resource] = [{"provider_name": name} for name in providers]
    if not authentication.required:
        requirements.append({"allow_missing": {}})
    required = requirements[0] if len(requirements) == 1 else {"requires_any": {"requirements": requirements}}
    config = {
        "@type": type_url("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
        "providers": providers,
        "rules": [
            {"match": {"path_separated_prefix": WELL_KNOWN}},
            {"match": {"prefix": "/"}, "requires": required},
        ],
        "bypass_cors_preflight": True,
        "strip_failure_response": True,
    }
    return {"name": JWT, "typed_config": config}


def jwks_path(secret: str) -> str:
    """The path of Envoy's questions for keys, before an issuer's mark.

    It stands in Envoy's log when the broker is away, so it is not `secret` itself.
    """
    return f"{JWKS_PATH}/{hashlib.sha256(f'jwks{secret}'.encode()).hexdigest()[:32]}/"


def _provider(issuer: Issuer, secret: str) -> Resource:
    return {
        "issuer": issuer.issuer,
        "audiences": list(issuer.audiences),
        "require_expiration": True,
        "clock_skew_seconds": max(1, math.ceil(issuer.skew)),  # Envoy takes 0 for its default
        # Its default takes tokens in the query, too. The scheme has no case (RFC 9110, 11.1).
        "from_headers": [{"name": "authorization", "value_prefix": scheme} for scheme in ("Bearer ", "bearer ", "BEARER ")],
        "forward": True,  # for servers whose forwardHeaders name it; others get none
        "forward_payload_header": h.X_CLAIMS,
        "claim_to_headers": [{"header_name": h.X_SUBJECT, "claim_name": issuer.subject}],
        "payload_in_metadata": CLAIMS,
        "failed_status_in_metadata": FAILED,
        "jwt_cache_config": {"jwt_cache_size": MAX_CACHED},
        "remote_jwks": {
            "http_uri": {
                "uri": f"http://localhost{jwks_path(secret)}{issuer.mark}",
                "cluster": BROKER_CLUSTER,
                "timeout": "2s",
            },
            "cache_duration": duration(REFRESH),
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": "1s"},
        },
    }
