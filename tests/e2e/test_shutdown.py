"""The end of the sidecar: it finishes calls in flight, and its exit codes are as documented.

A client that stops reading cannot delay it.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.e2e.stack import (
    PLAIN,
    PROGRAM,
    WAIT,
    Client,
    Gateway,
    Process,
    entry,
    environment,
    free_ports,
    gateway,
    succeeded,
    text_of,
    wait_until,
)
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture
def running(one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("shutdown"), [entry("ns/one", one.url, "a_")]) as new_gateway:
        yield new_gateway


def slow(release: threading.Event, begun: threading.Event, method: str, server: ScriptedServer) -> None:
    def wait(_handler: Any, _message: Any) -> bool:
        begun.set()
        release.wait(20)
        del server.answers[method]
        return False

    server.answers[method] = wait


@pytest.mark.duty("drain.calls")
@pytest.mark.parametrize("method", ["tools/call", "initialize"])
def test_sigterm_loses_no_call(running: Gateway, one: ScriptedServer, method: str) -> None:
    """No call through Envoy is lost, and none whose upstream session the sidecar is opening."""
    release, begun = threading.Event(), threading.Event()
    slow(release, begun, method, one)
    texts: list[str] = []
    with running.client() as client:
        thread = threading.Thread(target=lambda: texts.append(text_of(client.call("a_one"))))
        thread.start()
        assert begun.wait(10)
        running.sidecar.signal(signal.SIGTERM)
        wait_until(lambda: running.logged("INFO Draining"))
        release.set()
        thread.join()
    assert len(texts) == 1
    assert running.sidecar.wait() == 0
    assert running.logged("INFO Drained")


@pytest.mark.duty("drain.calls")
def test_sigterm_ends_streams_and_readiness(running: Gateway) -> None:
    with running.client() as client:
        with client.http.stream("GET", client.url, headers=client.headers, timeout=None) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("id: ")
            running.sidecar.signal(signal.SIGTERM)
            assert [line for line in lines if line.startswith("data: {")] == []
        assert running.sidecar.wait() == 0


@pytest.mark.duty("drain.limit")
def test_a_client_that_stops_reading_cannot_hold_it(one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    one.tools = [tool(f"t{number}", description="x" * 5000) for number in range(900)]
    options = ("--drain-time=2s",)
    with gateway(tmp_path_factory.mktemp("stalled"), [entry("ns/one", one.url)], *options, envoy=False) as running:
        wait_until(lambda: running.server("ns/one")["tools"] == 900)
        with Client(running.broker_url) as client, socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", running.ports["broker"]))
            body = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
            head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\nmcp-session-id: {client.session}\r\ncontent-length: {len(body)}\r\n\r\n"
            stalled.sendall((head + body).encode())
            stalled.recv(100)
            running.sidecar.signal(signal.SIGTERM)
            assert running.sidecar.wait() == 0


@pytest.mark.duty("drain.second-signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(running: Gateway, one: ScriptedServer, number: signal.Signals) -> None:
    release, begun = threading.Event(), threading.Event()
    slow(release, begun, "initialize", one)
    with running.client() as client:
        thread = threading.Thread(target=lambda: client.call("a_one"))
        thread.start()
        assert begun.wait(10)
        running.sidecar.signal(number)
        wait_until(lambda: running.logged("INFO Draining"))
        running.sidecar.signal(number)
        assert running.sidecar.wait() == 128 + number
        release.set()
        thread.join()


def run(*arguments: str, variables: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess[str]:
    env = environment() | dict(variables)
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=WAIT, env=env, check=False)


@pytest.mark.duty("cli.exit-64")
@pytest.mark.parametrize(
    ("variable", "meant"), [("MCPGW_CALL_TIMOUT", "MCPGW_CALL_TIMEOUT"), ("MCPGW_CONFIGS", "MCPGW_CONFIG")]
)
def test_a_misspelt_variable_is_64_and_says_what_was_meant(variable: str, meant: str) -> None:
    done = run("run", "--config", "none.yaml", variables={variable: "5"})
    assert done.returncode == 64
    assert f"{variable} in the environment is no option, did you mean {meant}?" in done.stderr


@pytest.mark.parametrize("variable", ["MCPGW_SIDECAR_SERVICE_HOST", "MCPGW_BROKER_PORT", "MCPGW_ROUTER_PORT_50051_TCP"])
def test_a_variable_that_kubernetes_sets_for_a_service_is_left_alone(tmp_path: Path, variable: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("servers: []\n")
    assert run("check", str(config), variables={variable: "tcp://10.0.0.1:80"}).returncode == 0


@pytest.mark.duty("cli.exit-64", "config.errors-placed")
def test_a_broken_configuration_at_start_is_64(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("servers:\n  - name: a\n    url: nope\n    tolPrefix: x\n")
    done = run("run", "--config", str(config))
    assert done.returncode == 64
    assert f"{config}:3: servers[0].url" in done.stderr
    assert f"{config}:4: servers[0].tolPrefix: unknown key, did you mean 'toolPrefix'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.duty("cli.exit-64")
def test_a_missing_configuration_is_64(tmp_path: Path) -> None:
    done = run("run", "--config", str(tmp_path / "none.yaml"))
    assert (done.returncode, "cannot be read" in done.stderr) == (64, True)


@pytest.mark.duty("cli.exit-64")
@pytest.mark.parametrize(
    "arguments", [["run"], ["nope"], ["run", "--config", "x", "--drain-time", "soon"], ["tools", "call"]]
)
def test_bad_usage_is_64(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 64


@pytest.mark.duty("cli.exit-69")
def test_a_port_that_is_taken_is_69_and_names_its_option(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("servers: []\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--broker-address", "--router-address", "--admin-address"):
            free = [f"--{name}-address=127.0.0.1:0" for name in ("broker", "router", "admin") if name not in option]
            done = run("run", "--config", str(config), option, f"127.0.0.1:{port}", *free)
            assert done.returncode == 69
            assert option in done.stderr
            assert str(port) in done.stderr


def test_a_directory_that_cannot_be_written_is_69(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("servers: []\n")
    (tmp_path / "file").write_text("")
    done = run("run", "--config", str(tmp_path / "config.yaml"), "--envoy-dir", str(tmp_path / "file" / "x"))
    assert (done.returncode, "Traceback" in done.stderr) == (69, False)


def test_a_router_on_a_unix_socket(one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("unix")
    path = directory / "r.sock"
    with gateway(directory, [entry("ns/one", one.url)], f"--router-address=unix:{path}") as running:
        with running.client() as client:
            assert text_of(client.call("one"))
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.wait()
        running.start_sidecar()
        with running.client() as client:
            wait_until(lambda: succeeded(client.call("one")), "a left-behind socket file is replaced")


def test_garbage_on_the_routers_port_ends_only_its_connection(running: Gateway) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\x04\0\0\0\0\0"
    garbage = [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 8,
        preface + settings + bytes(range(256)),
        preface + settings + b"\xff\xff\xff\0\0\0\0\0\x01" + b"x" * 100,
        preface + settings + b"\0\0\x05\0\0\0\0\0\x01hello",
        preface + settings + b"\0\0\x05\x77\0\0\0\0\0hello",
        b"",
    ]
    for data in garbage:
        with socket.create_connection(("127.0.0.1", running.ports["router"])) as peer:
            peer.sendall(data)
            peer.settimeout(0.3)
            try:
                while peer.recv(65536):
                    pass
            except OSError:
                pass
    with running.client() as client:
        assert text_of(client.call("a_one"))
    assert not running.logged("Traceback")


class Demo:
    def __init__(self, directory: Path) -> None:
        names = ("gateway", "broker", "router", "admin")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        options = [f"--{name}-address=127.0.0.1:{port}" for name, port in self.ports.items()]
        self.process = Process([*PROGRAM, "demo", *options], directory / "demo.log")
        self.url = f"http://127.0.0.1:{self.ports['gateway']}/mcp"


@pytest.mark.duty("cli.demo")
def test_the_demo_starts_explains_itself_and_ends(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    try:
        wait_until(lambda: "Ctrl-C ends everything" in demo.process.text, "the demo's words")
        text = demo.process.text
        assert f"The gateway is ready:  {demo.url}" in text
        assert '"mcpServers"' in text
        assert f"curl -si {demo.url}" in text
        _, _, shown = text.partition("A call of 2026-07-28, without a session:")
        headers = dict(re.findall(r"-H '([a-z-]+): ([^']+)'", shown.partition("-d '")[0]))
        body = shown.partition("-d '")[2].partition("'")[0]
        assert "Hi Ada" in text_of(PLAIN.post(demo.url, content=body, headers=headers))
        with Client(demo.url, authorization="Bearer test-api-key-secret-token") as client:
            assert {"test_greet", "test2_slow", "apikey_hello_world"} <= set(client.tools())
            assert text_of(client.call("apikey_hello_world")) == "Hello, world, you have the key!"
        wait_until(
            lambda: (
                "envoy | POST tools/call apikey_hello_world -> mcp-test/mcp-api-key-server-route: 200" in demo.process.text
            )
        )
        assert re.search(r"sidecar \| INFO Server registered url=\S+ totalServers=3", demo.process.text)
        demo.process.signal(signal.SIGINT)
        assert demo.process.wait() == 0
        for port in demo.ports.values():
            with socket.socket() as sock:
                assert sock.connect_ex(("127.0.0.1", port)) != 0, "everything has ended"
    finally:
        demo.process.stop()


@pytest.mark.duty("cli.exit-69")
def test_the_demo_names_the_option_of_a_busy_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("demo", "--gateway-address", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 69
    assert "--gateway-address" in done.stderr


def test_the_demo_says_what_to_do_without_an_envoy() -> None:
    done = run("demo", "--envoy", "/nowhere/envoy")
    assert (done.returncode, "--envoy" in done.stderr) == (69, True)
