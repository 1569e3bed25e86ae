"""A call of a client without sessions, whose server and client do anything at any moment."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from mcpgw_sidecar.front.pooling import Pooling
from mcpgw_sidecar.front.room import Room
from mcpgw_sidecar.model.decisions import Carry
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import JsonText, ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.upstream.exchange import Exchanger
from mcpgw_sidecar.upstream.pool import HttpClients
from mcpgw_sidecar.upstream.sessionpool import SessionPool
from mcpgw_sidecar.upstream.stateful import UpstreamClient

META = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: here\n\n"


class Breaking:
    """A server whose calls never end, until the test breaks their connections."""

    def __init__(self) -> None:
        self.calls: list[trio.SocketStream] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        head, _, body = (await self._read(stream)).partition(b"\r\n\r\n")
        if head.startswith(b"GET"):
            await stream.send_all(STREAM)
            await trio.sleep_forever()
        message = json.loads(body) if body else {}
        if message.get("method") == "tools/call":
            await stream.send_all(STREAM)
            self.calls.append(stream)
            await trio.sleep_forever()
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
        text = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result}).encode()
        head = b"mcp-session-id: u1\r\ncontent-type: application/json\r\nconnection: close\r\n"
        await stream.send_all(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(text), text))

    async def _read(self, stream: trio.SocketStream) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        head = data.partition(b"\r\n\r\n")[0].lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        while len(data) < len(head) + 4 + length:
            data += await stream.receive_some()
        return data


@contextlib.asynccontextmanager
async def pooling(breaking: Breaking) -> AsyncIterator[tuple[Pooling, Server]]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(lambda task_status: _serve(breaking, task_status))
        port = listeners[0].socket.getsockname()[1]
        server = Server(name=ServerName("ns/one"), url=f"http://127.0.0.1:{port}/mcp", hostname="one")
        client = UpstreamClient(Exchanger(HttpClients(), lambda _server, _seconds: None))
        pool = SessionPool(client=client, nursery=nursery, servers=lambda: {server.name: server})
        made = Pooling(client=client, pool=pool, stale=print, silence=60.0, work=Work(), room=Room(), nursery=nursery)
        yield made, server
        nursery.cancel_scope.cancel()


async def _serve(breaking: Breaking, task_status: Any) -> None:
    await trio.serve_tcp(breaking.serve, 0, host="127.0.0.1", task_status=task_status)


@pytest.mark.duty("era.pooled")
async def test_a_server_that_breaks_off_while_its_client_goes_ends_nothing() -> None:
    """At no distance of the two: what is raised then is a group of both."""
    breaking = Breaking()
    params = {"name": "x", "_meta": META}
    text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    async with pooling(breaking) as (made, server):
        carry = Carry(server=server, kind=TOOL, key="x", method="tools/call", id=JsonText("1"), session=None, text=text)
        for ticks in range(14):
            gone, sent = trio.Event(), list[Any]()

            async def receive(gone: trio.Event = gone) -> dict[str, Any]:
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(event: dict[str, Any], sent: list[Any] = sent) -> None:
                await trio.lowlevel.checkpoint()
                sent.append(event)

            async def call(receive: Any = receive, send: Any = send) -> None:
                headers = {"accept": "application/json, text/event-stream", "x-mcp-client": "127.0.0.1"}
                await made.wait_carried(carry, None, headers, RequestRecord(Metrics()), receive, send)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                while len(breaking.calls) <= ticks:  # noqa: ASYNC110  # the server's list
                    await trio.sleep(0.002)
                breaking.calls[-1].socket.shutdown(2)
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                gone.set()
        await trio.sleep(0.05)
        assert made.room._of_client == {}, "no place is lost"
        assert made.count() == 0
