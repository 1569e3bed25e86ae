"""Clients of the stateless era and servers of the stateful one, both of real SDKs."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.servers import RealServer
from tests.e2e.stack import Gateway, answer, entry, gateway, wait_until
from tests.e2e.test_eras import META, ask, used
from tests.e2e.test_translated import Person
from tests.servers.scripted import ScriptedServer, tool

STATELESS = "2026-07-28"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    one = RealServer("Python SDK 1.x", tmp_path_factory.mktemp("server"))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def running(server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    servers = [entry("ns/old", server.url, "o_")]
    with gateway(tmp_path_factory.mktemp("pooled"), servers, "--prefer-era=auto") as new_gateway:
        yield new_gateway


@pytest.mark.duty("era.pooled")
def test_lists_and_calls(running: Gateway) -> None:
    """Clients that know both eras are led to the other one, in which calls go straight."""
    assert running.server("ns/old")["protocolVersion"] == "2025-11-25"
    listed = ask(running, "tools/list").json()["result"]
    assert {"o_echo", "o_ask"} <= {each["name"] for each in listed["tools"]}
    result = answer(ask(running, "tools/call", name="o_echo", arguments={"message": "é"}))["result"]
    assert result["content"][0]["text"] == "Echo: é"
    assert (result["resultType"], result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"]) == (
        "complete",
        "mcpgw-sidecar",
    )
    assert [Person(mode=STATELESS).calls(running.url, ("o_echo", {"message": "x"}))] == [[(False, "Echo: x")]]
    refused = ask(running, "server/discover")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32601)
    read = ask(running, "resources/read", mcp_name="memo://one", uri="memo://one").json()["result"]
    assert (read["contents"][0]["text"], read["ttlMs"], read["cacheScope"]) == ("remember", 0, "private")


@pytest.mark.duty("era.pooled", "call.memo-same")
def test_envoy_knows_whom_the_broker_carries_calls_for(running: Gateway) -> None:
    decided = "mcpgw_ext_proc_duration_seconds_count"
    assert answer(ask(running, "tools/call", name="o_echo", arguments={"message": "1"}))["result"]
    before = running.metric(decided)
    for number in range(3):
        result = answer(ask(running, "tools/call", name="o_echo", arguments={"message": str(number)}))["result"]
        assert result["content"][0]["text"] == f"Echo: {number}"
    assert running.metric(decided) == before
    refused = ask(running, "tools/call", mcp_name="other", name="o_echo", arguments={})
    assert refused.json()["error"]["code"] == -32020


@pytest.mark.duty("era.pooled")
def test_progress_and_log(running: Gateway) -> None:
    meta = META | {"progressToken": "p", "io.modelcontextprotocol/logLevel": "info"}
    answered = ask(running, "tools/call", name="o_steps", arguments={}, meta=meta)
    events = [json.loads(line[5:]) for line in answered.text.splitlines() if line.startswith("data:")]
    assert [each.get("method", "answer") for each in events] == [
        "notifications/progress",
        "notifications/message",
        "notifications/progress",
        "answer",
    ]
    assert [each["params"]["progressToken"] for each in events if each.get("method") == "notifications/progress"] == [
        "p",
        "p",
    ]
    assert events[1]["params"]["data"] == "half way"
    plain = ask(running, "tools/call", name="o_steps", arguments={})
    assert "notifications" not in plain.text, "nobody has asked for them"


@pytest.mark.duty("era.pooled")
@pytest.mark.parametrize(("action", "said"), [("accept", "accept: Ann"), ("decline", "decline: -"), ("cancel", "cancel: -")])
def test_a_server_asks_the_user(running: Gateway, action: str, said: str) -> None:
    person = Person(action, mode=STATELESS)
    assert person.calls(running.url, ("o_ask", {})) == [(False, said)]
    assert person.asked == ["Who are you?"]


@pytest.mark.duty("era.pooled")
def test_several_questions_at_once(running: Gateway) -> None:
    """One of them comes on the stream outside of the call."""
    assert Person(mode=STATELESS).calls(running.url, ("o_think", {}), ("o_ask", {})) == [
        (False, "x 0"),
        (False, "accept: Ann"),
    ]


@pytest.mark.duty("era.pooled")
def test_who_cannot_be_asked_is_not(running: Gateway) -> None:
    (call,) = Person(mode=STATELESS).calls(running.url, ("o_ask", {}), can_answer=False)
    assert call[0]
    assert "licit" in call[1]


def asked(running: Gateway, **more: Any) -> httpx2.Response:
    meta = META | {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    return ask(running, "tools/call", name="o_ask", arguments={}, meta=meta, **more)


@pytest.mark.duty("era.pooled")
def test_a_question_is_answered_once_by_who_got_it(running: Gateway) -> None:
    question = asked(running).json()["result"]
    assert question["resultType"] == "input_required"
    (name,) = question["inputRequests"]
    assert question["inputRequests"][name]["method"] == "elicitation/create"
    state, answers = question["requestState"], {name: {"action": "accept", "content": {"name": "Bob"}}}
    for wrong in ("", "x", 7, state[:-1]):
        refused = asked(running, requestState=wrong, inputResponses=answers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (200, -32602)
    other = ask(running, "tools/call", name="o_echo", arguments={}, requestState=state, inputResponses=answers)
    assert other.json()["error"]["code"] == -32602, "of another request"
    again = asked(running, requestState=state, inputResponses={"other": {}}).json()["result"]
    assert again["resultType"] == "input_required", "it is still asked"
    done = answer(asked(running, requestState=again["requestState"], inputResponses=answers))
    assert (done["id"], done["result"]["content"][0]["text"]) == (7, "accept: Bob")
    assert asked(running, requestState=state, inputResponses=answers).json()["error"]["code"] == -32602


@pytest.mark.duty("era.pooled")
def test_a_user_is_sent_to_a_page(running: Gateway) -> None:
    meta = META | {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"url": {}}}}
    question = ask(running, "tools/call", name="o_page", arguments={}, meta=meta).json()["result"]
    ((name, wanted),) = question["inputRequests"].items()
    assert wanted["params"] == {"mode": "url", "message": "Log in there", "url": "https://login.example/x"}
    back = {"requestState": question["requestState"], "inputResponses": {name: {"action": "accept"}}}
    done = answer(ask(running, "tools/call", name="o_page", arguments={}, meta=meta, **back))
    assert done["result"]["content"][0]["text"] == "accept"


@pytest.mark.duty("era.pooled")
def test_a_call_that_begins_when_its_user_was_on_a_page(running: Gateway) -> None:
    """In sessions that is an error (-32042), and a new call; without them a question."""
    capability = "io.modelcontextprotocol/clientCapabilities"

    def call(url: bool, **more: Any) -> Any:
        meta = META | {capability: {"elicitation": {"url": {}} if url else {}}}
        return answer(ask(running, "tools/call", name="o_gate", arguments={}, meta=meta, **more))

    question = call(True)["result"]
    ((name, wanted),) = question["inputRequests"].items()
    assert wanted["params"] == {"mode": "url", "message": "Pay there", "url": "https://pay.example/x"}
    back = {"requestState": question["requestState"], "inputResponses": {name: {"action": "accept"}}}
    again = call(True, **back)["result"]  # the second of three calls: the page is still not done
    assert again["resultType"] == "input_required"
    back = {"requestState": again["requestState"], "inputResponses": {name: {"action": "accept"}}}
    assert call(True, **back)["result"]["content"][0]["text"] == "paid"
    question = call(True)["result"]
    refused = call(True, requestState=question["requestState"], inputResponses={name: {"action": "decline"}})["error"]
    assert refused["code"] == -32603, "its era has no such code"
    assert refused["data"]["elicitations"][0]["url"] == "https://pay.example/x"
    assert call(False)["error"]["code"] == -32603, "a client that opens no pages"
    assert call(False)["result"]["content"][0]["text"] == "paid"


@pytest.mark.duty("era.pooled")
def test_what_a_client_cannot_be_asked_is_refused_wherever_it_is_asked(tmp_path: Path) -> None:
    """On the stream outside of the call, too; a ping is answered. The limit of silence holds."""
    with ScriptedServer(tool("greet")) as one:

        def replies() -> dict[Any, Any]:
            said = [each.json for each in one.requests if each.http == "POST" and "method" not in each.json]
            return {each["id"]: each for each in said}

        def curious(handler: Any, message: Any) -> bool:
            asked = [
                ("ping", {}),
                ("sampling/createMessage", {}),
                ("elicitation/create", {"mode": "url", "url": "http://x"}),
            ]
            session, until = handler.headers["mcp-session-id"], time.monotonic() + 2.5
            while not one.streams(session) and time.monotonic() < until:
                time.sleep(0.02)  # on a busy machine the call does not wait for its stream as long as it takes
            for number, (method, params) in enumerate(asked):
                data = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
                for stream in one.streams(session):
                    with suppress(OSError, ValueError):  # a stream of the call before
                        stream.wfile.write(f"data: {data}\n\n".encode())
                        stream.wfile.flush()
            is_late = message["params"]["arguments"].get("late")
            while is_late or (len(replies()) < len(asked) and time.monotonic() < until):
                time.sleep(6 if is_late else 0.02)
                is_late = False
            handler.result(message["id"], {"content": []})
            return True

        one.answers["tools/call"] = curious
        meta = META | {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
        with gateway(tmp_path, [entry("ns/one", one.url, "a_", callTimeout="3s")]) as running:
            assert answer(ask(running, "tools/call", name="a_greet", arguments={}, meta=meta))["result"]["content"] == []
            said = replies()
            assert said[0]["result"] == {}
            assert [said[number]["error"]["code"] for number in (1, 2)] == [-32601, -32601]
            late = ask(running, "tools/call", name="a_greet", arguments={"late": True}, meta=meta)
            assert answer(late)["error"]["data"]["reason"] == "Timeout"


@pytest.mark.duty("era.pooled")
def test_who_goes_cancels(running: Gateway, server: RealServer) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        ask(running, "tools/call", name="o_slow", arguments={}, timeout=1)
    wait_until(lambda: "cancelled" in server.output, "the server's word")


@pytest.mark.duty("era.pooled")
def test_calls_of_one_client_share_a_session_and_others_have_their_own(tmp_path: Path) -> None:
    with (
        ScriptedServer(tool("greet")) as one,
        gateway(tmp_path, [entry("ns/one", one.url, "a_", forwardHeaders=["x-key"])], "--prefer-era=auto") as running,
    ):
        opened = len(one.calls("initialize"))

        def sessions(*keys: str) -> list[str]:
            for key in keys:
                assert answer(ask(running, "tools/call", name="a_greet", arguments={}, x_key=key))["result"]
            return [each.headers["mcp-session-id"] for each in one.calls("tools/call")[-len(keys) :]]

        first, same, other = sessions("1", "1", "2")
        assert first == same != other
        assert len(one.calls("initialize")) == opened + 2
        one.sessions.clear()  # it restarts
        renewed, again = sessions("1", "1")
        assert renewed == again != first
        assert len(one.calls("tools/call")) == 6, "a call that met the dead session was sent once more"
        running.sidecar.signal(signal.SIGTERM)
        running.sidecar.wait()
        assert {each.headers["mcp-session-id"] for each in one.requests if each.http == "DELETE"} >= {renewed, other}


@pytest.mark.duty("era.pooled")
def test_one_id_may_be_used_twice_at_once(tmp_path: Path) -> None:
    """In a session each id of a request is another."""
    with (
        ScriptedServer(tool("greet")) as one,
        gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--prefer-era=auto") as running,
    ):
        one.delay = 0.3
        said: list[Any] = []

        def call(number: int) -> None:
            called = ask(running, "tools/call", name="a_greet", arguments={"n": number})
            said.append((number, json.loads(answer(called)["result"]["content"][0]["text"])["arguments"]["n"]))

        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(said) == [(number, number) for number in range(4)]
        idents = [json.loads(each.body)["id"] for each in one.calls("tools/call")]
        assert len(set(idents)) == 4
        one.stop()
        away = ask(running, "tools/call", name="a_greet", arguments={})
        logged = lambda: running.envoy.text if running.envoy is not None else ""  # noqa: E731  # Envoy's log
        wait_until(lambda: '"reason":"Unreachable"' in logged() and '"outcome":"unavailable"' in logged())
        assert (away.status_code, away.json()["error"]["code"]) == (200, -32603)
        assert away.json()["error"]["data"] == {"server": "ns/one", "reason": "Unreachable"}


@pytest.mark.duty("era.offer", "era.pooled")
@pytest.mark.parametrize(("mode", "version"), [("auto", "2025-11-25"), (STATELESS, STATELESS), ("legacy", "2025-11-25")])
def test_each_client_uses_servers_of_sessions(tmp_path: Path, mode: str, version: str) -> None:
    with (
        ScriptedServer(tool("greet"), tool("hello")) as one,
        gateway(tmp_path, [entry("ns/one", one.url, "a_")], "--prefer-era=auto") as running,
    ):
        spoken, tools, said = used(running, mode)
        assert (spoken, tools) == (version, ["a_greet", "a_hello"])
        assert "Ann" in said
