"""`audit`: who called what since when."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.access.issuing import Issuer
from tests.e2e.clients import CACHE
from tests.e2e.stack import (
    CLIENT,
    PROGRAM,
    Client,
    Process,
    entry,
    environment,
    free_ports,
    gateway,
    succeeded,
    wait_until,
)
from tests.e2e.test_cli import run
from tests.servers.scripted import ScriptedServer, tool

RECEIVER = CACHE / "otlp"


@contextmanager
def receiver(directory: Path, port: int) -> Iterator[Process]:
    """OpenTelemetry's receiver: it prints what it gets."""
    process = Process([str(RECEIVER), str(port)], directory / "otlp.log")
    try:
        yield process
    finally:
        process.stop()


def records(text: str) -> list[dict[str, str]]:
    """The attributes of the records that a receiver has printed."""
    found = []
    for line in text.splitlines():
        for of_resource in json.loads(line)["resourceLogs"]:
            names = {each["key"]: each["value"].get("stringValue") for each in of_resource["resource"]["attributes"]}
            for record in of_resource["scopeLogs"][0]["logRecords"]:
                said = {each["key"]: each["value"].get("stringValue", "") for each in record["attributes"]}
                found.append({**said, "service": str(names["service.name"])})
    return found


@pytest.mark.duty("access.collector")
def test_a_collector_gets_the_same_lines(one: ScriptedServer, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with (
        Issuer() as issuer,
        gateway(
            tmp_path,
            [entry("ns/one", one.url, "a_")],
            f"--log-collector=http://127.0.0.1:{port}",
            authentication={"issuers": [issuer.entry()]},
        ) as running,
    ):
        wait_until(
            lambda: Client(running.url, authorization=f"Bearer {issuer.token()}").initialized.status_code == 200, "keys"
        )
        with running.client(authorization=f"Bearer {issuer.token(sub='alice')}") as client:
            assert succeeded(client.call("a_one")), "a collector that is away delays nothing"
            with receiver(tmp_path, port) as collector:

                def arrived() -> list[dict[str, str]]:
                    assert succeeded(client.call("a_one"))
                    client.call("a_none")
                    return [each for each in records(collector.text) if each["tool"] == "a_none"]

                refused = wait_until(arrived, "records")[0]
                called = [each for each in records(collector.text) if each["tool"] == "a_one"]
        log = tmp_path / "envoy.log"
        wait_until(lambda: all(each["request_id"] in log.read_text() for each in [*called, refused]), "the same lines")
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        of_lines = {line["request_id"]: line for line in lines}
        assert called
        for record in [*called, refused]:
            line = of_lines[record["request_id"]]
            assert record.keys() == line.keys() | {"service"}
            same = ("subject", "session", "server", "outcome", "client_name", "method", "traceparent")
            assert [record[name] for name in same] == [line[name] or "-" for name in same]
            assert record["service"] == "mcpgw"
        assert (refused["outcome"], refused["code"], refused["method"]) == ("rejected", "-32601", "tools/call")
        for wrong in ("localhost", "http://c", "http://c:1/x", "http://u@c:1"):
            assert "--log-collector" in run("run", "--config=x", f"--log-collector={wrong}", code=64)


@pytest.mark.duty("access.audit")
def test_who_called_what(tmp_path: Path) -> None:
    with Issuer() as issuer, ScriptedServer(tool("one"), tool("two")) as one:
        access = {
            "authentication": {"issuers": [issuer.entry()]},
            "limits": {"calls": [{"perMinute": 1, "burst": 3, "tools": ["a_two"]}]},
        }
        with gateway(tmp_path, [entry("ns/one", one.url, "a_")], **access) as running:
            wait_until(
                lambda: Client(running.url, authorization=f"Bearer {issuer.token()}").initialized.status_code == 200, "keys"
            )
            for name in ("alice", "bob"):
                with running.client(authorization=f"Bearer {issuer.token(sub=name)}", user_agent="agent/1") as client:
                    for _ in range(3):
                        assert succeeded(client.call("a_one"))
                    client.call("a_two")
                    client.call("a_two")
                    client.call("a_hidden one")
                    client.post("prompts/get", {"name": "a_prompt"})
                    client.tools()
            log = tmp_path / "envoy.log"
            wait_until(lambda: log.read_text().count("a_prompt") == 2, "the lines")
            rows = [json.loads(line) for line in run("audit", str(log), "--subject=bob", "--json").splitlines()]
            assert [(row["tool"], row["outcome"]) for row in rows] == [
                *[("a_one", "ok")] * 3, ("a_two", "ok"), ("a_two", "limited"), ("a_hidden one", "rejected"),
                ("a_prompt", "rejected"),
            ]  # fmt: skip
            assert {(row["issuer"], row["user_agent"], row["server"]) for row in rows[:5]} == {
                (issuer.name, "agent/1", "ns/one")
            }
            assert [(row["method"], row["code"], row["subject"]) for row in rows[5:]] == [
                ("tools/call", "-32601", "bob"),
                ("prompts/get", "-32602", "bob"),
            ]
            (session,) = {row["session"] for row in rows}
            assert len(session) == 8
            assert session != client.session[:8]
            said = {(row["client_name"], row["client_version"], row["host"], row["virtual_server"]) for row in rows}
            assert said == {(CLIENT["name"], CLIENT["version"], urlsplit(running.url).netloc, None)}
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
            of_session = {(line["method"], line["http"]) for line in lines if line["session"] == session}
            assert of_session >= {("initialize", "POST"), ("notifications/initialized", "POST")}
            assert "ISSUER" not in run("audit", str(log))
            assert run("audit", str(log), "--issuer=https://other.example", "--json") == ""
            assert "is not one of" in run("audit", str(log), "--outcome=bogus", code=64)
            assert run("audit", str(log), "--tool=a_two", "--outcome=limited", "--json").count("\n") == 1
            assert "alice" in run("audit", str(log), "--since=1h", "--server=ns/one")
            assert run("audit", str(log), "--since=0ms", "--json") == ""
            assert '"tools/list"' in run("audit", str(log), "--all", "--json")
            command = [*PROGRAM, "audit", "--json", "--outcome=ok"]
            piped = subprocess.run(
                command, input=f"x\n{{\n{log.read_text()}", capture_output=True, text=True, check=True, env=environment()
            )
            assert piped.stdout.count("\n") == 9
    odd = {
        "time": 7,
        "status": 200,
        "request_id": "r",
        "bytes_in": 1,
        "tool": "t",
        "subject": ["a"],
        "client": "x\x1b[31m\ny",
    }
    two = [{**odd, "issuer": name, "time": "2999-01-01T00:00:00"} for name in ("https://a.example", "https://b.example")]
    (tmp_path / "two").write_text("".join(f"{json.dumps(each)}\n" for each in two))
    assert "https://b.example" in run("audit", str(tmp_path / "two")), "one name may be two people"
    naive = {**odd, "tool": 7, "time": "2999-01-01T00:00:00", "subject": "later"}
    (tmp_path / "odd").write_text(f"{json.dumps(odd)}\n{json.dumps(naive)}\n{'[' * 100_000}{{\n")
    shown = run("audit", str(tmp_path / "odd"))
    assert "['a']" in shown
    assert "x\\x1b[31m\\ny" in shown
    assert shown.count("\n") == 3
    assert "later" in run("audit", str(tmp_path / "odd"), "--since=1h")
    assert "cannot be read" in run("audit", str(tmp_path / "none"), code=64)
