"""The broker's application in memory: what a request leaves behind, and what its end counts."""

from __future__ import annotations

import contextlib
import gc
import json
import weakref
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import httpx2
import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.directory.deciding import Decider
from mcpgw_sidecar.front.app import BrokerApp
from mcpgw_sidecar.front.batches import BatchRunner
from mcpgw_sidecar.front.beside import Beside
from mcpgw_sidecar.front.carried import Carried
from mcpgw_sidecar.front.carrying import Carrier
from mcpgw_sidecar.front.heal import Healer
from mcpgw_sidecar.front.room import Room
from mcpgw_sidecar.inbound.guard import LOOPBACK, Guard
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.runtime.envoyclient import envoy_client
from mcpgw_sidecar.runtime.listeners import Address
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.upstream.exchange import Exchanger
from mcpgw_sidecar.upstream.pool import HttpClients
from tests.adapters.replicas import ONE, FakeServer, Replica, running

JSON = {"content-type": "application/json"}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "greet"}}


def catalog(*names: str) -> Snapshot:
    items = [read_item(TOOL, json.dumps({"name": name, "inputSchema": {"type": "object"}})) for name in names]
    tools = tuple(item for item in items if isinstance(item, Item))
    return federate((ONE,), {ONE.name: Discovered({"tool": tools})}).snapshot


class Started:
    def __init__(self, *, over: bool = True) -> None:
        self.event = trio.Event()
        if over:
            self.event.set()

    def is_over(self) -> bool:
        return self.event.is_set()

    async def wait_over(self) -> None:
        await self.event.wait()

    def is_tried(self) -> bool:
        return self.event.is_set()

    async def wait_tried(self) -> None:
        await self.event.wait()


@attrs.define
class Front:
    app: BrokerApp
    replica: Replica
    live: Watched[Snapshot]
    metrics: Metrics
    started: Started

    async def ask(self, method: str, headers: Mapping[str, str], body: Any = None) -> tuple[int, bytes]:
        """One request by ASGI, whole."""
        data = b"" if body is None else json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": "/mcp",
            "raw_path": b"/mcp",
            "headers": [(b"host", b"localhost"), *((key.encode(), value.encode()) for key, value in headers.items())],
        }
        incoming, answer = [{"type": "http.request", "body": data}], list[dict[str, Any]]()

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await trio.sleep_forever()
            raise AssertionError

        async def send(event: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            answer.append(event)

        await self.app(scope, receive, send)
        return answer[0]["status"], b"".join(event.get("body", b"") for event in answer)

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Requests by method, server and outcome."""
        samples = [sample for metric in self.metrics._requests.collect() for sample in metric.samples]
        return {
            (sample.labels["method"], sample.labels["server"], sample.labels["outcome"]): int(sample.value)
            for sample in samples
            if sample.name == "mcpgw_requests_total"
        }


@contextlib.asynccontextmanager
async def fronted(server: FakeServer, *, over: bool = True) -> AsyncIterator[Front]:
    live, metrics, started = Watched(catalog("greet")), Metrics(), Started(over=over)
    async with running(server) as replica:
        directory = replica.directory
        decider = Decider(
            snapshot=lambda: live.value, started=started, directory=directory, guard=Guard(hosts=LOOPBACK, prefer_era="auto")
        )
        app = BrokerApp(
            decider=decider,
            directory=directory,
            streams=replica.streams,
            batches=BatchRunner(inner=envoy_client(Address(path="/nowhere"), None), metrics=metrics),
            carried=Carried(
                pooling=None,  # type: ignore[arg-type]  # no client of the stateless era is here
                subscriber=None,  # type: ignore[arg-type]  # nor one that subscribes to servers of that era
                carrier=Carrier(
                    http=Exchanger(HttpClients(), lambda _server, _seconds: None),
                    wishes=directory.hub.wishes,
                    stale=print,
                    silence=60.0,
                    calls=directory.driver.sharing.calls,
                    question_id=directory.driver.sessions.question_id,
                    work=Work(),
                    room=Room(),
                ),
            ),
            beside=Beside(healer=Healer(directory, lambda: replica.servers, Work(), decider.wait_started), stale=print),
            metrics=metrics,
            max_body=10_000,
            stamps=None,
        )
        yield Front(app, replica, live, metrics, started)


def token_of(front: Front, version: str = "2025-03-26") -> str:
    token, _ = front.replica.directory.create(
        protocol_version=version,
        client_info="{}",
        capabilities="{}",  # type: ignore[arg-type]
    )
    return token


async def test_a_stream_holds_nothing_of_the_catalog_that_stood_when_it_began(autojump_clock: MockClock) -> None:
    async with fronted(FakeServer()) as front, trio.open_nursery() as clients:
        headers = {"mcp-session-id": token_of(front), "accept": "text/event-stream"}
        clients.start_soon(front.ask, "GET", headers)
        await trio.sleep(1)
        assert front.metrics.streams._value.get() == 1
        assert front.counts() == {("GET", "mcpBroker", "ok"): 1}, "it stands"
        before = weakref.ref(front.live.value)
        front.live.publish(catalog("greet", "more"))
        await trio.sleep(1)
        gc.collect()
        assert before() is None
        clients.cancel_scope.cancel()


async def test_who_listens_holds_no_catalog_either(autojump_clock: MockClock) -> None:
    async with fronted(FakeServer()) as front, trio.open_nursery() as clients:
        front.live.publish(attrs.evolve(catalog("greet"), stateless=catalog("greet")))
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
        headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen", "accept": "text/event-stream"}
        clients.start_soon(front.ask, "POST", headers | {"content-type": "application/json"}, body)
        await trio.sleep(1)
        assert front.metrics.streams._value.get() == 1
        before = weakref.ref(front.live.value)
        front.live.publish(attrs.evolve(catalog("more"), stateless=catalog("more")))
        await trio.sleep(1)
        gc.collect()
        assert before() is None
        clients.cancel_scope.cancel()


async def test_a_batch_waits_for_the_keys_that_say_whose_session_it_is(autojump_clock: MockClock) -> None:
    async with fronted(FakeServer(), over=False) as front, trio.open_nursery() as clients:
        answers: list[tuple[int, bytes]] = []

        async def ask(headers: dict[str, str], body: Any) -> None:
            answers.append(await front.ask("POST", JSON | headers, body))

        clients.start_soon(ask, {"mcp-session-id": "of a key that is still to come"}, [CALL])
        clients.start_soon(ask, {"mcp-session-id": "x", "host": "evil.example"}, CALL)
        await trio.sleep(1)
        assert [status for status, _ in answers] == [421], "no start changes that"
        front.started.event.set()
        await trio.sleep(1)
        assert [status for status, _ in answers] == [421, 400]


async def test_a_batch_without_envoy(autojump_clock: MockClock) -> None:
    async with fronted(FakeServer()) as front:
        status, body = await front.ask(
            "POST", JSON | {"mcp-session-id": token_of(front)}, [CALL, 7, {"jsonrpc": "2.0", "method": "x"}]
        )
        assert status == 200
        answers = {answer["id"]: answer["error"]["code"] for answer in json.loads(body)}
        assert answers == {1: -32000, None: -32600}


async def test_a_bug_in_a_message_of_a_batch_costs_that_message(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fronted(FakeServer()) as front:
        monkeypatch.setattr(httpx2.AsyncClient, "stream", lambda *_args, **_more: 1 / 0)
        status, body = await front.ask("POST", JSON | {"mcp-session-id": token_of(front)}, [CALL, 7])
        assert status == 200
        assert {answer["id"]: answer["error"]["code"] for answer in json.loads(body)} == {1: -32603, None: -32600}


async def test_a_bug_ends_in_500_and_counts_once(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fronted(FakeServer()) as front:
        monkeypatch.setattr(Decider, "climb", lambda *_args, **_more: 1 / 0)
        status, body = await front.ask("POST", JSON, CALL)
        assert (status, json.loads(body)["error"]["code"]) == (500, -32603)
        assert front.counts() == {("other", "", "rejected"): 1}


async def test_too_large_a_body_is_413(autojump_clock: MockClock) -> None:
    async with fronted(FakeServer()) as front:
        assert (await front.ask("POST", JSON, "x" * 10_000))[0] == 413
        assert (await front.ask("DELETE", {}, "x" * 70_000))[0] == 413
        assert front.counts() == {("other", "", "rejected"): 2}


def test_a_record_is_closed_once() -> None:
    metrics = Metrics()
    record = RequestRecord(metrics, method="ping")
    record.refuse(Reject(status=404, code=-32000, message="m", method="tools/call", server="ns/one", tool="t"))
    record.close("ok")
    samples = [
        sample for metric in metrics._requests.collect() for sample in metric.samples if sample.name.endswith("total")
    ]
    (sample,) = samples
    assert sample.labels == {"method": "tools/call", "server": "ns/one", "tool": "t", "outcome": "rejected"}
    assert sample.value == 1
