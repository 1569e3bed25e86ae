"""The commands as an operator types them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import KEY
from tests.e2e.stack import PROGRAM, WAIT, Gateway, entry, environment, gateway
from tests.servers.scripted import ScriptedServer


def run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT,
        env=environment() | {"COLUMNS": "160"},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def admin(running: Gateway) -> str:
    return f"--admin-address=127.0.0.1:{running.ports['admin']}"


@pytest.mark.duty("cli.status")
def test_status_as_a_table(guide: Gateway) -> None:
    shown = run("status", admin(guide))
    assert "mcp-test/mcp-server1-route" in shown
    assert "3 of 3 servers ready, 10 tools" in shown
    assert "Envoy's verdict on its files: accepted" in shown


@pytest.mark.duty("cli.status", "status.document", "security.credentials")
def test_status_as_json(guide: Gateway) -> None:
    document = json.loads(run("status", "--json", admin(guide)))
    assert set(document) == {"version", "config", "servers", "sessions", "eras", "envoy"}
    assert document["eras"]["prefer"] == "auto"
    assert set(document["servers"][0]) == {
        "name", "url", "hostname", "toolPrefix", "enabled", "ready", "reason", "message", "protocolVersion", "tools",
        "prompts", "resources", "lastContact", "conflicts", "invalid", "warnings",
    }  # fmt: skip
    assert document["envoy"] == {"accepted": True, "error": None}
    assert "test-api-key" not in json.dumps(document)


@pytest.mark.duty("cli.status", "list.clash")
def test_status_shows_what_is_wrong(
    one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    two.tools.append({"name": "no-schema"})
    servers = [entry("ns/one", one.url), entry("ns/two", two.url), entry("ns/off", one.url, enabled=False)]
    with gateway(tmp_path_factory.mktemp("status"), servers, envoy=False) as running:
        one.status = 500
        shown = run("status", admin(running))
        assert "both belongs to ns/one" in shown
        assert "no-schema left out" in shown
        assert "off" in shown
        assert "not seen" in shown


def test_status_watch_refreshes(guide: Gateway) -> None:
    watching = subprocess.Popen(
        [*PROGRAM, "status", "--watch", admin(guide)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert watching.stdout is not None
    tables = 0
    killer = threading.Timer(WAIT, watching.kill)
    killer.start()
    try:
        while tables < 3:  # drawn, and drawn again, and again
            line = watching.stdout.readline()
            assert line, "it has ended"
            tables += "SERVER" in line
    finally:
        killer.cancel()
        watching.terminate()
        watching.communicate(timeout=WAIT)


def test_status_without_a_sidecar() -> None:
    assert "--admin-address" in run("status", "--admin-address=127.0.0.1:1", code=69)


@pytest.mark.duty("cli.tools")
def test_tools_list_and_call(guide: Gateway) -> None:
    listed = run("tools", "--url", guide.url, "list")
    assert "test_greet" in listed
    assert "10 tools" in listed
    assert len(json.loads(run("tools", "--url", guide.url, "list", "--json").partition("]\n")[0] + "]")) == 10
    assert run("tools", "--url", guide.url, "call", "test_greet", "--arg", "name=Ada") == "Hi Ada\n"
    assert run("tools", "--url", guide.url, "-H", f"Authorization: {KEY}", "call", "apikey_hello_world") == (
        "Hello, world, you have the key!\n"
    )
    result = json.loads(run("tools", "--url", guide.url, "call", "test2_hello_world", "--json"))
    assert result["content"][0]["text"] == "Hello, world!"


@pytest.mark.duty("cli.tools", "security.credential-own")
def test_tools_that_fail_end_with_1(guide: Gateway) -> None:
    assert "always fails" in run("tools", "--url", guide.url, "call", "test_fail", code=1)
    assert "Tool not found" in run("tools", "--url", guide.url, "call", "nope", code=1)
    assert "apikey" in run("tools", "--url", guide.url, "call", "apikey_hello_world", code=1).replace("api-key", "apikey")
    assert "--url" in run("tools", "--url", "http://127.0.0.1:1/mcp", "list", code=69)
    assert "K=V" in run("tools", "call", "x", "--arg", "nope", code=64)


@pytest.mark.duty("cli.check")
def test_check(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("servers:\n  - {name: a/b, url: 'http://h/mcp'}\n  - {name: c, url: 'http://h', enabled: false}\n")
    assert "2 servers, 1 enabled" in run("check", str(good))
    bad = tmp_path / "bad.yaml"
    bad.write_text("servers:\n  - {name: a, url: 'https://h', caFile: /nowhere.pem}\n")
    assert "no such file" in run("check", str(bad), code=64)
    access = tmp_path / "access.yaml"
    access.write_text("limits: {service: {url: 'https://h:1', caFile: ca.pem}}")
    refused = run("check", str(good), f"--access={access}", code=64)
    assert f"limits.service.caFile {tmp_path / 'ca.pem'}: no file with a PEM certificate" in refused
    access.write_text("authorization: [{servers: [a/*], allow: [{}]}, {servers: [a/c, 'd*'], allow: [{}]}]")
    said = run("check", str(good), f"--access={access}")
    assert "authorization[1].servers: a/c matches none that is there" in said
    assert "authorization[1].servers: d* matches none that is there" in said
    assert "authorization[0]" not in said


def test_envoy_prints_the_bootstrap_that_run_writes(guide: Gateway) -> None:
    addresses = [f"--{name}-address=127.0.0.1:{port}" for name, port in guide.ports.items()]
    directory = guide.directory / "envoy"
    printed = run("envoy", "--envoy-dir", str(directory), *addresses)
    assert yaml.safe_load(printed) == yaml.safe_load((directory / "bootstrap.yaml").read_text())
    assert "--envoy-dir" in run("envoy", code=64)


def test_help_teaches() -> None:
    assert "mcpgw-sidecar demo" in run("--help")
    shown = run("run", "--help")
    assert "MCPGW_BROKER_ADDRESS" in shown
    assert "broker.sock" in shown
    assert "mcpgw-sidecar" in run("--version")


@pytest.mark.duty("config.environment")
def test_every_option_of_run_has_a_variable() -> None:
    shown = run("run", "--help")
    options = re.findall(r"^ +--([a-z-]+)", shown, re.MULTILINE)
    assert {"config", "kubernetes", "route-memo", "drain-time", "log-level"} <= set(options)
    for option in set(options) - {"help"}:
        assert f"MCPGW_{option.upper().replace('-', '_')}" in shown


@pytest.mark.duty("config.environment", "cli.exit-64")
def test_options_from_the_environment(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("servers: [")
    done = subprocess.run(
        [*PROGRAM, "run"],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=environment() | {"MCPGW_CONFIG": str(config)},
    )
    assert done.returncode == 64
    assert str(config) in done.stderr


@pytest.mark.duty("config.environment")
def test_the_command_line_wins_over_the_environment(tmp_path: Path) -> None:
    typed, variable = tmp_path / "typed.yaml", tmp_path / "variable.yaml"
    for config in (typed, variable):
        config.write_text("servers: [")
    done = subprocess.run(
        [*PROGRAM, "run", "--config", str(typed)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=environment() | {"MCPGW_CONFIG": str(variable)},
    )
    assert (done.returncode, str(typed) in done.stderr, str(variable) in done.stderr) == (64, True, False)
