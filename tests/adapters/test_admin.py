"""The admin port: what it tells to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpgw_sidecar.admin.app import AdminApp
from mcpgw_sidecar.admin.status import Facts
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.metrics import Metrics

FACTS = Facts(
    desired=Desired(source="file:x"),
    statuses=(),
    gateway_sessions=0,
    upstream_sessions={},
    dropped=0,
    envoy_accepted=None,
    envoy_error=None,
)


def asked(path: str, client: str, token_file: Path | None = None, **headers: str) -> tuple[int, dict[str, Any] | str]:
    """The answer to a request of a client at an address."""
    app = AdminApp(metrics=Metrics(), facts=lambda: FACTS, waiting_for=lambda: None, envoy_admin=None, token_file=token_file)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {"type": "http", "method": "GET", "path": path, "client": (client, 4711)}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    trio.run(app, scope, receive, send)
    text = sent[1]["body"].decode()
    return sent[0]["status"], json.loads(text) if text.startswith("{") else text


@pytest.mark.duty("security.status-here")
@pytest.mark.parametrize("path", ["/status", "/status/", "/status/team/one"])
def test_the_status_is_not_for_the_network(path: str, tmp_path: Path) -> None:
    """It would get the name, URL and troubles of every server of the cluster."""
    for client in ("10.1.2.3", "fe80::1", "::ffff:10.0.0.1", ""):
        status, body = asked(path, client)
        assert status == 403
        assert "--admin-token-file" in body["error"]  # type: ignore[index]
    assert all(asked(path, client)[0] != 403 for client in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"))
    token = tmp_path / "token"
    token.write_text("secret\n")
    assert asked(path, "10.1.2.3", token, authorization="Bearer secret")[0] != 403
    for given in ("Bearer", "Bearer ", "secret", "Bearer other", "bearer secret"):
        assert asked(path, "10.1.2.3", token, authorization=given)[0] == 403
    token.write_text("\n")
    assert asked(path, "10.1.2.3", token, authorization="Bearer ")[0] == 403


@pytest.mark.duty("security.status-here")
def test_probes_and_prometheus_are_answered() -> None:
    assert [asked(path, "10.1.2.3")[0] for path in ("/healthz", "/readyz", "/metrics", "/other", "/")] == [
        200,
        200,
        200,
        404,
        404,
    ]
