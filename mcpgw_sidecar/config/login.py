"""Reads `authentication` of a configuration or an access document."""

from __future__ import annotations

import re
from typing import Any

from mcpgw_sidecar.config.units import parse_duration
from mcpgw_sidecar.model.access import Authentication, Issuer
from mcpgw_sidecar.model.plain import mapping, read_url, text, texts

MAX_ISSUERS = 16
MAX_SKEW = 600.0  # seconds: whoever needs more has a clock to set
_FORM = "{resource: https://gw.example.com/mcp, issuers: [{issuer: https://idp.example.com, jwksUri: https://idp.example.com/keys}]}"
_CLAIM = re.compile(r"[A-Za-z0-9_-]{1,100}")
_KEYS = ("resource", "required", "issuers", "scopes", "verifiedBy")
_VERIFIERS = ("envoy", "istio")
_ISSUER_KEYS = ("issuer", "audiences", "jwksUri", "jwksFile", "caFile", "clockSkew", "subject")


def read_authentication(value: Any) -> Authentication:  # noqa: ANN401  # whatever the file holds
    """How callers show who they are. Raises ValueError with the remedy."""
    given = mapping(value, "authentication", _KEYS, _FORM)
    resource = read_url(given["resource"], "resource") if "resource" in given else None
    required = given.get("required", True)
    if not isinstance(required, bool):
        raise ValueError("required must be true or false")  # noqa: TRY004  # the collector of errors takes one kind
    issuers = given.get("issuers")
    if not isinstance(issuers, list) or not 1 <= len(issuers) <= MAX_ISSUERS:
        raise ValueError(f"issuers must be a list of 1 to {MAX_ISSUERS} issuers, like {_FORM}")
    verifier = given.get("verifiedBy", _VERIFIERS[0])
    if verifier not in _VERIFIERS:
        raise ValueError(f"verifiedBy: write one of {', '.join(_VERIFIERS)}")
    by_istio = verifier == _VERIFIERS[1]
    read = tuple(_issuer(each, f"issuers[{index}]", resource, by_istio=by_istio) for index, each in enumerate(issuers))
    names = [each.issuer for each in read]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"issuers: {twice!r} is there twice: give one entry all its audiences")
    scopes = texts(given.get("scopes", []), "scopes")
    if odd := next((scope for scope in scopes if not scope.isascii() or any(char in scope for char in ' "\\')), None):
        raise ValueError(f"scopes: {odd!r} is no scope: use visible ASCII without spaces, quotes and backslashes")
    return Authentication(issuers=read, resource=resource, required=required, scopes=tuple(scopes), by_istio=by_istio)


def _issuer(value: Any, place: str, resource: str | None, *, by_istio: bool) -> Issuer:  # noqa: ANN401
    given = mapping(value, place, _ISSUER_KEYS, "{issuer: https://idp.example.com, jwksUri: https://idp.example.com/keys}")
    audiences = texts(given.get("audiences", [] if resource is None else [resource]), f"{place}.audiences")
    if not audiences:
        raise ValueError(
            f"{place}: give audiences, or resource, the URL that clients type: else the audience would depend on the Host"
        )
    istios = [key for key in ("jwksUri", "jwksFile", "caFile") if key in given]
    if by_istio and istios:
        raise ValueError(f"{place}.{istios[0]}: with verifiedBy: istio the RequestAuthentication has the keys: remove it")
    if not by_istio and ("jwksUri" in given) == ("jwksFile" in given):
        raise ValueError(f"{place}: give jwksUri or jwksFile, where its public keys are, and not both")
    if "caFile" in given and not str(given.get("jwksUri", "")).startswith("https:"):
        raise ValueError(f"{place}.caFile is for an https jwksUri")
    return Issuer(
        issuer=text(given.get("issuer"), f"{place}.issuer", "write the issuer exactly as it stands in `iss`"),
        audiences=tuple(audiences),
        jwks_uri=read_url(given["jwksUri"], f"{place}.jwksUri") if "jwksUri" in given else None,
        jwks_file=text(given["jwksFile"], f"{place}.jwksFile", "write the path of a file") if "jwksFile" in given else None,
        ca_file=text(given["caFile"], f"{place}.caFile", "write the path of a file") if "caFile" in given else None,
        skew=_skew(given.get("clockSkew", "60s"), f"{place}.clockSkew"),
        subject=_subject(given.get("subject", "sub"), f"{place}.subject"),
    )


def _subject(value: Any, place: str) -> str:  # noqa: ANN401
    remedy = "write the name of a claim, in letters, digits, - and _"
    name = text(value, place, remedy)
    if not _CLAIM.fullmatch(name):  # Envoy would go into objects at a dot
        raise ValueError(f"{place}: {name!r:.80} cannot be used: {remedy}")
    return name


def _skew(value: Any, place: str) -> float:  # noqa: ANN401
    seconds = parse_duration(text(value, place, "write it like 60s"))
    if seconds > MAX_SKEW:
        raise ValueError(f"{place}: at most {MAX_SKEW:.0f}s")
    return seconds
