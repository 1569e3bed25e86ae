"""A small MCP server of our own: odd lists, delays and broken answers on request.

No published server has these. It runs in threads of the test process, so a test can change it while
it serves and read every request that arrived.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SCHEMA = {"type": "object"}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": SCHEMA, **more}


class Arrived:
    """One request as it arrived."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.http, self.path, self.headers, self.body = method, path, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def method(self) -> str:
        return self.json.get("method", "") if self.body else ""


class ScriptedServer:
    """The server. Its attributes may be changed while it serves.

    `answers` maps a method to a function that may answer in place of the server; `refuses` may
    answer any request but DELETE.
    """

    def __init__(self, *tools: dict[str, Any], port: int = 0, tls: Any = None) -> None:
        self.tools: list[Any] = list(tools)
        self.raw_list: Callable[[str | None], str] | None = None
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler, Any], bool]] = {}
        self.status: int | None = None
        self.refuses: Callable[[BaseHTTPRequestHandler], bool] | None = None
        self.resumes: Callable[[BaseHTTPRequestHandler], bool] | None = None
        self.delay = 0.0
        self.idle: float | None = None  # seconds after which an idle connection is closed
        self.idled = 0  # connections with calls that were closed so
        self.keeps_sessions = True
        self.offers_stream = True
        self.forgetful = False
        self.version: str | None = None
        self.instructions: str | None = None
        self.cookie: str | None = None
        self.capabilities: dict[str, Any] = {"tools": {}}
        self.requests: list[Arrived] = []
        self.sessions: set[str] = set()
        self._streams: list[BaseHTTPRequestHandler] = []
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        outer = self

        class Handler(_Handler):
            server_object = outer

        self._http = _Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/mcp"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def calls(self, method: str) -> list[Arrived]:
        return [request for request in self.requests if request.method == method]

    def knows(self, handler: BaseHTTPRequestHandler) -> bool:
        """Whether a request comes in one of its sessions."""
        return handler.headers.get("mcp-session-id") in self.sessions

    def notify(self, method: str, session: str | None = None) -> None:
        """Send a notification on every open stream, or on those of one session."""
        data = json.dumps({"jsonrpc": "2.0", "method": method})
        for handler in list(self._streams):
            if session not in {None, handler.headers["mcp-session-id"]}:
                continue
            with contextlib.suppress(OSError, ValueError):  # a stream that has just ended
                handler.wfile.write(f"data: {data}\n\n".encode())
                handler.wfile.flush()

    def streams(self, session: str) -> list[BaseHTTPRequestHandler]:
        """The open streams of a session."""
        return [handler for handler in self._streams if handler.headers["mcp-session-id"] == session]

    def drop_streams(self) -> None:
        """End every stream, as servers and proxies do."""
        for handler in self._streams:
            with contextlib.suppress(OSError):
                handler.connection.shutdown(socket.SHUT_RDWR)
        self._streams.clear()

    def stop(self) -> None:
        self._closing.set()
        self._http.shutdown()
        for sock in list(self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of many tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as the servers of SDKs: else each answer on a used connection waits 40 ms
    server_object: ScriptedServer
    carried_call = False
    since = 0.0  # when the request came

    def setup(self) -> None:
        self.timeout = self.server_object.idle
        super().setup()
        self.server_object._connections.add(self.connection)

    def finish(self) -> None:
        self.server_object._connections.discard(self.connection)
        super().finish()

    def log_error(self, *_: Any) -> None:
        """The base class tells so of a connection that was idle for too long."""
        self.server_object.idled += self.carried_call

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        server, self.since = self.server_object, time.time()
        body = self._body()
        arrived = Arrived("POST", self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        server.requests.append(arrived)
        if server.delay:
            time.sleep(server.delay)
        if server.refuses is not None and server.refuses(self):
            return
        if server.status is not None:
            self.send(server.status, b"{}")
            return
        message = json.loads(body)
        method = message.get("method", "")
        self.carried_call = self.carried_call or method == "tools/call"
        if method in server.answers and server.answers[method](self, message):
            return
        session = arrived.headers.get("mcp-session-id")
        if method == "initialize":
            self._initialize(message)
        elif server.keeps_sessions and session not in server.sessions:
            self.send(404, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Session not found"}}')
        elif "id" not in message or not method:
            self.send(202, b"")
        elif method == "tools/list":
            self._list(message)
        elif method == "tools/call":
            name, given = message["params"]["name"], message["params"].get("arguments", {})
            text = json.dumps({"server": server.port, "name": name, "arguments": given})
            self.result(message["id"], {"content": [{"type": "text", "text": text}]})
        else:
            self.send_json({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}})

    def do_GET(self) -> None:
        server = self.server_object
        server.requests.append(Arrived("GET", self.path, {k.lower(): v for k, v in self.headers.items()}, b""))
        if server.refuses is not None and server.refuses(self):
            return
        if server.resumes is not None and "last-event-id" in self.headers and server.resumes(self):
            return
        if not server.offers_stream:
            self.send(405, b"")
            return
        if server.forgetful and self.headers.get("mcp-session-id") not in server.sessions:
            self.send(404, b"")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b": open\n\n")
        self.wfile.flush()
        server._streams.append(self)
        server._closing.wait(60)

    def do_DELETE(self) -> None:
        server = self.server_object
        headers = {k.lower(): v for k, v in self.headers.items()}
        server.requests.append(Arrived("DELETE", self.path, headers, b""))
        server.sessions.discard(headers.get("mcp-session-id", ""))
        self.send(200, b"")

    def _initialize(self, message: Any) -> None:
        server = self.server_object
        extra = [("set-cookie", server.cookie)] if server.cookie else []
        if server.keeps_sessions:
            session = f"up-{uuid.uuid4()}"
            server.sessions.add(session)
            extra.append(("mcp-session-id", session))
        version = server.version or message["params"]["protocolVersion"]
        result = {
            "protocolVersion": version,
            "capabilities": server.capabilities,
            "serverInfo": {"name": "s", "version": "1"},
        }
        if server.instructions:
            result["instructions"] = server.instructions
        self.send_json({"jsonrpc": "2.0", "id": message["id"], "result": result}, extra)

    def _list(self, message: Any) -> None:
        server = self.server_object
        if server.raw_list is not None:
            result = server.raw_list(message["params"].get("cursor"))
        else:
            result = json.dumps({"tools": server.tools})
        self.send(200, f'{{"jsonrpc":"2.0","id":{json.dumps(message["id"])},"result":{result}}}'.encode())

    def result(self, ident: Any, result: Any) -> None:
        self.send_json({"jsonrpc": "2.0", "id": ident, "result": result})

    def send_json(self, value: Any, extra: Any = ()) -> None:
        self.send(200, json.dumps(value).encode(), extra)

    def send(self, status: int, body: bytes, extra: Any = (), kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in [("content-type", kind), ("content-length", str(len(body))), *extra]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
