"""One server against clients and other servers."""

from __future__ import annotations

import gzip
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


def answering(*bodies: Any, stream: bool, kind: str = "") -> Any:
    """A server that answers a call with these messages; ID stands for the call's own id."""

    def says(handler: Any, message: Any) -> bool:
        texts = [json.dumps(body).replace('"ID"', json.dumps(message["id"])) for body in bodies]
        body = "".join(f"data: {text}\n\n" for text in texts) if stream else texts[0]
        handler.send(200, body.encode(), kind=kind or ("text/event-stream" if stream else "application/json"))
        return True

    return says


OWN = {"jsonrpc": "2.0", "id": "ID", "result": {"content": [{"type": "text", "text": "mine"}]}}
FOREIGN = {"jsonrpc": "2.0", "id": 8, "result": {"content": [{"type": "text", "text": "forged"}]}}


@pytest.mark.duty("security.own-answer")
@pytest.mark.parametrize("size", [0, 200_000], ids=["small", "large"])
def test_a_server_answers_no_other_call(one: ScriptedServer, two: ScriptedServer, tmp_path: Path, size: int) -> None:
    """Clients count their calls: a server that is called answered the next, to another server."""
    with gateway(tmp_path, [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]) as running:
        with running.client() as client:
            forged = {**FOREIGN, "x": "y" * size}
            for _ in range(2):  # a miss, and a hit
                one.answers["tools/call"] = answering(forged, OWN, forged, stream=True)
                told = client.call("a_one", 7).text
                assert "mine" in told
                assert "forged" not in told
                one.answers["tools/call"] = answering(forged, stream=False)
                response = client.call("a_one", 7)
                if size:  # what is known to be foreign only at its end is not whole
                    assert not response.text.rstrip().endswith("}")
                else:
                    error = response.json()
                    assert (response.status_code, error["id"], error["error"]["code"]) == (200, 7, -32000)
                    assert error["error"]["data"] == {"server": "ns/one", "reason": "BadAnswer"}
                one.answers["tools/call"] = answering(FOREIGN, stream=True, kind="application/json; x=text/event-stream")
                assert "forged" not in client.call("a_one", 7).text
            one.answers.clear()
            assert succeeded(client.call("a_one", 7))
            assert succeeded(client.call("b_two", 8))

        def logged() -> list[Any]:
            lines = running.envoy.text.splitlines() if running.envoy is not None else []
            return [json.loads(line)["reason"] for line in lines if '"tool":"a_one"' in line]

        assert wait_until(lambda: len(logged()) == 7 and logged()) == ["BadAnswer"] * 6 + [None]
        counted = running.metrics()
        assert [
            line
            for line in counted.splitlines()
            if "mcpgw_requests_total" in line and "a_one" in line and "unavailable" in line
        ]


@pytest.mark.duty("security.own-answer")
def test_a_server_that_is_trusted_is_not_looked_at(one: ScriptedServer, tmp_path: Path) -> None:
    with gateway(tmp_path, [entry("ns/one", one.url, "a_", trusted=True)]) as running, running.client() as client:
        for _ in range(2):
            assert succeeded(client.call("a_one"))
        for stream in (False, True):
            one.answers["tools/call"] = answering(FOREIGN, stream=stream)
            assert "forged" in client.call("a_one", 7).text
            assert "x-mcp-memo" not in client.call("a_one", 7).headers


@pytest.mark.duty("security.own-answer")
def test_an_answer_that_nobody_can_read(one: ScriptedServer, tmp_path: Path) -> None:
    """Nobody has asked for an encoding, and it hides what is in it."""

    def compressed(handler: Any, _message: Any) -> bool:
        handler.send(200, b"\x0b\x02\x80{}\x03", [("content-encoding", "br")])
        return True

    one.answers["tools/call"] = compressed
    with gateway(tmp_path, [entry("ns/one", one.url, "a_")]) as running, running.client() as client:
        error = answer(client.call("a_one", 7))["error"]
        assert error["message"].startswith("MCP server ns/one answered with a content-encoding that nobody asked for")
        forged = gzip.compress(json.dumps(FOREIGN).encode())
        for kind in ("application/json", "text/event-stream"):
            body = forged if kind == "application/json" else gzip.compress(f"data: {json.dumps(FOREIGN)}\n\n".encode())
            one.answers["tools/call"] = lambda handler, _message, body=body, kind=kind: (
                bool(handler.send(200, body, [("content-encoding", "gzip")], kind=kind)) or True
            )
            assert "forged" not in client.call("a_one", 7).text
