"""The gateway's own requests to servers."""

from __future__ import annotations

import attrs
import pytest

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.runtime import descriptors
from mcpgw_sidecar.upstream.exchange import Exchanger
from mcpgw_sidecar.upstream.pool import HttpClients
from tests.servers.scripted import ScriptedServer, tool

PING = b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'


async def posted(server: Server) -> int:
    """The status of one request."""
    clients = HttpClients()
    try:
        async with Exchanger(clients, lambda *_: None).exchange(server, "POST", PING, {}) as answer:
            return answer.status_code
    finally:
        await clients.aclose()


@pytest.mark.duty("security.external-names")
async def test_nobody_resolves_a_name_again_whose_addresses_were_judged() -> None:
    with ScriptedServer(tool("one")) as one:
        url = f"http://no.such.name.invalid:{one.port}/mcp"
        server = Server(name=ServerName("ns/one"), url=url, hostname="no.such.name.invalid", addresses=("127.0.0.1",))
        assert await posted(server) < 500
        assert one.requests[-1].headers["host"] == f"no.such.name.invalid:{one.port}"
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await posted(attrs.evolve(server, addresses=()))
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await posted(attrs.evolve(server, addresses=("::1",), url=url.replace(str(one.port), "1")))


@pytest.mark.duty("security.descriptors")
async def test_no_server_is_asked_without_a_descriptor_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "has_room", lambda _part=1.0: False)
    with ScriptedServer(tool("one")) as one, pytest.raises(UpstreamError, match="too many open connections") as error:
        await posted(Server(name=ServerName("ns/one"), url=one.url, hostname="one"))
    assert error.value.reason == "Busy"
