"""Clients of others: the SDKs for Python and TypeScript, and the Inspector in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import Client, types

from tests.e2e.clients import NODE_PARTS
from tests.e2e.conftest import inspector, node
from tests.e2e.stack import Gateway


@pytest.mark.duty("session.era-fallback", "call.clients")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_python_sdk(guide: Gateway, mode: Any) -> None:
    """`auto` asks first, and is led to the era in which all servers of the guide speak."""

    async def use() -> None:
        progress: list[float] = []

        async def on_progress(done: float, _total: float | None, _message: str | None) -> None:
            progress.append(done)

        async with Client(guide.url, mode=mode) as client:
            assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
            assert client.server_info is not None
            assert client.server_info.name == "mcpgw-sidecar"
            tools = await client.list_tools()
            assert "test_greet" in [tool.name for tool in tools.tools]
            greeting = await client.call_tool("test_greet", {"name": "Python"})
            assert isinstance(greeting.content[0], types.TextContent)
            assert greeting.content[0].text == "Hi Python"
            slow = await client.call_tool("test_slow", {"seconds": 2}, progress_callback=on_progress)
            assert not slow.is_error
            failed = await client.call_tool("test_fail", {})
            assert failed.is_error
        assert progress == [1, 2]

    trio.run(use)


@pytest.mark.duty("call.clients")
def test_two_python_sdk_clients_at_once(guide: Gateway) -> None:
    async def use(name: str) -> None:
        async with Client(guide.url, mode="legacy") as client:
            for number in range(10):
                result = await client.call_tool("test_greet", {"name": f"{name}{number}"})
                assert isinstance(result.content[0], types.TextContent)
                assert result.content[0].text == f"Hi {name}{number}"

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, "a")
            nursery.start_soon(use, "b")

    trio.run(both)


@pytest.mark.duty("call.clients")
def test_the_typescript_sdk(guide: Gateway) -> None:
    report = json.loads(node(NODE_PARTS / "client.mjs", guide.url))
    assert report["server"]["name"] == "mcpgw-sidecar"
    assert "test2_hello_world" in report["tools"]
    assert report["greet"]["content"][0]["text"] == "Hi TypeScript"
    assert report["progress"] == [1, 2]
    assert report["slow"]["content"][0]["text"] == "done after 2 s"
    assert report["unknown"]["code"] == -32601


@pytest.mark.duty("call.clients")
def test_the_inspector_in_a_browser(guide: Gateway, tmp_path: Path) -> None:
    """As `just inspect-gateway` starts it; screenshots stay in the test's directory."""
    with inspector(guide.url, tmp_path) as page:
        report = json.loads(node(NODE_PARTS / "inspector.mjs", page, str(tmp_path)))
    assert {"test_greet", "test2_hello_world", "apikey_hello_world"} <= set(report["tools"])
    assert (report["progress"], report["slow"], report["greet"]) == (True, True, True)
