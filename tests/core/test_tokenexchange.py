"""What is asked of authorization servers."""

from __future__ import annotations

import pytest

from mcpgw_sidecar.model.exchanges import ENTRA, ID_JAG, TokenClient, TokenExchange
from mcpgw_sidecar.protocol.tokenexchange import fields_of, fields_of_grant

CLIENT = TokenClient(token_url="https://idp/token", client_id="g")  # a URL


@pytest.mark.duty("access.exchange")
def test_each_profile_asks_as_its_specification_says() -> None:
    assert fields_of(TokenExchange(client=CLIENT, profile=ENTRA, scope="api://x/.default"), "T") == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "T",
        "requested_token_use": "on_behalf_of",
        "scope": "api://x/.default",
    }
    jag = TokenExchange(client=CLIENT, profile=ID_JAG, audience="https://as", subject_type="id_token", grant=CLIENT)
    assert fields_of(jag, "T") == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "T",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        "audience": "https://as",
    }
    grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "G"}
    assert fields_of_grant(jag, "G") == grant
    assert fields_of_grant(TokenExchange(client=CLIENT, scope="a b"), "G") == grant | {"scope": "a b"}
