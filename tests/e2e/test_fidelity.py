"""Compares the traffic through the gateway byte for byte.

Only a name, or an id that goes back to its server, is replaced, and nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import HEADERS, PLAIN, Client, Gateway, entry, gateway, listening, wait_until
from tests.e2e.test_eras import META, modern
from tests.e2e.test_relayed import stream_of, watched
from tests.servers.scripted import ScriptedServer

# Unknown fields, their order, numbers that no double holds, -0.0, an overflow, lone surrogates,
# escapes, spaces, a key that stands twice.
ODD = (
    '{"z":1,"a":{"n":9007199254740993, "zero":-0.0,"big":1e400,"tiny":1E-400 ,"s":"\\ud800 \\u00e9 é \\/ \\u0000",'
    '"twice":1,"twice":2,"":{},"deep":[[[{"x":null}]]]},"name":"test_one","method":"x","id":7, "jsonrpc" : "1.0"}'
)
IDS = ["1", '"1"', "9007199254740993", '"\\ud800"', '"a\\"b\\\\"', "-0.0", '""']


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer({"name": "one", "inputSchema": {"type": "object"}}) as new_server:
        watched(new_server)
        yield new_server


@pytest.fixture(scope="module")
def running(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("fidelity"), [entry("ns/one", server.url, "test_")]) as new_gateway:
        yield new_gateway


@pytest.fixture
def client(running: Gateway) -> Iterator[Client]:
    with running.client() as new_client:
        yield new_client


@pytest.fixture(autouse=True)
def as_before(server: ScriptedServer) -> Iterator[None]:
    before = dict(server.answers)
    yield
    server.answers = before


def answer_with(server: ScriptedServer, body: bytes, kind: str = "application/json") -> None:
    def reply(handler: Any, _message: Any) -> bool:
        handler.send(200, body, kind=kind)
        return True

    server.answers["tools/call"] = reply


@pytest.mark.duty("call.name-alone")
@pytest.mark.parametrize("ident", IDS)
def test_a_call_arrives_as_it_was_written(client: Client, server: ScriptedServer, ident: str) -> None:
    written = f' {{"params" :{{"arguments":{ODD},"name": "test_one", "_meta":{{"k":{ODD}}}}},"id":{ident} ,"x":{ODD},\n"method":"tools/call","jsonrpc":"2.0"}}\n'
    client.send(written)
    arrived = server.calls("tools/call")[-1].body.decode()
    assert arrived == written.replace('"name": "test_one", "_meta"', '"name": "one", "_meta"')


@pytest.mark.duty("call.answer-as-written", "call.id")
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("ident", IDS)
def test_an_answer_arrives_as_it_was_written(client: Client, server: ScriptedServer, ident: str, kind: str) -> None:
    message = (
        f'{{"id":{ident}, "result":{{"content":[{{"type":"new kind","x":{ODD}}}],"_meta":{ODD}}},"jsonrpc":"2.0","y":{ODD}}}'
    )
    body = message if kind == "application/json" else f": hello\r\nevent: message\r\ndata: {message}\r\n\r\n"
    answer_with(server, body.encode(), kind)
    call = f'{{"jsonrpc":"2.0","id":{ident},"method":"tools/call","params":{{"name":"test_one"}}}}'
    assert client.send(call).content == body.encode()


@pytest.mark.duty("call.answer-as-written")
def test_notifications_on_the_way_to_an_answer_arrive_as_they_were_written(client: Client, server: ScriptedServer) -> None:
    event = f'data: {{"method":"notifications/progress","params":{{"progressToken":9007199254740993,"x":{ODD}}},"jsonrpc":"2.0"}}\n\n'
    odd = f'data: {{"jsonrpc":"2.0","method":"notifications/of/nobody","params":{ODD}}}\n\n'
    body = (event + odd + 'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n').encode()
    answer_with(server, body, "text/event-stream")
    assert client.call("test_one").content == body


@pytest.mark.duty("ask.id-alone")
@pytest.mark.parametrize("ident", IDS)
def test_of_a_servers_request_only_the_id_is_exchanged(client: Client, server: ScriptedServer, ident: str) -> None:
    """And of the answer to it: it arrives under the id that the server wrote, digit for digit."""
    request = f'{{"params":{ODD}, "id" :{ident},"jsonrpc":"2.0","method":"elicitation/create","x":{ODD}}}'
    answer_with(server, f"data: {request}\n\n".encode(), "text/event-stream")
    text = client.call("test_one").text.removeprefix("data: ").removesuffix("\n\n")
    match = re.search(r'"id" :("(?:[^"\\]|\\.)*")', text)
    assert match is not None
    assert text == request.replace(f'"id" :{ident}', f'"id" :{match[1]}')
    assert client.send(f'{{"result":{ODD},"id":{match[1]} ,"jsonrpc":"2.0","x":{ODD}}}').status_code == 202
    assert server.requests[-1].body.decode() == f'{{"result":{ODD},"id":{ident} ,"jsonrpc":"2.0","x":{ODD}}}'


def test_what_a_server_says_outside_a_call_arrives_as_it_was_written(client: Client, server: ScriptedServer) -> None:
    with client.http.stream("GET", client.url, headers=client.headers, timeout=None) as response:
        client_lines = response.iter_lines()
        client.send({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "file:///w"}})
        session = server.calls("resources/subscribe")[-1].headers["mcp-session-id"]
        message = f'{{"params":{ODD}, "method":"notifications/message","jsonrpc":"2.0","x":{ODD}}}'
        stream = wait_until(lambda: stream_of(server, session))
        stream.wfile.write(f"data: {message}\n\n".encode())
        assert next(line for line in client_lines if line.startswith("data: {")) == f"data: {message}"


@pytest.mark.duty("notify.from-client")
def test_notifications_of_the_client_arrive_with_the_values_that_were_written(
    client: Client, server: ScriptedServer
) -> None:
    """They are rebuilt from the members that the protocol has; each value keeps its bytes."""
    client.call("test_one")
    params = f'{{"requestId":9007199254740993,"reason":{ODD}}}'
    client.send(f'{{"params":{params[:-1]},"x":1}}, "method":"notifications/cancelled","jsonrpc":"2.0"}}')
    rebuilt = f'{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}'
    assert wait_until(lambda: server.calls("notifications/cancelled"))[-1].body.decode() == rebuilt


@pytest.mark.parametrize("kind", ["image/png", "audio/wav"])
def test_megabytes_both_ways(client: Client, server: ScriptedServer, kind: str) -> None:
    data = base64.b64encode(os.urandom(2_500_000)).decode()
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test_one", "arguments": {"data": data}}}
    answered = {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"content": [{"type": kind.partition("/")[0], "data": data * 3, "mimeType": kind}]},
    }
    for content_type in ("application/json", "text/event-stream"):
        text = json.dumps(answered)
        body = (text if content_type == "application/json" else f"event: message\ndata: {text}\n\n").encode()
        answer_with(server, body, content_type)
        response = client.send(call)
        assert response.content == body
        assert server.calls("tools/call")[-1].json["params"]["arguments"]["data"] == data


@pytest.mark.duty("list.as-written")
def test_lists_are_what_servers_wrote(client: Client, server: ScriptedServer, running: Gateway) -> None:
    tool = f'{{"z":{ODD}, "name":"one","inputSchema":{{"type":"object","$anchor":"x","x":{ODD}}},"_meta":{ODD}}}'
    server.raw_list = lambda _cursor: f'{{"tools":[{tool}]}}'
    try:
        with listening(client) as messages:
            server.notify("notifications/tools/list_changed")
            wait_until(lambda: messages)
        assert tool.replace('"name":"one"', '"name":"test_one"', 1) in client.post("tools/list").text
    finally:
        server.raw_list = None
    assert running.server("ns/one")["ready"]


@pytest.mark.duty("call.answer-as-written", "era.translated", "era.pooled")
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(("asks", "answers"), [("without", "without"), ("without", "sessions"), ("sessions", "without")])
def test_values_arrive_as_they_were_written_across_the_eras(tmp_path: Path, asks: str, answers: str, kind: str) -> None:
    """What is translated is cut and spliced, never written anew."""
    with ScriptedServer({"name": "one", "inputSchema": {"type": "object"}}) as server:
        if answers == "without":
            modern(server)

        def reply(handler: Any, message: Any) -> bool:
            result = f'{{"content":[{{"x":{ODD},"type":"new kind"}}], "structuredContent":{ODD},"_meta":{{"k":{ODD}}}}}'
            text = f'{{"jsonrpc":"2.0","result":{result},"id":{json.dumps(message["id"])}}}'
            handler.send(200, f"data: {text}\n\n".encode() if kind == "text/event-stream" else text.encode(), kind=kind)
            return True

        server.answers["tools/call"] = reply
        with gateway(tmp_path, [entry("ns/one", server.url, "test_")]) as running:
            envelope = (
                "".join(f"{json.dumps(key)}:{json.dumps(value)}," for key, value in META.items())
                if asks == "without"
                else ""
            )
            params = f'{{"arguments":{ODD}, "_meta":{{{envelope}"k":{ODD}}},"name":"test_one"}}'
            call = f'{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}'
            if asks == "without":
                headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "test_one"}
                sent = PLAIN.post(running.url, content=call, headers={**HEADERS, **headers})
            else:
                with running.client() as client:
                    sent = client.send(call)
        assert sent.status_code == 200
        assert sent.text.count(ODD) == 3, sent.text
        arrived = server.calls("tools/call")[-1].body.decode()
        assert arrived.count(ODD) == 2, arrived
        assert '"name":"one"}' in arrived or '"name":"one",' in arrived
