"""One server against clients and other servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import answer, entry, gateway, listening, succeeded, wait_until
from tests.e2e.test_relayed import say, stream_of, watched
from tests.servers.scripted import ScriptedServer

HEADERS = [
    ("set-cookie", "who=eve; Path=/"),
    ("location", "http://evil.example/"),
    ("www-authenticate", 'Bearer resource_metadata="http://evil.example/"'),
    ("clear-site-data", '"*"'),
    ("alt-svc", 'h2="evil.example:443"'),
    ("access-control-allow-origin", "http://evil.example"),
    ("access-control-allow-credentials", "true"),
    ("mcp-session-id", "mine"),
]


@pytest.mark.duty("security.answers-headers")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "events"])
def test_what_a_server_says_beside_its_answer_reaches_no_client(one: ScriptedServer, tmp_path: Path, stream: bool) -> None:
    """A client with a cookie jar carried it to the other servers, for it knows one host alone."""

    def says(handler: Any, message: Any) -> bool:
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}})
        if stream:
            handler.send(200, f"data: {body}\n\n".encode(), HEADERS, kind="text/event-stream")
        else:
            handler.send(200, body.encode(), HEADERS)
        return True

    one.answers["tools/call"] = says
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running, running.client() as client:
        for _ in range(2):
            response = client.call("a_one")
            assert succeeded(response)
            assert not {name for name, _ in HEADERS} & set(response.headers)
            assert "evil" not in str(response.headers)
        one.answers["tools/call"] = lambda handler, _message: bool(handler.send(307, b"", HEADERS)) or True
        response = client.call("a_one")
        assert answer(response)["error"]["data"]["reason"] == "Redirect"
        assert not {name for name, _ in HEADERS} & set(response.headers)


@pytest.mark.duty("security.memory")
def test_messages_that_nobody_reads_take_no_memory_for_long(
    one: ScriptedServer, two: ScriptedServer, tmp_path: Path
) -> None:
    """A server filled the process until the session ended: 20 messages of 8 MB were enough."""
    for server in (one, two):
        watched(server)
    with (
        gateway(tmp_path, [entry("ns/one", one.url), entry("ns/two", two.url)]) as running,
        running.client() as away,
        running.client() as reader,
    ):
        away.post("resources/subscribe", {"uri": "mcpgw://ns%2Fone/file:///w"})
        reader.post("resources/subscribe", {"uri": "mcpgw://ns%2Ftwo/file:///w"})
        session = one.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        stream = wait_until(lambda: stream_of(one, session))
        for _ in range(12):
            say(stream, "notifications/resources/updated", uri="file:///w", filler="x" * (1 << 20))
        wait_until(lambda: running.status()["sessions"]["droppedMessages"] >= 4)
        assert "mcpgw_messages_dropped_total " in running.metrics()
        with listening(reader) as messages:
            session = two.calls("resources/subscribe")[-1].headers["mcp-session-id"]
            say(wait_until(lambda: stream_of(two, session)), "notifications/resources/updated", uri="file:///w")
            wait_until(lambda: messages, "others lose nothing")
