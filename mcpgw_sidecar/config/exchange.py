"""Reads `tokenExchange` of a server."""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar.config.login import read_url
from mcpgw_sidecar.model.exchanges import ENTRA, ID_JAG, PROFILES, TokenClient, TokenExchange
from mcpgw_sidecar.model.plain import mapping, text

_FORM = "{tokenUrl: https://idp.example.com/token, clientId: gateway, clientSecretFile: secret, audience: https://server.example.com}"
_CLIENT_KEYS = ("tokenUrl", "clientId", "clientSecretFile", "caFile")
_KEYS = (*_CLIENT_KEYS, "profile", "audience", "resource", "scope", "subjectTokenType", "grant")
_SUBJECTS = ("access_token", "id_token", "jwt")


def read_exchange(value: Any) -> TokenExchange:  # noqa: ANN401  # whatever the file holds
    """How a server's tokens are made of those of callers. Raises ValueError with the remedy."""
    given = mapping(value, "tokenExchange", _KEYS, _FORM)
    profile = given.get("profile", PROFILES[0])
    if profile not in PROFILES:
        raise ValueError(f"profile: write one of {', '.join(PROFILES)}")
    subject = given.get("subjectTokenType", "id_token" if profile == ID_JAG else _SUBJECTS[0])
    if subject not in _SUBJECTS:
        raise ValueError(f"subjectTokenType: write one of {', '.join(_SUBJECTS)}")
    if (profile == ID_JAG) != ("grant" in given):
        raise ValueError(
            f"grant: {{tokenUrl, clientId, clientSecretFile}} of the server's own authorization server belongs to profile {ID_JAG}"
        )
    if profile == ENTRA and "scope" not in given:
        raise ValueError("scope: name the server's, such as api://CLIENT-ID/.default")
    if profile == ID_JAG and "audience" not in given:
        raise ValueError("audience: name the issuer of the server's own authorization server")
    return TokenExchange(
        client=_client(given, ""),
        profile=profile,
        audience=_line(given, "audience"),
        resource=read_url(given["resource"], "resource") if "resource" in given else None,
        scope=_line(given, "scope"),
        subject_type=subject,
        grant=_client(mapping(given["grant"], "grant", _CLIENT_KEYS, _FORM), "grant.") if "grant" in given else None,
    )


def _client(given: dict[str, Any], place: str) -> TokenClient:
    url = read_url(given.get("tokenUrl"), f"{place}tokenUrl")
    if "caFile" in given and not url.startswith("https:"):
        raise ValueError(f"{place}caFile is for an https tokenUrl")
    return TokenClient(
        token_url=url,
        client_id=text(given.get("clientId"), f"{place}clientId", "write the id of this gateway at that server"),
        client_secret_file=_line(given, "clientSecretFile", "write the path of a file", place),
        ca_file=_line(given, "caFile", "write the path of a file", place),
    )


def _line(given: dict[str, Any], key: str, remedy: str = "write one line of text", place: str = "") -> str | None:
    return text(given[key], f"{place}{key}", remedy) if key in given else None
