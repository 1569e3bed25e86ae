"""The connections of the gateway to MCP servers, and the certificates that it trusts there."""

from __future__ import annotations

import contextlib
import random
import secrets
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache, partial
from urllib.parse import SplitResult, urlsplit

import attrs
import trio

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.runtime import descriptors, trust
from mcpgw_sidecar.runtime.listeners import Address
from mcpgw_sidecar.upstream.http1 import Link, Place, wait_connected

KEPT = 1.5  # seconds that a connection is kept for the next request: servers keep theirs for longer
MAX_KEPT = 100  # connections that are kept, of all servers
_PORTS = {"http": 80, "https": 443}
_Key = tuple[str, Place]


@attrs.define
class HttpClients:
    """The connections that wait for the next request, and a TLS context for each bundle.

    Building one takes 60 ms and more. `through` is a listener of a gateway that leads to all
    servers by their host names: then requests go the way of calls, and `own` shows its router whose
    they are.
    """

    through: Address | None = None
    own: str = attrs.field(factory=partial(secrets.token_urlsafe, 24), repr=False)
    _idle: dict[Link, _Key] = attrs.field(factory=dict)  # the one that waits longest first
    _by_place: dict[_Key, list[Link]] = attrs.field(factory=dict)
    _contexts: dict[str, ssl.SSLContext] = attrs.field(factory=dict)
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    @contextlib.asynccontextmanager
    async def linked(self, server: Server) -> AsyncIterator[Link]:
        """A connection to a server, for one request. Raises UpstreamError."""
        url = _parts(server.url)
        bundle = (server.ca_file or "system") if url.scheme == "https" and self.through is None else ""
        key = (bundle, _place(server, url) if self.through is None else Place(self.through.host, self.through.port))
        link = await self._wait_kept(key)
        if link is None:
            if not descriptors.has_room():
                raise UpstreamError("Busy", "was not asked: the gateway has too many open connections at the moment")
            context = await self._wait_context(bundle, server) if bundle else None
            link = await wait_connected(key[1], context, timeouts.CONNECT)
        is_kept = False
        try:
            yield link
            is_kept = link.begin_again()
        finally:
            if is_kept:
                link.kept = trio.current_time()
                self._idle[link] = key
                self._by_place.setdefault(key, []).append(link)
                await self._wait_swept()
            else:
                await trio.aclose_forcefully(link.stream)

    def place_of(self, server: Server) -> dict[str, str]:
        """Where a request goes, as headers: the Host of the server's URL, or that of calls."""
        if self.through is not None:
            return {"host": server.hostname, h.X_OWN: self.own}
        url = _parts(server.url)
        host = url.netloc.rpartition("@")[2]
        return {"host": host.removesuffix(f":{_PORTS[url.scheme]}")}

    async def wait_sweeping(self) -> None:
        """Close connections that nobody has used for long, for ever."""
        while True:
            await trio.sleep(KEPT)
            await self._wait_swept()

    async def aclose(self) -> None:
        """Close every connection that waits."""
        for link in list(self._idle):
            await self._wait_closed(link)

    async def _wait_kept(self, key: _Key) -> Link | None:
        """The connection to a place that was used last; None if it cannot be used again."""
        links = self._by_place.get(key)
        while links:
            link = links[-1]
            if trio.current_time() - link.kept < KEPT and link.is_silent:
                self._forget(link)
                return link
            await self._wait_closed(link)
        return None

    async def _wait_swept(self) -> None:
        """Close connections that nobody has used for long, or that are too many."""
        for link in list(self._idle):
            if link not in self._idle:  # somebody took it meanwhile
                continue
            if trio.current_time() - link.kept < KEPT and len(self._idle) <= MAX_KEPT:
                return
            await self._wait_closed(link)

    def _forget(self, link: Link) -> None:
        key = self._idle.pop(link)
        self._by_place[key].remove(link)
        if not self._by_place[key]:
            del self._by_place[key]

    async def _wait_closed(self, link: Link) -> None:
        self._forget(link)
        await trio.aclose_forcefully(link.stream)

    async def _wait_context(self, bundle: str, server: Server) -> ssl.SSLContext:
        async with self._lock:
            if bundle not in self._contexts:
                try:
                    self._contexts[bundle] = await trio.to_thread.run_sync(partial(trust.context, server.ca_file))
                except (OSError, ssl.SSLError) as error:
                    reason = f"{server.ca_file or trust.system_bundle()} cannot be used as trusted certificates: {error}"
                    raise UpstreamError("BadCaFile", reason) from None
                self._contexts[bundle].set_alpn_protocols(["http/1.1"])
            return self._contexts[bundle]


@lru_cache(maxsize=1000)
def _parts(url: str) -> SplitResult:
    return urlsplit(url)


def _place(server: Server, url: SplitResult) -> Place:
    """Where to connect: at the URL's host, or at an address that was judged, by that name."""
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    if not server.addresses:
        return Place(host, port)
    return Place(random.choice(server.addresses), port, host)  # noqa: S311  # not a secret
