"""The HTTP interface of the admin port (interface.md): health, readiness, metrics and status."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import httpx2
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from mcpgw_sidecar.admin.envoystats import translate
from mcpgw_sidecar.admin.merged import Merged
from mcpgw_sidecar.admin.status import Facts, document, gauges, not_ready, server
from mcpgw_sidecar.inbound.guard import host_name
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.runtime.envoyclient import envoy_client
from mcpgw_sidecar.runtime.http import Receive, Scope, Send, wait_body
from mcpgw_sidecar.runtime.listeners import Address

log = get_logger(__name__)

ENVOY_TIMEOUT = 1.0  # seconds: a scrape without Envoy's numbers is better than none
MAX_BODY = 65536  # bytes
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_JSON = "application/json"
_PATHS = "/healthz, /readyz, /metrics, /status, /status/NAMESPACE/NAME"


class AdminApp:
    """The ASGI application.

    `facts` returns the current state, `waiting_for` why the process is not ready yet. `hosts` are
    names that a request may have as its Host, besides addresses: a page that was made to resolve
    its own name to this machine must not read the status.

    The status names every server, so only this machine reads it, and whoever has the token in
    `token_file`. (In a pod the port is open to the network, for probes and Prometheus.)
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        facts: Callable[[], Facts],
        waiting_for: Callable[[], str | None],
        envoy_admin: Address | None,
        hosts: frozenset[str] = frozenset(),
        token_file: Path | None = None,
    ) -> None:
        self._hosts = hosts | {"localhost", socket.gethostname().lower()}
        self._token_file = token_file
        self._metrics = metrics
        self._facts = facts
        self._waiting_for = waiting_for
        self._envoy = envoy_admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        try:
            if await wait_body(receive, MAX_BODY) is None:
                return  # no path takes a body: hypercorn closes a connection that sends more
            refusal = self._misdirected(scope) or self._forbidden(scope)
            status, kind, body = refusal or await self._wait_answer(scope["method"], scope["path"])
        except Exception:
            log.exception("Admin failed on a request")
            status, kind, body = 500, _JSON, b'{"error":"internal error: see the log"}'
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _misdirected(self, scope: Scope) -> tuple[int, str, bytes] | None:
        """421 for a request with another Host; no browser sends a request without one."""
        host = host_name(next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "localhost"))
        if host in self._hosts or _is_address(host):
            return None
        return _json(
            421, {"error": f"Misdirected Request: the admin port does not serve {host[:200]!r}; name it with --admin-host"}
        )

    def _forbidden(self, scope: Scope) -> tuple[int, str, bytes] | None:
        """403 for the status, unless it is asked for on this machine or with the token."""
        is_here = _is_loopback((scope.get("client") or ("",))[0])
        if is_here or not f"{scope['path']}/".startswith("/status/"):
            return None
        token = b""
        with contextlib.suppress(OSError):  # it may be replaced at this moment
            token = b"" if self._token_file is None else self._token_file.read_bytes().strip()
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if token and hmac.compare_digest(given, b"Bearer " + token):
            return None
        hint = "ask on its own machine (in Kubernetes: kubectl port-forward), or with the Bearer token of --admin-token-file"
        return _json(403, {"error": f"Forbidden: /status is not for the network; {hint}"})

    async def _wait_answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in {"GET", "HEAD"}:
            return _json(405, {"error": "Method not allowed. Supported methods: GET"})
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/readyz":
            return self._ready()
        if path == "/metrics":
            return 200, _TEXT, await self._wait_metrics()
        if path == "/status":
            return _json(200, document(self._facts()))
        if path.startswith("/status/"):
            return self._server(unquote(path.removeprefix("/status/")))
        return _json(404, {"error": f"Not found. Paths: {_PATHS}"})

    def _ready(self) -> tuple[int, str, bytes]:
        reason = self._waiting_for()
        servers = not_ready(self._facts().statuses)
        return _json(503 if reason else 200, {"ready": not reason, "waitingFor": reason, "serversNotReady": servers})

    def _server(self, name: str) -> tuple[int, str, bytes]:
        for status in self._facts().statuses:
            if status.server.name == name:
                return _json(200, server(status))
        hint = (
            "Use its name in the configuration ('namespace/route-name' in Kubernetes) or check available servers at /status"
        )
        return _json(404, {"error": f"Server '{name}' not found. {hint}"})

    async def _wait_metrics(self) -> bytes:
        families = [*gauges(self._facts()), *translate(await self._wait_envoy())]
        return await trio.to_thread.run_sync(self._metrics_text, families)

    def _metrics_text(self, families: list[Metric]) -> bytes:
        """The text of the metrics.

        To run in a thread, because some hundred kilobytes of text would delay every call.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Merged([*self._metrics.registry.collect(), *families]))
        return generate_latest(registry)

    async def _wait_envoy(self) -> str:
        if self._envoy is None:
            return ""
        try:
            async with envoy_client(self._envoy, ENVOY_TIMEOUT) as http:
                answer = await http.get("/stats/prometheus", params={"filter": "mcpgw_call|mcpgw.call"})
                return answer.text
        except httpx2.HTTPError:
            return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _json(status: int, value: object) -> tuple[int, str, bytes]:
    return status, _JSON, (json.dumps(value, indent=2) + "\n").encode()
