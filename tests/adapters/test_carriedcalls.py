"""What clients say to calls that a replica carries: taken there, once, within limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.directory import sharing
from mcpgw_sidecar.directory.carriedcalls import CarriedCalls
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol.jsonrpc import Notification, Response, parse_message
from tests.adapters.replicas import ASKED, FakeServer, Replica, born, running
from tests.contract.memory import MemoryStore, Shared


def answer(ident: str, result: Any = "{}") -> Response:
    message = parse_message(json.dumps({"jsonrpc": "2.0", "id": ident, "result": {"text": result}}).encode())
    assert isinstance(message, Response)
    return message


def cancellation(ident: Any = 5) -> Notification:
    text = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": ident, "reason": "x" * 1000}}
    message = parse_message(json.dumps(text).encode())
    assert isinstance(message, Notification)
    return message


async def test_what_is_no_call_of_here_is_not_taken() -> None:
    calls = CarriedCalls()
    await trio.lowlevel.checkpoint()
    assert not calls.take("k", b"[]")
    assert not calls.take("k", b'{"jsonrpc":"2.0","id":"a","result":{}}')
    assert not calls.take("k", b'{"jsonrpc":"2.0","method":"notifications/cancelled"}')
    with calls.cancellable("k", 5.0), calls.waiting("k", "a") as answers:
        assert (calls.has_any("k"), calls.sessions()) == (True, ["k"])
        assert not calls.take("other", b'{"jsonrpc":"2.0","id":"a","result":{}}'), "another client"
        assert calls.take("k", b'{"jsonrpc":"2.0","id":"a","result":{}}')
        assert not calls.take("k", b'{"jsonrpc":"2.0","id":"a","result":{}}'), "once"
        assert answers.receive_nowait().id_value == "a"
    assert (calls.has_any("k"), calls.sessions()) == (False, [])


async def test_a_replica_takes_what_its_clients_say_elsewhere(autojump_clock: MockClock) -> None:
    shared = Shared()
    async with running(FakeServer(), MemoryStore(shared)) as first, running(FakeServer(), MemoryStore(shared)) as second:
        _, session = born(first, ASKED)
        calls, ident = first.directory.driver.sharing.calls, first.directory.driver.sessions.question_id(session.key)
        with calls.cancellable(session.key, 5.0), calls.waiting(session.key, ident) as answers:
            assert second.directory.answered(session, answer(ident))
            assert (await answers.receive()).id_value == ident
            second.directory.cancelled(session, cancellation("x" * 1000))
            second.directory.cancelled(session, cancellation())
            await trio.sleep(10)
            pytest.fail("it was cancelled")
        await trio.sleep(1)
        assert shared.said == {session.key: []}, "and nothing is left of it, nor of an id that is too long"


async def test_it_is_bounded_and_of_questions_that_were_asked(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MAX_PASSING", 2)
    shared, hung = Shared(), trio.Event()

    class Hung(MemoryStore):
        async def wait_client_message(self, session_key: str, message: bytes) -> bool:
            return hung.is_set() and await super().wait_client_message(session_key, message)

    async with running(FakeServer(), Hung(shared)) as replica:
        _, session = born(replica, ASKED)

        def passed(ident: str, result: str = "") -> bool:
            return replica.directory.answered(session, answer(ident, result))

        asked = replica.directory.driver.sessions.question_id(session.key)
        assert not passed(f"mcpgw-ask-{'A' * 32}")
        assert not passed(asked.removeprefix("mcpgw-ask-"))
        assert not replica.directory.answered(_another(replica), answer(asked)), "a question to another client"
        assert not passed(asked, "x" * sharing.MAX_PASSED)
        assert [passed(asked) for _ in range(3)] == [True, True, False], "as many as are on their way"
        await trio.sleep(2 * sharing.TRIES * sharing.PAUSE)
        assert shared.said == {}, "given up"
        hung.set()
        assert passed(asked)
        await trio.sleep(1)
        assert len(shared.said[session.key]) == 1


def _another(replica: Replica) -> Session:
    return born(replica, ASKED)[1]
