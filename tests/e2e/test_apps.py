"""MCP Apps (io.modelcontextprotocol/ui): tools with pages, and pages that call tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Client, Gateway, entry, gateway, succeeded, wait_until
from tests.servers.scripted import ScriptedServer, tool

UI = "io.modelcontextprotocol/ui"
PAGE = "ui://clock/main.html"
DECLARED = {"extensions": {UI: {"mimeTypes": ["text/html;profile=mcp-app"]}}}


class Apps(ScriptedServer):
    """A server that shows its tools with pages only to clients that show pages, as the SDK's do."""

    def __init__(self, name: str) -> None:
        meta = {"ui": {"resourceUri": PAGE}, "ui/resourceUri": PAGE, "x": 1e2}
        super().__init__(tool("plain"), tool(f"{name}_shown", _meta=meta))
        self.tools.append(tool(f"{name}_refresh", _meta={"ui": {"resourceUri": PAGE, "visibility": ["app"]}}))
        self.capabilities = {"tools": {}, "resources": {}, "extensions": {UI: {}, "x.example/other": {}}}
        self.answers["resources/list"] = self._result({"resources": [{"uri": PAGE, "name": name}]})
        self.answers["resources/read"] = self._result({"contents": [{"uri": PAGE, "text": name}]})
        self.answers["tools/list"] = self._list_for

    def _result(self, value: dict[str, Any]) -> Any:
        def answer(handler: Any, message: Any) -> bool:
            handler.result(message["id"], value)
            return True

        return answer

    def _list_for(self, handler: Any, message: Any) -> bool:
        declared = UI in json.dumps([call.json["params"]["capabilities"] for call in self.calls("initialize")][:1])
        handler.result(message["id"], {"tools": self.tools if declared else self.tools[:1]})
        return True


@pytest.fixture
def servers() -> Iterator[tuple[Apps, Apps]]:
    with Apps("one") as one, Apps("two") as two:
        yield one, two


@pytest.fixture
def running(servers: tuple[Apps, Apps], tmp_path: Path) -> Iterator[Gateway]:
    one, two = servers
    with gateway(tmp_path, [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]) as new_gateway:
        wait_until(lambda: all(new_gateway.server(name)["ready"] for name in ("ns/one", "ns/two")))
        yield new_gateway


@pytest.mark.duty("apps.shown", "apps.advertised")
def test_who_shows_pages_sees_the_tools_of_pages(running: Gateway) -> None:
    with Client(running.url, capabilities=DECLARED) as host, running.client() as model:
        everything = ["a_one_refresh", "a_one_shown", "a_plain", "b_plain", "b_two_refresh", "b_two_shown"]
        for _ in range(3):  # from the broker, then from Envoy's memory
            assert host.tools() == everything
            assert model.tools() == ["a_one_shown", "a_plain", "b_plain", "b_two_shown"]
        for client in (host, model):
            assert client.initialized.json()["result"]["capabilities"]["extensions"] == {UI: {}}
        assert succeeded(host.call("b_two_refresh"))
        assert model.call("b_two_refresh").json()["error"]["code"] == -32601


@pytest.mark.duty("apps.pages")
def test_a_page_that_two_servers_list_belongs_to_its_tool(running: Gateway, servers: tuple[Apps, Apps]) -> None:
    with Client(running.url, capabilities=DECLARED) as host:
        other = "ui://ns%2Ftwo/clock/main.html"
        uris = [resource["uri"] for resource in host.post("resources/list").json()["result"]["resources"]]
        assert uris == [PAGE, other]
        metas = {each["name"]: each.get("_meta") for each in host.post("tools/list").json()["result"]["tools"]}
        assert metas["a_one_shown"] == {"ui": {"resourceUri": PAGE}, "ui/resourceUri": PAGE, "x": 1e2}
        assert metas["b_two_shown"] == {"ui": {"resourceUri": other}, "ui/resourceUri": other, "x": 1e2}
        for uri, text in ((PAGE, "one"), (other, "two")):
            assert host.post("resources/read", {"uri": uri}).json()["result"]["contents"][0]["text"] == text
        assert servers[1].calls("resources/read")[-1].json["params"]["uri"] == PAGE


@pytest.mark.duty("apps.bare-names")
def test_a_page_calls_the_tools_of_its_server_by_their_own_names(running: Gateway, servers: tuple[Apps, Apps]) -> None:
    with Client(running.url, capabilities=DECLARED) as host, running.client() as model:
        for _ in range(2):
            assert succeeded(host.call("two_refresh"))
            assert model.call("two_refresh").json()["error"]["code"] == -32601
        assert servers[1].calls("tools/call")[-1].json["params"]["name"] == "two_refresh"
        assert host.call("plain").json()["error"]["code"] == -32601, "two servers have it"
