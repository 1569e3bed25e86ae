"""Virtual servers out of the file: fewer tools, by path or by header, live."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.stack import Client, Gateway, answer, entry, gateway, listening, succeeded, wait_until
from tests.servers.scripted import ScriptedServer, tool

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    servers = [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]
    with gateway(tmp_path_factory.mktemp("virtual"), servers) as new_gateway:
        write(new_gateway, servers, {"ns/few": ["a_one", "b_two"], "ns/none": []})
        wait_until(lambda: new_gateway.status()["config"]["generation"] == 2, "the configuration")
        yield new_gateway


def write(running: Gateway, servers: list[dict[str, Any]], virtual: dict[str, list[str]]) -> None:
    document = {"servers": servers, "virtualServers": [{"name": name, "tools": tools} for name, tools in virtual.items()]}
    new = running.config.with_suffix(".new")
    new.write_text(yaml.safe_dump(document))
    new.replace(running.config)


@pytest.mark.duty("list.virtual")
def test_by_path(running: Gateway, one: ScriptedServer) -> None:
    with Client(f"{running.url}/ns/few") as few, running.client() as everything:
        assert few.tools() == ["a_one", "b_two"]
        assert len(everything.tools()) == 4
        assert succeeded(few.call("a_one"))
        assert one.calls("tools/call")[-1].path == "/mcp"
        refused = few.call("a_both").json()
        assert refused["error"]["code"] == -32601
        assert len(one.calls("tools/call")) == 1
        assert few.post("prompts/list").json()["result"]["prompts"] == []


@pytest.mark.duty("list.virtual", "header.to-server")
def test_by_header(running: Gateway, one: ScriptedServer) -> None:
    with running.client(x_mcp_virtualserver="ns/few") as few:
        assert few.tools() == ["a_one", "b_two"]
        assert succeeded(few.call("a_one"))
        assert "x-mcp-virtualserver" not in one.calls("tools/call")[-1].headers
        assert "x-mcp-virtualserver" not in one.calls("initialize")[-1].headers
        assert few.call("a_both").json()["error"]["code"] == -32601
    with running.client(x_mcp_virtualserver="ns/none") as none:
        assert none.tools() == []


@pytest.mark.duty("list.virtual-404")
def test_what_is_wrong(running: Gateway) -> None:
    with running.client() as client:
        for headers in ({"x-mcp-virtualserver": "ns/unknown"}, {"x-mcp-virtualserver": ""}):
            for message in (LIST, {**LIST, "method": "tools/call", "params": {"name": "a_one"}}):
                refused = client.send(message, **headers)
                assert (refused.status_code, refused.json()["id"]) == (404, 1), headers
                assert "Virtual server not found" in refused.json()["error"]["message"]
    with Client(f"{running.url}/ns/few") as few:
        both = few.send(LIST, **{"x-mcp-virtualserver": "ns/none"})
        assert both.status_code == 400
    unknown = Client(f"{running.url}/ns/unknown")
    assert unknown.initialized.status_code == 404
    unknown.close()


@pytest.mark.duty("list.virtual", "batch.each")
def test_in_a_batch(running: Gateway) -> None:
    with Client(f"{running.url}/ns/few", version="2025-03-26") as few:
        calls = [
            {**LIST, "id": n, "method": "tools/call", "params": {"name": name}} for n, name in enumerate(("a_one", "a_both"))
        ]
        answered = few.send([*calls, {**LIST, "id": 9}], accept="application/json")
        by_id = {each["id"]: each for each in answered.json()}
        assert "result" in by_id[0]
        assert by_id[1]["error"]["code"] == -32601
        assert [each["name"] for each in by_id[9]["result"]["tools"]] == ["a_one", "b_two"]


@pytest.mark.duty("notify.list-changed", "list.virtual")
def test_it_changes_live_and_tells_its_clients(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    servers = [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]
    with Client(f"{running.url}/ns/few") as few, running.client() as everything:
        with listening(few) as messages, listening(everything) as others:
            write(running, servers, {"ns/few": ["a_both"]})
            wait_until(lambda: few.tools() == ["a_both"], "the other choice")
            wait_until(lambda: messages, "told")
            assert messages[0]["method"] == "notifications/tools/list_changed"
            one.tools.append(tool("new"))
            one.notify("notifications/tools/list_changed")
            wait_until(lambda: others, "the others are told of a new tool")
            assert len(messages) == 1  # it is not one of theirs
        assert answer(few.call("a_both"))["result"]
