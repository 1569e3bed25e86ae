"""The commands `tools list` and `tools call`, and their MCP client, which uses the broker's."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs
import click
import trio

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.cli.declaring import option
from mcpgw_sidecar.cli.types import DURATION
from mcpgw_sidecar.envoy.settings import LISTENER_PORT
from mcpgw_sidecar.errors import EXIT_REFUSED, GatewayError, RefusedError, UnavailableError, UpstreamError
from mcpgw_sidecar.model.names import ENDPOINT, ServerName
from mcpgw_sidecar.model.reasons import TIMEOUT, UNAUTHORIZED, UNREACHABLE
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.versions import LATEST_STATEFUL
from mcpgw_sidecar.upstream.exchange import Exchanger
from mcpgw_sidecar.upstream.pool import HttpClients
from mcpgw_sidecar.upstream.stateful import Upstream, UpstreamClient
from mcpgw_sidecar.upstream.words import ClientWords

_URL = f"http://127.0.0.1:{LISTENER_PORT}{ENDPOINT}"  # of a gateway on this machine
_UNAVAILABLE = frozenset({502, 503, 504})
_CLIENT = ClientWords(
    protocol_version=LATEST_STATEFUL,
    info=dumps({"name": f"{PROGRAM}-tools", "version": __version__}),
    capabilities="{}",
)


@click.group()
@option("--url", default=_URL, help="The gateway.")
@click.option("--header", "-H", multiple=True, metavar="NAME: VALUE", help="Header to send along. Repeatable.")
@option("--timeout", default=300.0, show_default="5m", type=DURATION, help="For each answer; 0 is none.")
@click.pass_context
def tools(context: click.Context, url: str, header: tuple[str, ...], timeout: float) -> None:
    """List or call tools through a running gateway."""
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise click.UsageError(f"--url {url!r} is not a URL: write it like {_URL}")
    context.obj = (url, _headers(header), timeout)


@tools.command("list")
@click.option("--json", "as_json", is_flag=True, help="The tools as the gateway sent them, one array.")
@click.pass_obj
def tools_list(gateway: tuple[str, Mapping[str, str], float], as_json: bool) -> None:  # noqa: FBT001  # click hands in what it parsed
    """List all tools."""
    tool_list = trio.run(wait_list, *gateway)
    if as_json:
        click.echo(json.dumps(tool_list, indent=2, ensure_ascii=False))
        return
    width = max((len(tool["name"]) for tool in tool_list), default=0)
    for tool in tool_list:
        summary = (tool.get("description") or "").strip().partition("\n")[0]
        click.echo(f"{tool['name']:<{width}}  {summary}".rstrip())
    click.echo(f"{len(tool_list)} tools", err=True)


@tools.command("call")
@click.argument("name")
@click.option("--arg", "-a", "args", multiple=True, metavar="K=V", help="Argument; V is JSON if it parses, else text.")
@click.option("--json", "as_json", is_flag=True, help="The result as the server sent it.")
@click.pass_obj
def tools_call(gateway: tuple[str, Mapping[str, str], float], name: str, args: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001
    """Call the tool NAME; exit 1 when the tool says that it failed."""
    result = trio.run(wait_call, *gateway, name, arguments(args))
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        for block in result.get("content", ()):
            click.echo(block["text"] if block.get("type") == "text" else json.dumps(block, ensure_ascii=False))
    if result.get("isError"):
        sys.exit(EXIT_REFUSED)


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
    reason = error.data.get("reason") if isinstance(error.data, dict) else error.reason  # a server's, or the gateway's own
    hint = "; send one with -H 'Authorization: ...'" if reason == UNAUTHORIZED else ""
    if error.status in _UNAVAILABLE or (error.reason == "RpcError" and reason in {UNREACHABLE, TIMEOUT}):
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
        shake = await client.wait_initialized(server, client=_CLIENT, headers=headers)
        upstream = Upstream(server, shake.session, headers)
        try:
            yield _Gateway(client, upstream)
        finally:
            await client.wait_closed(upstream)
    except UpstreamError as error:
        raise _failure(url, error) from None
    finally:
        await clients.aclose()


def _headers(lines: tuple[str, ...]) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not is_header_value(name.strip()) or not is_header_value(value.strip()):
            msg = f"--header {name.strip()!r} is not 'NAME: VALUE' in visible ASCII"
            raise click.UsageError(msg)
        headers[name.strip().lower()] = value.strip()
    return headers
