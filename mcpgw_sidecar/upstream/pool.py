"""The shared HTTP clients of the gateway: one for each bundle of certificates, without cookies."""

from __future__ import annotations

import random
import ssl
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import attrs
import httpx2
import trio

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.runtime import trust


@attrs.define
class HttpClients:
    """One client, with its pool and TLS context, for each bundle of certificates.

    Building one takes 60 ms and more.
    """

    _clients: dict[str, httpx2.AsyncClient] = attrs.field(factory=dict)
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def wait_for(self, server: Server) -> httpx2.AsyncClient:
        """The client that trusts the certificates of this server's configuration."""
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
            make_context = partial(trust.context, server.ca_file)
            try:
                context = await trio.to_thread.run_sync(make_context)
            except (OSError, ssl.SSLError) as error:
                reason = f"{server.ca_file or trust.system_bundle()} cannot be used as trusted certificates: {error}"
                raise UpstreamError("BadCaFile", reason) from None
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=1.5)
        # One HTTP client serves many MCP clients: a cookie for one of them must not reach another.
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        return httpx2.AsyncClient(verify=context, limits=limits, cookies=no_cookies, trust_env=False)


def target(server: Server, fields: dict[bytes, bytes]) -> tuple[str, dict[str, str]]:
    """Where to ask a server: at its URL, or at an address that was judged, by the URL's name.

    `fields` are the headers of the request, which get the name then.
    """
    if not server.addresses:
        return server.url, {}
    parts, address = urlsplit(server.url), random.choice(server.addresses)  # noqa: S311  # not a secret
    fields[b"host"] = parts.netloc.encode()
    host = f"[{address}]" if ":" in address else address
    port = f":{parts.port}" if parts.port is not None else ""
    return parts._replace(netloc=host + port).geturl(), {"sni_hostname": parts.hostname or ""}
