"""What a new user once stumbled over, and stays mended."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.stack import PROGRAM, WAIT, Gateway, entry, environment, gateway, succeeded, wait_until
from tests.servers.scripted import ScriptedServer


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operators")


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=WAIT, env=environment(), check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.duty("reload.envoy-refuses", "status.what-went-wrong")
def test_a_cluster_that_envoy_leaves_out_is_said(one: ScriptedServer, directory: Path) -> None:
    (directory / "ca.pem").write_text("no certificate")
    with gateway(directory, [entry("ns/one", one.url)]) as running:
        running.write([entry("ns/one", one.url), entry("ns/bad", "https://127.0.0.1:1/mcp", caFile="ca.pem")])
        wait_until(lambda: running.status()["envoy"]["accepted"] is False)
        assert "mcp_server/ns/bad" in running.status()["envoy"]["error"]
        assert running.server("ns/bad")["reason"] == "BadCaFile"
        with running.client() as client:
            assert succeeded(client.call("one"))
    assert run("check", str(directory / "config.yaml"))[0] == 64


@pytest.mark.duty("config.options-64")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--refresh-interval=0"], "too short"),
        (["--session-lifetime=0"], "too short"),
        (["--max-body=0"], "1KiB to 1GiB"),
        (["--max-body=5GiB"], "1KiB to 1GiB"),
        (["--call-timeout=300h"], "24h"),
        (["--public-host=http://x/"], "not a host name"),
        (["--allowed-origin=x"], "not an origin"),
        (["--broker-address=127.0.0.1:1", "--admin-address=127.0.0.1:1"], "same address"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "config.yaml").write_text("servers: []\n")
    code, output = run("run", "--config", str(tmp_path / "config.yaml"), *arguments)
    assert (code, words in output) == (64, True), output


@pytest.mark.duty("security.credentials")
def test_passwords_and_keys_of_urls_are_not_repeated(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "servers:\n- {name: a, url: 'http://user:S3cret@h/'}\n- {name: mcpBroker, url: 'http://h/?k=S3cret x'}\n"
    )
    code, output = run("check", str(config))
    assert (code, "S3cret" in output) == (64, False)
    assert "servers[0].url" in output
    assert "mcpBroker is the gateway's own" in output


@pytest.mark.duty("cli.tools")
def test_the_commands_pass_on_what_the_gateway_says(one: ScriptedServer, directory: Path) -> None:
    with gateway(directory, [entry("ns/one", one.url)]) as running:
        call = ["tools", "--url", running.url, "call", "one"]
        one.status = 401
        code, output = run(*call)
        assert (code, "ns/one" in output, "-H" in output) == (1, True, True)
        one.status = None
        running.sidecar.signal(signal.SIGKILL)
        running.sidecar.wait()
        code, output = run(*call)
        assert (code, "sidecar is not running" in output, "check its url" in output) == (69, True, False)
    assert run("tools", "--url", "foo", "list")[0] == 64


def test_json_lines_have_a_time(one: ScriptedServer, directory: Path) -> None:
    with gateway(directory, [entry("ns/one", one.url)], "--log-format=json", envoy=False) as running:
        line = json.loads(running.logged("Server registered")[0])
        assert set(line) == {"time", "level", "msg", "url", "totalServers"}
        assert line["level"] == "INFO"


def test_sighup_is_answered_and_ends_nothing(one: ScriptedServer, directory: Path) -> None:
    with gateway(directory, [entry("ns/one", one.url)], envoy=False) as running:
        running.sidecar.signal(signal.SIGHUP)
        wait_until(lambda: running.logged("Nothing to do"))
        assert running.status()


@pytest.mark.duty("cli.exit-69")
def test_a_directory_without_permission_names_its_option(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("servers: []\n")
    (tmp_path / "file").write_text("")
    free = [f"--{name}-address=127.0.0.1:0" for name in ("broker", "router", "admin")]
    code, output = run("run", f"--config={tmp_path / 'config.yaml'}", f"--envoy-dir={tmp_path / 'file' / 'x'}", *free)
    assert (code, "--envoy-dir" in output) == (69, True)


@pytest.mark.duty("config.credential-file")
def test_paths_are_relative_to_the_file(one: ScriptedServer, directory: Path) -> None:
    (directory / "token").write_text("Bearer here")
    with gateway(directory, [entry("ns/one", one.url, credentialFile="token")], envoy=False) as running:
        wait_until(lambda: running.server("ns/one")["ready"])
    assert one.calls("initialize")[0].headers["authorization"] == "Bearer here"


def test_a_bug_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from mcpgw_sidecar.cli import entry as commands  # noqa: PLC0415  # the program's inside, for once

    def broken(**_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(commands.cli, "main", broken)
    assert commands._code() == 70
    shown = capsys.readouterr().err
    assert "RuntimeError: a bug" in shown
    assert "please report it" in shown


def test_a_directory_is_left_as_it_was_found(directory: Path, one: ScriptedServer) -> None:
    running: Gateway
    with gateway(directory, [entry("ns/one", one.url)], envoy=False) as running:
        files = {path.name for path in (running.directory / "envoy").iterdir()}
    assert files == {
        "bootstrap.yaml", "cds.yaml", "lds.yaml", "rds.yaml", "secret", "session.key", "session.key.last-good", "sessions.journal",
        "stamps",
    }  # fmt: skip
