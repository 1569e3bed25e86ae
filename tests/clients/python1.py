"""A client on the Python SDK 1.x (tests/clients/README.md); it has an environment of its own."""

import asyncio
import sys

from mcp import ClientSession, types
from mcp.client.streamable_http import streamablehttp_client


async def handle(message):
    root = getattr(message, "root", None)
    if isinstance(root, types.ToolListChangedNotification):
        print("changed", flush=True)


async def main(url, tool):
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    calls = 0
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write, message_handler=handle) as session:
        answer = await session.initialize()
        await session.list_tools()
        while not ended.done():
            try:
                result = await session.call_tool(tool, {})
                if result.isError:
                    print("error", result.content, flush=True)
            except Exception as error:
                print("error", repr(error), flush=True)
            calls += 1
            if calls == 1:
                print("ready", answer.protocolVersion, flush=True)
            await asyncio.sleep(0.05)
    print("calls", calls, flush=True)


asyncio.run(main(*sys.argv[1:]))
