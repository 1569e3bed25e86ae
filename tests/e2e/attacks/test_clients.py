"""One client against everybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.stack import entry, gateway, succeeded
from tests.servers.scripted import ScriptedServer


@pytest.mark.duty("security.one-reading")
def test_a_header_with_an_underscore_is_refused(one: ScriptedServer, tmp_path: Path) -> None:
    """Some servers take it for the one with hyphens, which Envoy has removed or checked."""
    with gateway(tmp_path, [entry("ns/one", one.url)]) as running, running.client() as client:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "one"}}
        assert succeeded(client.send(call))
        answer = client.http.post(client.url, json=call, headers={**client.headers, "mcp_session_id": "x"})
        assert answer.status_code == 400
        assert len(one.calls("tools/call")) == 1
