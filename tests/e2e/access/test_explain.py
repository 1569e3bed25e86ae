"""`access explain` and `check` as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.e2e.access.issuing import Issuer
from tests.e2e.test_cli import run

CONFIG = """
servers:
  - {name: team-a/one, url: "http://h/mcp"}
  - {name: team-b/one, url: "http://h/mcp"}
virtualServers:
  - {name: v/x, tools: [t]}
  - {name: v/own, tools: [t], allow: [{groups: admins}]}
"""
ACCESS = """
authorization:
  - {servers: ["team-a/*"], tools: ["get_*"], allow: [{groups: [agents, admins]}]}
  - {servers: ["team-b/*"], allow: [{groups: [admins], sub: [x]}, {role: boss}]}
  - {virtualServers: ["v/*"], allow: [{}]}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "access.yaml").write_text(ACCESS)
    return f"--config={tmp_path / 'config.yaml'}", f"--access={tmp_path / 'access.yaml'}"


@pytest.mark.duty("access.explain")
def test_which_rules_hold_and_why_not(files: tuple[str, str], tmp_path: Path) -> None:
    with Issuer() as issuer:
        (tmp_path / "token").write_text(issuer.token(groups=["agents"]))
    asked = ("--server=team-b/one", "--tool=put")
    shown = run("access", "explain", *files, f"--token={tmp_path / 'token'}", *asked)
    assert "rule 0 (servers team-a/*; tools get_*) holds" in shown
    assert (
        "rule 1 (servers team-b/*) does not hold: groups has none of admins and sub has none of x or role has none of boss"
        in shown
    )
    assert "team-a/one: tools get_*" in shown
    assert "team-b/one: nothing" in shown
    assert "tool put of team-b/one is not allowed: no rule that holds gives it" in shown
    answer = json.loads(run("access", "explain", *files, '--claims={"role": "boss"}', *asked, "--json"))
    assert answer["tool"] == {"server": "team-b/one", "tool": "put", "allowed": True, "by": [1]}
    assert answer["sees"] == {"team-a/one": [], "team-b/one": ["*"]}
    virtual = json.loads(run("access", "explain", *files, "--claims={}", "--virtual-server=v/x", "--json"))
    assert virtual["sees"] == {"team-a/one": ["*"], "team-b/one": ["*"]}
    for more, words in (
        (("--virtual-server=v/own",), "virtual server v/own is not for this caller"),
        (("--virtual-server=v/none",), "the configuration has no virtual server v/none"),
    ):
        closed = run("access", "explain", *files, "--claims={}", *more, *asked)
        assert f"tool put of team-b/one is not allowed: {words}" in closed
    nowhere = run("access", "explain", *files, "--claims={}", "--virtual-server=v/x", "--server=team-c/x", "--tool=t")
    assert "is not allowed: the configuration has no server team-c/x" in nowhere
    assert "whoever is authenticated may use everything" in run("access", "explain", files[0], "--claims={}")


@pytest.mark.duty("access.explain")
def test_why_a_token_is_refused(files: tuple[str, str], tmp_path: Path) -> None:
    """Whoever gets a 401 has a token, and cannot see why; Envoy says no more than that."""
    with Issuer() as issuer:
        login = {"issuers": [issuer.entry()]}
        (tmp_path / "login.yaml").write_text(yaml.safe_dump({"authentication": login, "authorization": [{"allow": [{}]}]}))
        command = ("access", "explain", files[0], f"--access={tmp_path / 'login.yaml'}", f"--token={tmp_path / 'token'}")
        for claims, words in (
            ({"iss": f"{issuer.name}/"}, "(compared exactly)"),
            ({"aud": ["x"]}, "its aud is ['x'], and one of https://gw.example/mcp has to be in it"),
            ({"exp": 1}, "it has ended"),
            ({"exp": None}, "it has no exp"),
            ({"nbf": 9_999_999_999}, "it does not count yet (nbf)"),
            ({"sub": " x"}, "its sub is no line of text"),
            ({}, "team-a/one: everything"),
        ):
            (tmp_path / "token").write_text(issuer.token(**claims))
            shown = run(*command, "--server=team-a/one", "--tool=t")
            assert words in shown
            assert ("tool t of team-a/one is allowed by rule 0" in shown) == (claims == {})


@pytest.mark.duty("access.explain")
def test_what_cannot_be_explained(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    (tmp_path / "closed.yaml").write_text("endpoint: {bare: false}\nauthorization: [{allow: [{}]}]\n")
    closed_at = ("access", "explain", files[0], f"--access={tmp_path / 'closed.yaml'}", "--claims={}")
    assert "the bare endpoint is closed" in run(*closed_at, "--server=team-a/one", "--tool=t")
    assert "Which tool of which server?" in run(*closed_at, "--server=team-a/one", code=64)
    for arguments in (
        (*files, f"--claims={'[' * 100_000}"),
        ("--claims={}",),
        files,
        (*files, "--claims=7"),
        (*files, "--claims={"),
        (*files, f"--token={tmp_path / 'token'}"),
        (*files, f"--token={tmp_path / 'none'}"),
    ):
        assert run("access", "explain", *arguments, code=64)
    assert ": ok, 2 servers" in run("check", files[0].partition("=")[2], files[1])
    (tmp_path / "access.yaml").write_text("authorization: [{allow: []}]")
    assert "access.yaml:1: authorization: [0].allow must be a list" in run(
        "check", files[0].partition("=")[2], files[1], code=64
    )
