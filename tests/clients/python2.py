"""A client on the Python SDK 2.x (tests/clients/README.md)."""

from __future__ import annotations

import sys
from typing import Any

import trio
from mcp import Client, types


async def handle(message: Any) -> None:
    if isinstance(message, types.ToolListChangedNotification):
        print("changed", flush=True)


async def main(url: str, tool: str, mode: Any = "legacy") -> None:
    calls, ended = 0, trio.Event()

    async def wait_end() -> None:
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        ended.set()

    async with trio.open_nursery() as nursery, Client(url, mode=mode, message_handler=handle) as client:
        nursery.start_soon(wait_end)
        await client.list_tools()
        while not ended.is_set():
            try:
                result = await client.call_tool(tool, {})
                if result.is_error:
                    print("error", result.content, flush=True)
            except Exception as error:
                print("error", repr(error), flush=True)
            calls += 1
            if calls == 1:
                print("ready", client.protocol_version, flush=True)
            await trio.sleep(0.05)
    print("calls", calls, flush=True)


trio.run(main, *sys.argv[1:])
