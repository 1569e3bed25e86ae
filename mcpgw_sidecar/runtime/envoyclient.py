"""Clients of Envoy: of its inner listener, and of its admin endpoint.

The admin endpoint is a UNIX socket unless somebody wants a port. A port would also answer web pages
that resolve their own name to this machine, and the endpoint can end Envoy.
"""

from __future__ import annotations

import httpx2

from mcpgw_sidecar.model import timeouts
from mcpgw_sidecar.runtime.listeners import Address


def envoy_client(address: Address, seconds: float | None) -> httpx2.AsyncClient:
    """The client; URLs are paths. `seconds` is its timeout; with None it only connects in time."""
    timeout = httpx2.Timeout(seconds, connect=timeouts.CONNECT if seconds is None else seconds)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    # Plain HTTP: there is no certificate to verify.
    transport = httpx2.AsyncHTTPTransport(uds=address.path, verify=False, limits=limits)
    host = str(address) if address.path is None else "localhost"
    return httpx2.AsyncClient(base_url=f"http://{host}", transport=transport, timeout=timeout, trust_env=False)
