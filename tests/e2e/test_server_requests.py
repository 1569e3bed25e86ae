"""Requests of servers to the client in the middle of a call.

They reach the client of the call, and the answer reaches the server of the request.
"""

from __future__ import annotations

import gzip
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import Client as SdkClient, types

from mcpgw_sidecar.protocol.sse import SseParser
from tests.e2e.stack import Client, Gateway, entry, gateway, listening, succeeded, wait_until
from tests.servers.scripted import ScriptedServer


class Asking:
    """A scripted tools/call that first sends the client a request under an id of its own.

    Its result repeats the client's answer.
    """

    def __init__(self, server: ScriptedServer, ident: Any, token: Any = None) -> None:
        self.server, self.ident, self.token = server, ident, token
        self.answers: list[Any] = []
        self.arrived = threading.Event()
        server.answers["tools/call"] = self.call
        server.answers[""] = self.answered

    def call(self, handler: Any, message: Any) -> bool:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        params = {"message": "really?", "requestedSchema": {"type": "object", "properties": {}}}
        if self.token is not None:
            params["_meta"] = {"progressToken": self.token}
        request = {"jsonrpc": "2.0", "id": self.ident, "method": "elicitation/create", "params": params}
        self._event(handler, {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}})
        self._event(handler, request)
        self.arrived.wait(15)
        text = json.dumps(self.answers[-1] if self.answers else None)
        result = {"content": [{"type": "text", "text": text}]}
        self._event(handler, {"jsonrpc": "2.0", "id": message["id"], "result": result})
        handler.close_connection = True
        return True

    def answered(self, handler: Any, message: Any) -> bool:
        self.answers.append(message)
        self.arrived.set()
        handler.send(202, b"")
        return True

    @staticmethod
    def _event(handler: Any, message: Any) -> None:
        handler.wfile.write(f"event: message\r\ndata: {json.dumps(message)}\r\n\r\n".encode())
        handler.wfile.flush()


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("requests"),
        [entry("ns/one", one.url, "a_", forwardHeaders=["authorization"]), entry("ns/two", two.url, "b_")],
    ) as new_gateway:
        yield new_gateway


class Call(threading.Thread):
    """A call in a thread.

    `asked` is the server's request once it has come, `result` the text of the result.
    """

    def __init__(self, gateway_: Gateway, session: Client, name: str) -> None:
        super().__init__()
        self.client = Client(gateway_.url)
        self.client.headers = session.headers
        self.name_ = name
        self.asked: Any = None
        self.messages: list[Any] = []
        self.start()

    def run(self) -> None:
        body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": self.name_, "arguments": {}}}
        with self.client.http.stream("POST", self.client.url, json=body, headers=self.client.headers) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    self.messages.append(json.loads(line[5:]))
                    if self.messages[-1].get("method") == "elicitation/create":
                        self.asked = self.messages[-1]

    @property
    def result(self) -> Any:
        self.join()
        return json.loads(self.messages[-1]["result"]["content"][0]["text"])


@pytest.mark.duty("ask.answer-returns", "ask.id-alone")
@pytest.mark.parametrize("ident", [0, 7, "x", 'quo"te\\', 9007199254740993])
def test_an_answer_reaches_the_server_under_its_own_id(running: Gateway, one: ScriptedServer, ident: Any) -> None:
    Asking(one, ident)
    with running.client() as client:
        call = Call(running, client, "a_one")
        wait_until(lambda: call.asked)
        assert call.messages[0]["method"] == "notifications/message"
        reply = {"jsonrpc": "2.0", "id": call.asked["id"], "result": {"action": "accept", "content": {}}}
        assert client.send(reply).status_code == 202
        assert call.result == reply | {"id": ident}
        arrived = one.requests[-1].headers
        assert arrived["mcp-session-id"] in one.sessions
        assert arrived["x-mcp-servername"] == "ns/one"


@pytest.mark.duty("ask.answer-returns")
def test_two_servers_that_use_one_id_in_one_session(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    """Answered out of order, with a result and with an error."""
    first, second = Asking(one, 1), Asking(two, 1)
    with running.client() as client:
        calls = [Call(running, client, "a_one"), Call(running, client, "b_two")]
        wait_until(lambda: all(call.asked for call in calls))
        declined = {"jsonrpc": "2.0", "id": calls[1].asked["id"], "error": {"code": -1, "message": "no"}}
        accepted = {"jsonrpc": "2.0", "id": calls[0].asked["id"], "result": {"action": "accept"}}
        for reply in (declined, accepted):
            assert client.send(reply).status_code == 202
        assert calls[0].result == accepted | {"id": 1}
        assert calls[1].result == declined | {"id": 1}
        assert (len(first.answers), len(second.answers)) == (1, 1)
        assert client.send(accepted).status_code == 202, "a second answer is the server's to ignore"


@pytest.mark.duty("ask.stranger-400", "ask.nobody-waits-400")
def test_two_clients_do_not_answer_for_one_another(running: Gateway, one: ScriptedServer) -> None:
    Asking(one, 1)
    with running.client() as client, running.client() as stranger:
        call = Call(running, client, "a_one")
        wait_until(lambda: call.asked)
        reply = {"jsonrpc": "2.0", "id": call.asked["id"], "result": {"action": "accept"}}
        assert stranger.send(reply).status_code == 400, "the ticket was sealed for another session"
        assert stranger.send(reply | {"id": "unknown"}).status_code == 400
        assert client.send(reply).status_code == 202
        assert call.result == reply | {"id": 1}


@pytest.mark.duty("ask.restart")
def test_an_answer_reaches_its_server_after_a_restart_of_the_sidecar(running: Gateway, one: ScriptedServer) -> None:
    """The sidecar is killed in the middle of the call.

    The stream is Envoy's, and the id of the request contains all that the new process needs.
    """
    asking = Asking(one, 7)
    with running.client() as client:
        call = Call(running, client, "a_one")
        wait_until(lambda: call.asked)
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.stop()
        running.start_sidecar()
        reply = {"jsonrpc": "2.0", "id": call.asked["id"], "result": {"action": "accept"}}
        wait_until(lambda: client.send(reply).status_code == 202)
        assert call.result == reply | {"id": 7}
        assert len(asking.answers) == 1
        assert len(one.calls("tools/call")) == 1
        assert one.requests[-1].headers["mcp-session-id"] == one.calls("tools/call")[0].headers["mcp-session-id"]


@pytest.mark.duty("ask.restart")
def test_another_replica_carries_an_answer(running: Gateway, one: ScriptedServer, tmp_path: Path) -> None:
    """It has the same key and servers, and never saw the session."""
    Asking(one, 7)
    key = f"--session-key-file={running.directory / 'envoy' / 'session.key'}"
    with running.client() as client, gateway(tmp_path, [entry("ns/one", one.url, "a_")], key) as other:
        call = Call(running, client, "a_one")
        wait_until(lambda: call.asked)
        client.url = other.url
        reply = {"jsonrpc": "2.0", "id": call.asked["id"], "result": {"action": "accept"}}
        assert client.send(reply).status_code == 202
        assert call.result == reply | {"id": 7}


def test_a_server_may_ask_in_a_call_that_was_healed(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client:
        client.call("a_one")
        asking = Asking(one, 7)
        one.sessions.clear()
        one.answers["tools/call"] = lambda handler, message: one.knows(handler) and asking.call(handler, message)
        one.answers[""] = lambda handler, message: one.knows(handler) and asking.answered(handler, message)
        call = Call(running, client, "a_one")
        wait_until(lambda: call.asked)
        reply = {"jsonrpc": "2.0", "id": call.asked["id"], "result": {"action": "accept"}}
        assert client.send(reply).status_code == 202, "the id names the session that lives"
        assert call.result == reply | {"id": 7}


@pytest.mark.duty("error.neighbours")
def test_a_client_that_never_answers_costs_its_server_alone(running: Gateway, one: ScriptedServer) -> None:
    asking = Asking(one, 7)
    with running.client() as client:
        call = Call(running, client, "a_one")
        wait_until(lambda: call.asked)
        assert succeeded(client.call("b_two"))
        asking.arrived.set()
        assert call.result is None


@pytest.mark.duty("ask.outside-call")
def test_a_server_that_asks_outside_of_the_call_is_heard(one: ScriptedServer, tmp_path: Path) -> None:
    """SDKs do so by default: at once, on the session's own stream, open before the call."""

    def ask(handler: Any, message: Any) -> bool:
        own = handler.headers["mcp-session-id"]
        stream = wait_until(lambda: [each for each in one._streams if each.headers["mcp-session-id"] == own])[0]
        data = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage"})
        stream.wfile.write(f"data: {data}\n\n".encode())
        handler.result(message["id"], {"content": []})
        return True

    one.answers["tools/call"] = ask
    with (
        gateway(tmp_path, [entry("ns/one", one.url)]) as running,
        Client(running.url, capabilities={"sampling": {}}) as client,
    ):
        assert succeeded(client.call("one"))
        with listening(client) as messages:  # later than the request: it was kept
            wait_until(lambda: messages)
        assert messages[0]["method"] == "sampling/createMessage"
        assert client.send({"jsonrpc": "2.0", "id": messages[0]["id"], "result": {}}).status_code == 202
        assert one.requests[-1].json == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.duty("resume.at-server", "resume.own-alone")
def test_a_stream_that_the_server_closed_is_resumed_where_it_was(running: Gateway, one: ScriptedServer) -> None:
    """The id of its last event names the server, so Envoy sends the client's GET there.

    See basic/transports, Resumability.
    """
    resumed: list[dict[str, str]] = []

    def cut(handler: Any, _message: Any) -> bool:
        handler.send(200, b"id: s1/7\nretry: 10\ndata:\n\n", kind="text/event-stream")
        return True

    def go_on(handler: Any) -> bool:
        resumed.append({name.lower(): value for name, value in handler.headers.items()})
        forged = b'data: {"jsonrpc":"2.0","id":6,"result":{"content":[]}}\n\n'
        body = b'id: s1/8\ndata: {"jsonrpc":"2.0","id":5,"result":{"content":[]}}\n\n'
        handler.send(200, forged + body, kind="text/event-stream")
        return True

    one.answers["tools/call"] = cut
    one.resumes = go_on
    with running.client() as client:
        first = client.call("a_one", 5)
        (event,) = SseParser(1 << 20).feed(first.content)
        assert event.data == ""
        assert event.id is not None
        assert "retry: 10" in first.text
        accept = {"accept": "text/event-stream", "last-event-id": event.id}
        second = client.http.get(client.url, headers={**client.headers, **accept})
        assert '"id":5' in second.text
        assert f"id: {event.id.removesuffix('s1/7')}s1/8" in second.text
        assert '"id":6' not in second.text, "it resumes the answer to call 5, and answers no other"
        (headers,) = resumed
        assert headers["last-event-id"] == "s1/7"
        assert headers["mcp-session-id"] == one.calls("tools/call")[-1].headers["mcp-session-id"]
        with running.client() as stranger:
            response = stranger.http.build_request("GET", stranger.url, headers={**stranger.headers, **accept})
            opened = stranger.http.send(response, stream=True)
            assert opened.headers["content-type"] == "text/event-stream"
            opened.close()
        assert len(resumed) == 1, "nobody resumes a stream of somebody else"


@pytest.mark.duty("resume.at-server", "resume.ids-unique")
def test_a_resumed_stream_names_its_server_wherever_it_goes_on(running: Gateway, one: ScriptedServer) -> None:
    """The ids of the resumed events have the owner, too.

    So they have after an id without a server's own part, which only a client can have made up: the
    router passes on an empty id.
    """

    def cut(handler: Any, _message: Any) -> bool:
        handler.send(200, b"id: s1/7\ndata:\n\n", kind="text/event-stream")
        return True

    def go_on(handler: Any) -> bool:
        handler.send(200, b'id: s1/8\ndata: {"jsonrpc":"2.0","id":5,"method":"ping"}\n\n', kind="text/event-stream")
        return True

    one.answers["tools/call"] = cut
    one.resumes = go_on
    with running.client() as client:
        (event,) = SseParser(1 << 20).feed(client.call("a_one", 5).content)
        assert event.id is not None
        owner = event.id.removesuffix("s1/7")
        for event_id in (event.id, owner):
            accept = {"accept": "text/event-stream", "last-event-id": event_id}
            resumed = client.http.get(client.url, headers={**client.headers, **accept})
            assert (
                resumed.text
                == f'id: {owner}s1/8\ndata: {{"jsonrpc":"2.0","id":"{owner.removesuffix("~35~")}5","method":"ping"}}\n\n'
            )


@pytest.mark.duty("notify.from-client")
def test_notifications_of_the_client_reach_its_servers(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    with running.client(authorization="Bearer mine") as client, running.client() as other:
        client.call("a_one")
        other.call("b_two")
        text = '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9007199254740993,"reason":"x"}}'
        assert client.send(text).status_code == 202
        (arrived,) = wait_until(lambda: one.calls("notifications/cancelled"))
        assert arrived.body.decode() == text
        assert arrived.headers["authorization"] == "Bearer mine"
        assert two.calls("notifications/cancelled") == []


@pytest.mark.duty("ask.answer-returns")
def test_elicitation_and_sampling_with_real_parts(everything: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """server-everything asks, the Python SDK's client answers, both through the gateway."""
    asked: list[str] = []

    async def on_elicit(_context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def on_sample(_context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        asked.append(str(params.max_tokens))
        content = types.TextContent(type="text", text="sampled words")
        return types.CreateMessageResult(role="assistant", content=content, model="m")

    async def use(url: str) -> None:
        async with SdkClient(url, mode="legacy", elicitation_callback=on_elicit, sampling_callback=on_sample) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert "ev_echo" in names
            elicited = await client.call_tool("ev_trigger-elicitation-request", {})
            sampled = await client.call_tool("ev_trigger-sampling-request", {"prompt": "p", "maxTokens": 7})
        assert "Ada" in str(elicited.content)
        assert "sampled words" in str(sampled.content)

    with gateway(tmp_path_factory.mktemp("real"), [entry("ts/every", everything, "ev_")]) as running:
        trio.run(use, running.url)
    assert len(asked) == 2


@pytest.mark.parametrize("ending", ["\n\n", "\r\r", "\r\n\r\n"])
def test_every_stream_arrives_whole(running: Gateway, one: ScriptedServer, ending: str) -> None:
    def events(handler: Any, message: Any) -> bool:
        log = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
        result = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}
        body = "".join(f"data: {json.dumps(each)}{ending}" for each in (log, result)).encode()
        handler.send(200, body, kind="text/event-stream")
        return True

    one.answers["tools/call"] = events
    with running.client() as client:
        response = client.call("a_one", 3)
        assert '"method": "notifications/message"' in response.text
        assert '"id": 3' in response.text
        assert "accept-encoding" not in one.calls("tools/call")[-1].headers


def test_a_compressed_stream_of_a_trusted_server_passes_as_it_came(one: ScriptedServer, tmp_path: Path) -> None:
    def compressed(handler: Any, message: Any) -> bool:
        event = f"data: {json.dumps({'jsonrpc': '2.0', 'id': message['id'], 'result': {}})}\n\n".encode()
        handler.send(200, gzip.compress(event), [("content-encoding", "gzip")], kind="text/event-stream")
        return True

    one.answers["tools/call"] = compressed
    with gateway(tmp_path, [entry("ns/one", one.url, "a_", trusted=True)]) as running, running.client() as client:
        for _ in range(2):
            assert '"id": 4' in client.call("a_one", 4).text


@pytest.mark.duty("notify.client-progress")
def test_progress_of_a_client_reaches_the_server_that_asked(
    running: Gateway, one: ScriptedServer, two: ScriptedServer
) -> None:
    """Both ask under the token 1; a token that no server gave reaches none."""
    asking = [Asking(one, 1, token=1), Asking(two, 1, token=1)]
    with running.client() as client:
        calls = [Call(running, client, "a_one"), Call(running, client, "b_two")]
        wait_until(lambda: all(call.asked for call in calls))
        for token in (calls[0].asked["params"]["_meta"]["progressToken"], 1, "mcpgw:ns/two:forged:1"):
            params = {"progressToken": token, "progress": 1}
            assert client.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).status_code == 202
        client.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        wait_until(lambda: two.calls("notifications/roots/list_changed"))
        (arrived,) = wait_until(lambda: one.calls("notifications/progress"))
        assert arrived.json["params"] == {"progressToken": 1, "progress": 1}
        assert two.calls("notifications/progress") == []
        for each, call in zip(asking, calls, strict=True):
            each.arrived.set()
            call.join()
