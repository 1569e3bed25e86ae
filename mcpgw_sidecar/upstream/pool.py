"""The HTTP clients that the broker shares: one for each way of trusting a server, none of them with a memory of its own."""

from __future__ import annotations

import ssl
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy

import attrs
import httpx2
import trio

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.runtime import trust


@attrs.define
class HttpClients:
    """One client, with its pool and TLS context, for each way of trusting a server: building one costs 60 ms and more."""

    _clients: dict[str, httpx2.AsyncClient] = attrs.field(factory=dict)
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def wait_for(self, server: Server) -> httpx2.AsyncClient:
        """The client that trusts what this server's configuration trusts."""
        bundle = (server.ca_file or "system") if server.url.startswith("https:") else "none"
        async with self._lock:
            if bundle not in self._clients:
                self._clients[bundle] = await self._wait_client(bundle, server)
            return self._clients[bundle]

    async def aclose(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.aclose()

    async def _wait_client(self, bundle: str, server: Server) -> httpx2.AsyncClient:
        context: ssl.SSLContext | bool = False
        if bundle != "none":
            make = partial(trust.context, server.ca_file)
            try:
                context = await trio.to_thread.run_sync(make)
            except (OSError, ssl.SSLError) as error:
                reason = f"{server.ca_file or trust.system_bundle()} cannot be used as trusted certificates: {error}"
                raise UpstreamError("BadCaFile", reason) from None
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=4.0)
        # One client speaks for many: a cookie that a server gives to one of them must reach nobody else.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        return httpx2.AsyncClient(verify=context, limits=limits, cookies=no_cookies, trust_env=False)
