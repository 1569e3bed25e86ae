"""The scripted servers of a run: they count, ask clients, and tell subscribers."""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections import deque
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.scripted import ScriptedServer, tool

ANSWER_WAIT = 10.0  # seconds that a server waits for a client's answer


class SoakServer:
    """A server that can be started again on its port. What it has executed outlives that."""

    def __init__(self, name: str, *, stateless: bool = False) -> None:
        self.name, self.stateless = name, stateless
        self.executed: dict[str, list[str]] = {}  # by nonce: when, in which session, which tool
        self.clients: dict[str, str] = {}  # by session: the client's name
        self.opened: dict[str, tuple[float, float]] = {}  # by session: when it was asked for, and when it was there
        self.has_more = False
        self._ids = itertools.count(1000)
        self._asked: dict[str, tuple[threading.Event, list[Any]]] = {}
        self._subscribers: dict[str, set[str]] = {}  # by session
        self._port = 0
        self.start()

    def start(self) -> None:
        """Begin to serve: as a process that knows nothing of before."""
        self._subscribers = {}
        self.http = ScriptedServer(*self._tools(), port=self._port)
        self._port = self.http.port
        self.http.requests = deque(maxlen=1000)  # type: ignore[assignment]
        self.http.forgetful = True
        self.http.capabilities = {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}}
        template = {"uriTemplate": f"soak://{self.name}/{{id}}", "name": self.name}
        self.http.answers = {
            "initialize": self._initialize,
            "tools/call": self._call,
            "resources/list": lambda handler, message: self._result(handler, message, {"resources": []}),
            "resources/templates/list": lambda handler, message: self._result(
                handler, message, {"resourceTemplates": [template]}
            ),
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._subscribe,
            "logging/setLevel": lambda handler, message: self._result(handler, message, {}),
            "ping": lambda handler, message: self._result(handler, message, {}),
            "": self._answered,
        }
        if self.stateless:
            self.http.keeps_sessions = self.http.forgetful = False
            self.http.answers |= {"server/discover": self._discover, "initialize": self._refuse}

    @property
    def url(self) -> str:
        return self.http.url

    def stop(self) -> None:
        self.http.stop()

    def forget(self) -> None:
        """Forget all sessions, as after a restart behind a load balancer."""
        self.http.sessions.clear()
        self._subscribers.clear()
        self.http.drop_streams()

    def change(self) -> None:
        """List another tool, or one less."""
        self.has_more = not self.has_more
        self.http.tools = self._tools()
        self.http.notify("notifications/tools/list_changed")

    def hang(self, seconds: float) -> None:
        """Let requests wait."""
        self.http.delay = seconds

    def push(self) -> None:
        """Tell every subscriber that its resource has changed."""
        for handler in list(self.http._streams):
            for uri in sorted(self._subscribers.get(handler.headers.get("mcp-session-id", ""), ())):
                data = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}
                try:
                    handler.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
                    handler.wfile.flush()
                except (OSError, ValueError):
                    break

    def left(self) -> list[tuple[str, tuple[float, float]]]:
        """The clients whose sessions are open, and when they were opened."""
        return [(self.clients[session], self.opened[session]) for session in list(self.http.sessions)]

    def _tools(self) -> list[Any]:
        return [tool(name) for name in ("echo", "slow", "stream", "ask", *(("more",) if self.has_more else ()))]

    def _initialize(self, handler: Any, message: Any) -> bool:
        session = f"up-{uuid.uuid4()}"
        self.clients[session] = message["params"]["clientInfo"]["name"]
        self.opened[session] = (handler.since, time.time())
        self.http.sessions.add(session)
        version, info = message["params"]["protocolVersion"], {"name": self.name, "version": "1"}
        result = {"protocolVersion": version, "capabilities": self.http.capabilities, "serverInfo": info}
        handler.send_json({"jsonrpc": "2.0", "id": message["id"], "result": result}, [("mcp-session-id", session)])
        return True

    def _discover(self, handler: Any, message: Any) -> bool:
        handler.result(message["id"], {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
        return True

    def _refuse(self, handler: Any, message: Any) -> bool:
        error = {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}}
        handler.send(400, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        return True

    def _knows(self, handler: BaseHTTPRequestHandler) -> bool:
        return self.stateless or handler.headers.get("mcp-session-id") in self.http.sessions

    def _result(self, handler: Any, message: Any, result: Any) -> bool:
        if self._knows(handler):
            handler.result(message["id"], result)
            return True
        return False  # the server's own 404

    def _subscribe(self, handler: Any, message: Any) -> bool:
        if not self._knows(handler):
            return False
        uris = self._subscribers.setdefault(handler.headers["mcp-session-id"], set())
        (uris.add if message["method"] == "resources/subscribe" else uris.discard)(message["params"]["uri"])
        return self._result(handler, message, {})

    def _call(self, handler: Any, message: Any) -> bool:
        if not self._knows(handler):
            return False
        name, given = message["params"]["name"], message["params"].get("arguments", {})
        responses = message["params"].get("inputResponses")
        if self.stateless and name == "ask" and responses is None:
            asked = {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}
            requests = {"q": {"method": "elicitation/create", "params": asked}}
            required = {"resultType": "input_required", "inputRequests": requests, "requestState": "s"}
            handler.result(message["id"], required)
            return True
        if nonce := given.get("nonce"):
            session = handler.headers.get("mcp-session-id", "-")
            where = f"{time.time():.2f} {name} in {session} of {self.clients.get(session)}"
            self.executed.setdefault(nonce, []).append(where)
        content: dict[str, Any] = {"server": self.name, "name": name, "nonce": given.get("nonce")}
        if name == "slow":
            time.sleep(given.get("seconds", 0.1))
        if responses is not None:
            content["answer"] = responses["q"].get("content")
        elif name in {"stream", "ask"}:
            handler.send_response(200)
            handler.send_header("content-type", "text/event-stream")
            handler.send_header("connection", "close")
            handler.end_headers()
            token = message["params"].get("_meta", {}).get("progressToken")
            if name == "ask":
                content["answer"] = self._ask(handler)
            elif token is not None:
                for number in (1, 2):
                    params = {"progressToken": token, "progress": number}
                    self._event(handler, {"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
                    time.sleep(0.02)
            self._event(handler, {"jsonrpc": "2.0", "id": message["id"], "result": text(content)})
            handler.close_connection = True
            return True
        handler.result(message["id"], text(content))
        return True

    def _ask(self, handler: Any) -> Any:
        ident = f"{self.name}-{next(self._ids)}"
        answered: tuple[threading.Event, list[Any]] = (threading.Event(), [])
        self._asked[ident] = answered
        params = {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}
        self._event(handler, {"jsonrpc": "2.0", "id": ident, "method": "elicitation/create", "params": params})
        answered[0].wait(ANSWER_WAIT)
        del self._asked[ident]
        return answered[1][0] if answered[1] else None

    def _answered(self, handler: Any, message: Any) -> bool:
        answered = self._asked.get(message.get("id", ""))
        if answered is not None:
            answered[1].append(message.get("result", {}).get("content"))
            answered[0].set()
        handler.send(202, b"")
        return True

    def _event(self, handler: Any, message: Any) -> None:
        handler.wfile.write(f"data: {json.dumps(message)}\n\n".encode())
        handler.wfile.flush()


def text(content: Any) -> Any:
    """The result of a tool with one text."""
    return {"content": [{"type": "text", "text": json.dumps(content)}]}
