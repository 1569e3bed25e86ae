"""What is beside the endpoint: how to log in, and what Envoy asks for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from mcpgw_sidecar.envoy.contract import CHANGED_PATH, HEAL_PATH, JWKS_PATH
from mcpgw_sidecar.envoy.login import jwks_path
from mcpgw_sidecar.front.answers import OK, wait_sent
from mcpgw_sidecar.front.heal import Healer
from mcpgw_sidecar.inbound.callers import WELL_KNOWN, metadata
from mcpgw_sidecar.inbound.guard import Guard
from mcpgw_sidecar.model.access import Authentication
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.names import ENDPOINT, ServerName
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.runtime.http import Send


@attrs.frozen(kw_only=True)
class Beside:
    """Answers these requests.

    `stale` is called with a server that says on a call's stream that its lists changed. `secret`
    follows the paths of Envoy's questions. `keys` returns the keys of an issuer, by its mark.
    """

    healer: Healer
    stale: Callable[[ServerName], None]
    secret: str = ""
    keys: Callable[[str], bytes | None] = lambda _mark: None

    @staticmethod
    def has(path: str) -> bool:
        """Whether a path is one of these."""
        return path.startswith((HEAL_PATH, CHANGED_PATH, JWKS_PATH, WELL_KNOWN))

    async def wait_answered(
        self, headers: Mapping[str, str], authentication: Authentication | None, guard: Guard, send: Send
    ) -> Reject | None:
        """Answer a request, or return the refusal."""
        path, of_keys = headers[":path"].partition("?")[0], jwks_path(self.secret)
        if _is_metadata(path) and authentication is not None:
            refusal = guard.refuses(headers[":authority"], headers.get("origin"))
            if refusal is None:
                await wait_sent(send, OK, dumps(metadata(headers, authentication)).encode())
            return refusal
        keys = self.keys(path.removeprefix(of_keys)) if path.startswith(of_keys) else None
        if path == HEAL_PATH + self.secret:
            await self.healer.wait_answered(headers, send, proven=bool(self.secret))
        elif path == CHANGED_PATH + self.secret:
            self.stale(ServerName(headers.get(h.X_SERVER, "")))
            await wait_sent(send, 202, b"")
        else:
            await wait_sent(send, OK if keys is not None else 404, keys or b"")
        return None


def _is_metadata(path: str) -> bool:
    """Whether a path is that of an endpoint's metadata (RFC 9728, section 3.1)."""
    endpoint = path.removeprefix(WELL_KNOWN)
    return path.startswith(WELL_KNOWN) and (endpoint in {"", "/", ENDPOINT} or endpoint.startswith(f"{ENDPOINT}/"))
