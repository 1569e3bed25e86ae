"""A client of Envoy's admin endpoint, which is a UNIX socket unless somebody wants a port.

A port would also answer web pages that resolve their own name to this machine, and the endpoint can
end Envoy.
"""

from __future__ import annotations

import httpx2

from mcpgw_sidecar.runtime.listeners import Address


def admin_client(address: Address, seconds: float) -> httpx2.AsyncClient:
    """The client; URLs are paths. `seconds` is its timeout."""
    # Plain HTTP: there is no certificate to verify.
    if address.path is None:
        return httpx2.AsyncClient(base_url=f"http://{address}", verify=False, timeout=seconds, trust_env=False)
    transport = httpx2.AsyncHTTPTransport(uds=address.path, verify=False)
    return httpx2.AsyncClient(base_url="http://localhost", transport=transport, timeout=seconds, trust_env=False)
