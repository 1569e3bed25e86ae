"""One client of a run: it does what SDK clients do, and checks each answer for its nonce."""

from __future__ import annotations

import itertools
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx2
import trio

from tests.soak.ledger import Ledger

STATELESS = "2026-07-28"
VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25", STATELESS)
STATELESS_SERVER = "new"  # the name of the server that has no sessions
ACCEPT = "application/json, text/event-stream"
PROMPT = 20.0  # seconds within which something has to reach a client


@attrs.define(eq=False)
class SoakClient:
    """A client. `urls` are those of the gateway's replicas."""

    number: int
    urls: list[str]
    prefixes: dict[str, str]  # of scripted servers, by prefix: the server's name
    real_tools: list[tuple[str, str, str]]  # tool, argument, server
    ledger: Ledger
    dice: random.Random
    is_over: Callable[[], bool]
    sticks: bool
    """Whether it stays with one replica, as where replicas share nothing."""
    session: dict[str, str] = attrs.field(factory=dict)
    known: set[str] = attrs.field(factory=set)
    subscribed: dict[str, str] = attrs.field(factory=dict)  # URI: server
    updated: dict[str, float] = attrs.field(factory=dict)
    _ids: Any = attrs.field(factory=lambda: itertools.count(1))
    _http: Any = None
    _unheard: set[str] = attrs.field(factory=set)
    _generation: int = 0

    @property
    def version(self) -> str:
        return VERSIONS[self.number % len(VERSIONS)]

    @property
    def can_be_asked(self) -> bool:
        return self.number % 8 == 3 if self.is_stateless else self.number % 2 == 0 and self.version != VERSIONS[0]

    @property
    def is_stateless(self) -> bool:
        return self.version == STATELESS

    @property
    def vanishes(self) -> bool:
        return self.number % 10 == 9  # one in ten never ends its sessions

    @property
    def name(self) -> str:
        kind = "stateless" if self.is_stateless else "vanishing" if self.vanishes else "soak"
        return f"{kind}-{self.number}-{self._generation}"

    @property
    def url(self) -> str:
        return self.urls[self.number % len(self.urls)] if self.sticks else self.dice.choice(self.urls)

    async def wait_living(self) -> None:
        """Sessions one after the other, until the run is over; the last one stays open."""
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as self._http, trio.open_nursery() as nursery:
            while not self.is_over():
                if not await self._wait_begun():
                    await trio.sleep(0.3)
                    continue
                nursery.start_soon(self._wait_stream, self._generation)
                for _ in range(self.dice.randint(20, 300)):
                    if self.is_over() or not self.session:
                        break
                    await self._wait_step()
                    await trio.sleep(self.dice.uniform(0, 0.3))
                if not self.is_over() and self.session:
                    await self.wait_ended()
            await self.ledger.final.wait()
            nursery.cancel_scope.cancel()

    async def wait_ended(self) -> None:
        """End the session, or only go away."""
        session, self.session, name, has_ended = self.session, {}, self.name, False
        self.subscribed.clear()
        self._generation += 1
        if not self.vanishes and not self.is_stateless:
            async with self._judged("DELETE", None) as judged:
                answer = await self._http.delete(self.url, headers=session)
                has_ended = judged(answer, answer.status_code == 204)
            if not has_ended:
                self.ledger.unended.add(name)

    async def _wait_begun(self) -> bool:
        capabilities = {"elicitation": {}} if self.can_be_asked else {}
        if self.is_stateless:
            self.session = {"mcp-protocol-version": STATELESS, "accept": ACCEPT}
            await trio.lowlevel.checkpoint()
            return True
        params = {
            "protocolVersion": self.version,
            "capabilities": capabilities,
            "clientInfo": {"name": self.name, "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": "initialize", "params": params}
        async with self._judged("initialize", None) as judged:
            answer = await self._http.post(self.url, json=message, headers={"accept": ACCEPT})
            if not judged(answer, answer.status_code == 200 and "mcp-session-id" in answer.headers):
                return False
            session = answer.headers["mcp-session-id"]
            self.session = {"mcp-session-id": session, "mcp-protocol-version": self.version, "accept": ACCEPT}
            return True
        return False

    def _sent(self, message: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """A request with its headers, and what a client without a session says in each."""
        if not self.is_stateless:
            return message, dict(self.session)
        params = message.get("params", {})
        meta = {
            "io.modelcontextprotocol/protocolVersion": STATELESS,
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}} if self.can_be_asked else {},
            "io.modelcontextprotocol/clientInfo": {"name": self.name, "version": "1"},
        }
        named = {"mcp-name": params["name"]} if "name" in params else {}
        whole = message | {"params": params | {"_meta": params.get("_meta", {}) | meta}}
        return whole, self.session | {"mcp-method": message["method"], **named}

    async def _wait_step(self) -> None:
        if self.is_stateless:
            steps = [self.wait_call, self._wait_real, self.wait_list]
            await self.dice.choices(steps, [60, 10, 8])[0]()
            return
        step = self.dice.choices(
            [
                self.wait_call,
                self._wait_real,
                self.wait_list,
                self._wait_batch,
                self.wait_subscribed,
                self._wait_level,
                self._wait_ping,
            ],
            [60, 10, 8, 4, 4, 3, 6],
        )[0]
        await step()

    async def wait_call(self, name: str | None = None) -> None:
        prefix = self.dice.choice(sorted(self.prefixes))
        asks = 8 if self.can_be_asked and (self.is_stateless or self.prefixes[prefix] != STATELESS_SERVER) else 0
        tool = name or self.dice.choices(["echo", "slow", "stream", "ask"], [70, 10, 12, asks])[0]
        nonce, ident = secrets.token_hex(8), next(self._ids)
        params: dict[str, Any] = {"name": prefix + tool, "arguments": {"nonce": nonce, "seconds": self.dice.uniform(0, 0.4)}}
        if tool == "stream":
            params["_meta"] = {"progressToken": nonce}
        message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
        server = self.prefixes[prefix]
        async with self._judged("tools/call", server, nonce) as judged:
            result, others, answer = await self._wait_answered(message, nonce)
            content = _content(result)
            if self._is_lost(result):
                return
            if nonce in self._unheard:
                return  # its tool waited in vain for an answer, whose failure is explained or not
            right = {"server": server, "name": tool, "nonce": nonce} | ({"answer": {"who": nonce}} if tool == "ask" else {})
            if judged(answer, content == right, result):
                self.ledger.succeeded(server, nonce)
                if tool == "stream" and [each.get("params", {}).get("progress") for each in others] != [1, 2]:
                    self.ledger.wrong(f"progress of {nonce}: {others}")

    async def _wait_real(self) -> None:
        if not self.real_tools:
            return
        tool, argument, server = self.dice.choice(self.real_tools)
        nonce = secrets.token_hex(8)
        params = {"name": tool, "arguments": {argument: nonce} if argument else {}}
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": "tools/call", "params": params}
        async with self._judged("tools/call", server) as judged:
            result, _, answer = await self._wait_answered(message, nonce)
            is_right = "result" in result and (not argument or nonce in json.dumps(result))
            judged(answer, is_right, result)

    async def wait_list(self) -> None:
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": "tools/list"}
        async with self._judged("tools/list", None) as judged:
            whole, headers = self._sent(message)
            answer = await self._http.post(self.url, json=whole, headers=headers)
            if judged(answer, answer.status_code == 200 and answer.json().get("id") == message["id"]):
                self.known = {tool["name"] for tool in answer.json()["result"]["tools"]}

    async def _wait_batch(self) -> None:
        if self.version != "2025-03-26":
            await self.wait_call()
            return
        prefix = self.dice.choice(sorted(self.prefixes))
        nonces, server = [secrets.token_hex(8) for _ in range(3)], self.prefixes[prefix]
        batch = [
            {
                "jsonrpc": "2.0",
                "id": next(self._ids),
                "method": "tools/call",
                "params": {"name": f"{prefix}echo", "arguments": {"nonce": nonce}},
            }
            for nonce in nonces
        ]
        async with self._judged("batch", server) as judged:
            answer = await self._http.post(self.url, json=batch, headers=self.session)
            answers = {each.get("id"): each for each in _messages(answer)} if answer.status_code == 200 else {}
            for message, nonce in zip(batch, nonces, strict=True):
                result = answers.get(message["id"], {})
                right = {"server": server, "name": "echo", "nonce": nonce}
                if judged(answer, _content(result) == right, result):
                    self.ledger.succeeded(server, nonce)

    async def wait_subscribed(self) -> None:
        server = self.dice.choice(sorted(set(self.prefixes.values()) - {STATELESS_SERVER}))
        uri = f"soak://{server}/{self.name}"
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": "resources/subscribe", "params": {"uri": uri}}
        async with self._judged("resources/subscribe", server) as judged:
            result, _, answer = await self._wait_answered(message, "")
            if judged(answer, "result" in result, result):
                self.subscribed[uri] = server

    async def _wait_level(self) -> None:
        level = self.dice.choice(["debug", "info", "warning"])
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": "logging/setLevel", "params": {"level": level}}
        async with self._judged("logging/setLevel", None) as judged:
            result, _, answer = await self._wait_answered(message, "")
            judged(answer, "result" in result, result)

    async def _wait_ping(self) -> None:
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": "ping"}
        async with self._judged("ping", None) as judged:
            result, _, answer = await self._wait_answered(message, "")
            judged(answer, "result" in result, result)

    async def _wait_answered(self, message: Any, nonce: str) -> tuple[dict[str, Any], list[Any], httpx2.Response]:
        """The answer to a request, the server's messages before it, and the response."""
        others, result, url = list[Any](), dict[str, Any](), self.url
        whole, session = self._sent(message)
        answered = await self._wait_posted(url, whole, session, nonce, others, result)
        asked = answered[0].get("result", {}).get("inputRequests") if self.is_stateless else None
        if not asked:
            return answered
        answers = {name: {"action": "accept", "content": {"who": nonce}} for name in asked}
        back = {"inputResponses": answers, "requestState": answered[0]["result"]["requestState"]}
        again = whole | {"id": next(self._ids), "params": whole["params"] | back}
        return await self._wait_posted(url, again, session, nonce, others, {})

    def _is_lost(self, result: dict[str, Any]) -> bool:
        """Whether a call was held by a process that has ended: the client calls again."""
        now, words = time.time(), result.get("error", {}).get("message", "")
        return "requestState" in words and self.ledger.met("sidecar", now - 60, now)

    async def _wait_posted(
        self, url: str, message: Any, session: dict[str, str], nonce: str, others: list[Any], result: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Any], httpx2.Response]:
        async with self._http.stream("POST", url, json=message, headers=session) as answer:
            if "text/event-stream" not in answer.headers.get("content-type", ""):
                body = await answer.aread()
                try:
                    whole = json.loads(body)
                except ValueError:
                    return {"unreadable": body[:100]}, others, answer
                return whole, others, answer
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                each = json.loads(line[6:])
                if each.get("method") == "elicitation/create":
                    reply = {"jsonrpc": "2.0", "id": each["id"], "result": {"action": "accept", "content": {"who": nonce}}}
                    self._unheard.add(nonce)
                    asker = str(each["id"]).split(":")[1].removeprefix("ns/")  # mcpgw:<server>:<ticket>:<id>
                    async with self._judged("answer", asker) as judged:
                        accepted = await self._http.post(self.url, json=reply, headers=session)
                        said = accepted.json() if accepted.status_code == 200 else None
                        if judged(accepted, accepted.status_code == 202, said):
                            self._unheard.discard(nonce)
                elif each.get("id") == message["id"] and "method" not in each:
                    if result:
                        self.ledger.wrong(f"a second answer to {message}: {each}")
                    result = each
                else:
                    others.append(each)
        return result, others, answer

    async def _wait_stream(self, generation: int) -> None:
        """The client's own stream, opened again whenever it ends, like an SDK's."""
        last_id = ""
        if self.is_stateless:
            return
        while generation == self._generation and self.session and not self.ledger.final.is_set():
            headers = self.session | {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
            try:
                async with self._http.stream("GET", self.url, headers=headers, timeout=40) as answer:
                    if generation != self._generation:
                        return
                    if answer.status_code != 200:
                        self.ledger.judge("GET", None, time.time(), str(answer.status_code), "a stream")
                        if answer.status_code == 404:
                            self.session = {}
                    async for line in answer.aiter_lines():
                        if line.startswith("id: "):
                            last_id = line[4:]
                        elif line.startswith("data: {"):
                            self._heard(json.loads(line[6:]))
            except httpx2.HTTPError:
                pass  # streams end: that is what the next one is for
            await trio.sleep(self.dice.uniform(0.1, 0.6))

    def _heard(self, message: Any) -> None:
        if message.get("method") == "notifications/resources/updated":
            uri = message["params"]["uri"]
            if not uri.rpartition("/")[2].startswith(self.name.rpartition("-")[0] + "-"):
                self.ledger.wrong(f"{self.name} got what is another's: {uri}")
            self.updated[uri] = time.time()

    @asynccontextmanager
    async def _judged(self, what: str, server: str | None, nonce: str = "") -> AsyncIterator[Callable[..., bool]]:
        start = time.time()

        def judged(answer: httpx2.Response, is_right: bool, result: Any = None) -> bool:
            self.ledger.count += 1
            if is_right:
                return True
            seen = str(answer.status_code)
            error = (result or {}).get("error") if isinstance(result, dict) else None
            if answer.status_code == 200 and error is not None:
                data = error.get("data")
                seen = data.get("reason", "") if isinstance(data, dict) else ""
                seen = seen or str(error.get("code"))
                if seen == "-32602" and isinstance(data, dict) and "name" in data:
                    seen = "-32601"  # as clients without sessions hear of an unknown tool
            elif answer.status_code == 200:
                seen = "wrong" if result else "connection"
            if answer.status_code == 404 and self.session.get("mcp-session-id") == answer.request.headers.get(
                "mcp-session-id"
            ):
                self.session = {}
            self.ledger.judge(
                what, server, start, seen, f"{self.name} {nonce} {result if result is not None else answer.text[:200]}"
            )
            return False

        try:
            yield judged
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            self.ledger.count += 1
            self.ledger.judge(what, server, start, "connection", f"{self.name} {nonce} {error!r}")


def _messages(answer: httpx2.Response) -> list[Any]:
    if "text/event-stream" in answer.headers.get("content-type", ""):
        return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    whole = answer.json()
    return whole if isinstance(whole, list) else [whole]


def _content(result: dict[str, Any]) -> Any:
    try:
        return json.loads(result["result"]["content"][0]["text"])
    except (LookupError, TypeError, ValueError):
        return None
