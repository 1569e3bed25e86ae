"""`tokenExchange` of a server, read from a document and written to one."""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar.model.exchanges import ENTRA, ID_JAG, PROFILES, TokenClient, TokenExchange
from mcpgw_sidecar.model.plain import mapping, read_url, text

FILES, SECRETS = ("clientSecretFile", "caFile"), ("clientSecretRef",)
"""What a client is given by: files of this machine, or a Secret, which others read."""

_FORM = "{tokenUrl: https://idp.example.com/token, clientId: gateway, audience: https://server.example.com}"
_CLIENT_KEYS = ("tokenUrl", "clientId")
_KEYS = ("profile", "audience", "resource", "scope", "subjectTokenType", "grant")
_SUBJECTS = ("access_token", "id_token", "jwt")


def read_exchange(value: Any, given_by: tuple[str, ...] = FILES) -> TokenExchange:  # noqa: ANN401  # whatever the file holds
    """How a server's tokens are made of those of callers. Raises ValueError with the remedy."""
    keys = (*_CLIENT_KEYS, *given_by)
    given = mapping(value, "tokenExchange", (*keys, *_KEYS), _FORM)
    profile = given.get("profile", PROFILES[0])
    if profile not in PROFILES:
        raise ValueError(f"profile: write one of {', '.join(PROFILES)}")
    subject = given.get("subjectTokenType", "id_token" if profile == ID_JAG else _SUBJECTS[0])
    if subject not in _SUBJECTS:
        raise ValueError(f"subjectTokenType: write one of {', '.join(_SUBJECTS)}")
    if (profile == ID_JAG) != ("grant" in given):
        needed = ", ".join((*_CLIENT_KEYS, given_by[0]))
        raise ValueError(f"grant: {{{needed}}} of the server's own authorization server belongs to profile {ID_JAG}")
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
        grant=_client(mapping(given["grant"], "grant", keys, _FORM), "grant.") if "grant" in given else None,
    )


def exchange_document(exchange: TokenExchange) -> dict[str, Any]:
    """What `read_exchange` reads, without secrets and files."""
    found = {
        **_client_document(exchange.client),
        "profile": exchange.profile,
        "audience": exchange.audience,
        "resource": exchange.resource,
        "scope": exchange.scope,
        "subjectTokenType": exchange.subject_type,
        "grant": _client_document(exchange.grant) if exchange.grant is not None else None,
    }
    return {key: value for key, value in found.items() if value is not None}


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


def _client_document(client: TokenClient) -> dict[str, str]:
    return {"tokenUrl": client.token_url, "clientId": client.client_id}


def _line(given: dict[str, Any], key: str, remedy: str = "write one line of text", place: str = "") -> str | None:
    return text(given[key], f"{place}{key}", remedy) if key in given else None
