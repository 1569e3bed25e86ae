"""What an MCPServer takes from Secrets: its credential, and the clients that exchange tokens."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import attrs

from mcpgw_sidecar.model.exchanges import TokenClient, TokenExchange
from mcpgw_sidecar.model.exchangetext import SECRETS, read_exchange
from mcpgw_sidecar.model.servers import DISCOVERY, ForwardedHeader
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.resources.kinds import CREDENTIAL_LABEL, SECRET, watch_name
from mcpgw_sidecar.resources.lookup import Lookup, Problem
from mcpgw_sidecar.resources.objects import McpServer, Ref

_ELSEWHERE = re.compile(r"/\.|%|//")  # segments that may lead out of a path


def credential_of(mcp_server: McpServer, lookup: Lookup) -> str | Problem | None:
    """The value of `credentialRef`."""
    if mcp_server.credential is None:
        return None
    name, key = mcp_server.credential
    value = _text(Ref(mcp_server.ref.namespace, name), key, "credentialRef", lookup)
    if isinstance(value, str) and not is_header_value(value):
        return _invalid_credential(
            f"Secret {mcp_server.ref.namespace}/{name}, key {key}: the value must be one line of visible ASCII, such as: Bearer TOKEN"
        )
    return value


def exchange_of(
    mcp_server: McpServer, forwarded: Collection[ForwardedHeader], lookup: Lookup
) -> TokenExchange | Problem | None:
    """What `tokenExchange` says.

    A `tokenUrl` gets the tokens of this gateway's callers, and its own secret: the operator says
    which there may be (`--allow-token-urls`).
    """
    if mcp_server.exchange is None:
        return None
    document: Any = mcp_server.exchange
    try:
        exchange = read_exchange(document, SECRETS)
    except ValueError as error:
        return Problem(reason="InvalidSpec", message=f"tokenExchange: {error}")
    if mcp_server.credential_use != DISCOVERY or any(each.sent == "authorization" for each in forwarded):
        fault = "calls bring an exchanged token: remove it, or credentialUse and the Authorization of forwardHeaders"
        return Problem(reason="InvalidSpec", message=f"tokenExchange: {fault}")
    clients = []
    for place, client in exchange.clients:
        if not is_allowed(client.token_url, lookup.allowed().token_urls):
            fault = f"{place}tokenUrl {client.token_url}: start the sidecars with --allow-token-urls {client.token_url} to allow it"
            return Problem(reason="InvalidSpec", message=f"tokenExchange: {fault}")
        given = document if not place else document["grant"]
        found = _with_secret(
            client, given.get("clientSecretRef"), f"tokenExchange.{place}clientSecretRef", mcp_server, lookup
        )
        if isinstance(found, Problem):
            return found
        clients.append(found)
    return attrs.evolve(exchange, client=clients[0], grant=clients[1] if len(clients) > 1 else None)


def is_allowed(url: str, allowed: Collection[str]) -> bool:
    """Whether callers' tokens may go there: it is one of these, or below one that ends in /."""
    return url in allowed or any(
        each.endswith("/") and url.startswith(each) and not _ELSEWHERE.search(url, len(each) - 1) for each in allowed
    )


def _with_secret(
    client: TokenClient,
    given: Any,  # noqa: ANN401  # of the spec
    place: str,
    mcp_server: McpServer,
    lookup: Lookup,  # of the spec
) -> TokenClient | Problem:
    if given is None:
        return client
    name, key = given["name"], given.get("key", "token")
    value = _text(Ref(mcp_server.ref.namespace, name), key, place, lookup)
    if isinstance(value, Problem):
        return value
    if not value:
        return _invalid_credential(f"Secret {mcp_server.ref.namespace}/{name}, key {key}: it is empty")
    return attrs.evolve(client, client_secret=value)


def _text(ref: Ref, key: str, place: str, lookup: Lookup) -> str | Problem:
    if not lookup.allowed().reads_secrets(ref.namespace):
        return _invalid_credential(
            f"the sidecars read no Secret of namespace {ref.namespace}: give --secrets-in {ref.namespace} "
            "to `mcpgw-sidecar manifests`, for the rights, and to `run`"
        )
    secret = lookup.secret(ref)
    if secret is None:
        troubles = lookup.troubles()
        trouble = troubles.get(watch_name(SECRET.name, ref.namespace)) or troubles.get(SECRET.name)
        fault = f'Secret {ref} not found, or without the label {CREDENTIAL_LABEL}: "true": create it, or label it'
        return _invalid_credential(fault if trouble is None else f"Secrets cannot be read ({trouble})")
    value = secret.text(key)
    if value is None:
        return _invalid_credential(f"Secret {ref} has no text under the key {key}: add it, or change {place}.key")
    return value


def _invalid_credential(fault: str) -> Problem:
    return Problem(reason="InvalidCredential", message=f"Credential validation failed: {fault}")
