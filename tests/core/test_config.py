from __future__ import annotations

import pytest

from mcpgw_sidecar.config.decode import MAX_FILE, Content, decode
from mcpgw_sidecar.config.units import parse_duration, parse_size
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.runtime.listeners import Address, parse_address


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        decode(text, "c.yaml")
    return refused.value.problems


@pytest.mark.duty("config.keys", "security.credentials")
def test_a_whole_entry() -> None:
    text = """
servers:
  - name: mcp-test/mcp-server1-route
    url: http://mcp-test-server1.mcp-test.svc.cluster.local:9090/mcp
    hostname: server1.mcp.local
    toolPrefix: test_
    enabled: false
    credential: Bearer x
    callTimeout: 90s
    discoveryTimeout: 30s
  - {name: b, url: "https://h.example/mcp", caFile: /ca.pem, credentialFile: /token}
"""
    first, second = decode(text, "c.yaml").servers
    assert first == Server(
        name="mcp-test/mcp-server1-route",  # type: ignore[arg-type]
        url="http://mcp-test-server1.mcp-test.svc.cluster.local:9090/mcp",
        hostname="server1.mcp.local",
        tool_prefix="test_",
        enabled=False,
        credential="Bearer x",
        call_timeout=90.0,
        discovery_timeout=30.0,
    )
    assert (second.hostname, second.enabled, second.tool_prefix) == ("h.example", True, "")
    assert "Bearer" not in repr(first)


@pytest.mark.duty("config.keys")
def test_no_servers_is_a_configuration() -> None:
    assert decode("servers: []", "c.yaml") == Content((), (), None)


@pytest.mark.duty("config.errors-placed")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["c.yaml:1: the file is empty"]),
        ("# only a comment\n", ["c.yaml:1: the file is empty"]),
        ("servers:\n  - [", ["c.yaml:3: not YAML"]),
        ("servers: [\n}", ["c.yaml:2: not YAML"]),
        ("a\0b", ["c.yaml:1: not YAML"]),
        ("5", ["c.yaml:1: must hold keys"]),
        ("[]", ["c.yaml:1: must hold keys"]),
        ("servers:", ["c.yaml:1: servers: must be a list"]),
        ("server: []", ["c.yaml:1: server: unknown key, did you mean 'servers'?", "c.yaml:1: 'servers' is missing"]),
        ("servers: []\nservers: []", ["c.yaml:2: servers: stands there twice"]),
        ("servers:\n- 5", ["c.yaml:2: servers[0]: must hold keys"]),
        ("servers:\n- name: a", ["c.yaml:2: servers[0]: 'url' is missing"]),
        ("servers:\n- {name: a, url: 'ftp://h'}", ["c.yaml:2: servers[0].url: 'ftp://h' cannot be used: write http://"]),
        ("servers:\n- {name: a, url: 'http://u:p@h/'}", ["servers[0].url"]),
        ("servers:\n- {name: a, url: 'http://h:99999/'}", ["servers[0].url"]),
        ("servers:\n- {name: a, url: 'http://[::1/'}", ["servers[0].url"]),
        ("servers:\n- {name: a, url: 'http://h/ x'}", ["servers[0].url"]),
        (
            "servers:\n- {name: a, url: 'http://h', callTimeout: 5}",
            ["servers[0].callTimeout: must be a text, not 5; write it like 250ms, 30s, 5m, or 0 for none; at most 24h"],
        ),
        ("servers:\n- {name: 5, url: 'http://h'}", ["servers[0].name: must be a text, not 5; write it in quotes: '5'"]),
        ("servers:\n- {name: a b, url: 'http://h'}", ["servers[0].name: 'a b' cannot be used: use letters"]),
        ("servers:\n- {name: a, url: 'http://h', enabled: 'yes'}", ["servers[0].enabled: must be true or false"]),
        ("servers:\n- {name: a, url: 'http://h', toolPrefix: 'a b'}", ["servers[0].toolPrefix"]),
        ("servers:\n- {name: a, url: 'http://h', hostname: 'a b'}", ["servers[0].hostname"]),
        ("servers:\n- {name: a, url: 'http://h', callTimeout: soon}", ["servers[0].callTimeout"]),
        ("servers:\n- {name: a, url: 'http://h', discoveryTimeout: 0s}", ["servers[0].discoveryTimeout"]),
        ("servers:\n- {name: a, url: 'http://h', toolprefix: x}", ["did you mean 'toolPrefix'?"]),
        ("servers:\n- {name: a, url: 'http://h', caFile: x}", ["servers[0].caFile: is for an https url"]),
        ("servers:\n- {name: a, url: 'http://h', credential: x, credentialFile: y}", ["not both"]),
        (
            "servers:\n- {name: a, url: 'http://h'}\n- {name: a, url: 'http://i'}",
            ["c.yaml:3: servers[1].name: 'a' is the name of servers[0] too"],
        ),
        (
            "servers:\n- name: a b\n  url: nope\n  enabled: 3\n  tolPrefix: x\n- {name: c}\n- 7\n",
            ["c.yaml:2: servers[0].name", "c.yaml:3: servers[0].url", "c.yaml:4: servers[0].enabled",
             "c.yaml:5: servers[0].tolPrefix", "c.yaml:6: servers[1]: 'url'", "c.yaml:7: servers[2]"],
        ),
        ("servers:\n- {name: 2024-02-30, url: 'http://h'}", ["servers[0].name: cannot be read: write it in quotes"]),
        ("servers:\n- {name: !!int x, url: 'http://h'}", ["servers[0].name: cannot be read"]),
        ("servers:\n- {name: 0x_, url: 'http://h'}", ["servers[0].name: cannot be read"]),
        ("servers:\n- {name: " + "9" * 5000 + ", url: 'http://h'}", ["servers[0].name"]),
        ("servers:\n- {name: a, url: 'http://a..b/mcp'}", ["servers[0].url"]),
        ("servers:\n- {name: a, url: 'http://" + "a" * 64 + ".b/mcp'}", ["servers[0].url"]),
        ("servers:\n- {name: a, url: 'http://h', credential: 'Bearer x '}", ["servers[0].credential: write the whole"]),
        ("servers:\n- {name: a, url: 'http://h', credentialFile: \"a\\0b\"}", ["servers[0].credentialFile"]),
        ("servers:\n- {name: a, url: 'http://h', callTimeout: 300h}", ["servers[0].callTimeout"]),
        ("x" * (MAX_FILE + 1), ["larger than"]),
        ("servers: " + "[" * 30_000 + "]" * 30_000, ["c.yaml:1: nested too deeply"]),
        ("servers: &a [*a]", ["c.yaml:1: aliases (*a) are not supported"]),
    ],
)  # fmt: skip
def test_every_problem_has_its_place_and_its_remedy(text: str, expected: list[str]) -> None:
    problem_list = problems(text)
    assert len(problem_list) == len(expected), problem_list
    for line, words in zip(problem_list, expected, strict=True):
        assert words in line


@pytest.mark.duty("security.credentials")
def test_a_credential_is_not_repeated_in_an_error() -> None:
    (problem,) = problems('servers:\n- {name: a, url: "http://h", credential: "s3cr\\u00e9t"}')
    assert "s3cr" not in problem
    assert "credential" in problem


@pytest.mark.duty("security.credentials")
def test_a_credential_of_the_wrong_type_is_not_repeated_either() -> None:
    (problem,) = problems('servers:\n- {name: a, url: "http://h", credential: 123456789}')
    assert "123456789" not in problem


@pytest.mark.duty("config.keys")
@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("250ms", 0.25), ("5m", 300), ("24h", 86400), ("1h30m", 5400), ("1.5s", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.duty("config.keys")
@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5s", "5d", "1s!"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="5m"):
        parse_duration(text)


@pytest.mark.duty("config.keys")
def test_sizes() -> None:
    assert parse_size("4MiB") == 4 << 20
    assert parse_size("100") == 100
    with pytest.raises(ValueError, match="MiB"):
        parse_size("4MB")


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80") == Address("127.0.0.1", 80)
    assert parse_address("[::1]:80") == Address("::1", 80)
    assert parse_address(":80") == Address("0.0.0.0", 80)
    assert parse_address("unix:/x", unix=True) == Address(path="/x")
    assert [str(parse_address(text)) for text in ("[::1]:80", "h:1")] == ["[::1]:80", "h:1"]
    for text in ("80", "h:", "h:x", "h:70000", "unix:/x"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            parse_address(text)
