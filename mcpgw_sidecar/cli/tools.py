"""`mcpgw-sidecar tools`: a small MCP client for scripts and smoke tests, on the broker's client."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import click

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.errors import GatewayError, RefusedError, UnavailableError, UpstreamError
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.upstream.exchange import Exchanger
from mcpgw_sidecar.upstream.pool import HttpClients
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient

_UNAVAILABLE = frozenset({502, 503, 504})
_CLIENT_INFO = dumps({"name": f"{PROGRAM}-tools", "version": __version__})


def arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`k=v` pairs; v is JSON where it parses, else text. Raises click.UsageError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            msg = f"--arg {pair!r} is not K=V"
            raise click.UsageError(msg)
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values


async def wait_list(url: str, headers: Mapping[str, str], timeout: float) -> list[dict[str, Any]]:
    """All tools, over all pages. Raises UnavailableError and RefusedError."""
    tools: list[dict[str, Any]] = []
    async with _session(url, headers, timeout) as gateway:
        params = "{}"
        while True:
            result = await gateway.wait_result("tools/list", params)
            tools += result.get("tools", ())
            if "nextCursor" not in result:
                return tools
            params = dumps({"cursor": result["nextCursor"]})


async def wait_call(
    url: str, headers: Mapping[str, str], timeout: float, name: str, args: Mapping[str, Any]
) -> dict[str, Any]:
    """The result of one call. Raises UnavailableError and RefusedError."""
    async with _session(url, headers, timeout) as gateway:
        return await gateway.wait_result("tools/call", dumps({"name": name, "arguments": dict(args)}))


@attrs.frozen
class _Gateway:
    client: UpstreamClient
    upstream: Upstream

    async def wait_result(self, method: str, params: str) -> dict[str, Any]:
        text, _ = await self.client.wait_result(self.upstream, method, params)
        result: dict[str, Any] = json.loads(text)["result"]
        return result


def _failure(url: str, error: UpstreamError) -> GatewayError:
    """The error to raise: the gateway's message if it sent one, else why the request failed."""
    message = error.words or str(error)
    hint = "; send one with -H 'Authorization: ...'" if error.reason == "Unauthorized" else ""
    if error.status in _UNAVAILABLE:
        return UnavailableError(message)
    if error.reason == "RpcError" or error.status is not None:
        return RefusedError(f"the gateway answered: {message}{hint}")
    return UnavailableError(f"the gateway at {url} {message}; is it running? name it with --url")


@asynccontextmanager
async def _session(url: str, headers: Mapping[str, str], timeout: float) -> AsyncIterator[_Gateway]:
    clients = HttpClients()
    client = UpstreamClient(Exchanger(clients, lambda _server, _seconds: None, timeout or math.inf))
    server = Server(name=ServerName("gateway"), url=url, hostname="")
    try:
        shake = await client.wait_initialized(server, client_info=_CLIENT_INFO, capabilities="{}", headers=headers)
        upstream = Upstream(server, shake.session, headers)
        try:
            yield _Gateway(client, upstream)
        finally:
            await client.wait_closed(upstream)
    except UpstreamError as error:
        raise _failure(url, error) from None
    finally:
        await clients.aclose()
