"""Limits of an access document: read, and as Envoy counts them."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.config.decode import decode, decode_access
from mcpgw_sidecar.envoy.limits import of_calls, of_service
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.access import OPEN, SESSIONS, Authentication, CallLimit, Issuer, Limits, LimitService, Rate
from mcpgw_sidecar.protocol.headers import value_of


@pytest.mark.duty("limits.configured")
def test_what_is_limited_unless_somebody_says_otherwise() -> None:
    assert decode("servers: []", "f").access is None
    assert OPEN.limits.new_sessions == SESSIONS == Rate(count=50, seconds=1.0, burst=1000)
    assert decode_access("{}", "f") == OPEN
    none = decode_access("limits: {newSessions: {perSecond: 0}}", "f")
    assert none.limits.new_sessions is None
    assert decode("{servers: [], limits: {newSessions: {perSecond: 7}}}", "f").access == decode_access(
        "limits: {newSessions: {perSecond: 7, burst: 7}}", "f"
    )


@pytest.mark.duty("limits.configured")
def test_limits_of_calls() -> None:
    text = "limits: {calls: [{perMinute: 600, each: [tool, caller], burst: 5, tools: ['a_*'], servers: [ns/one]}, {perMinute: 1}]}"
    first, second = decode_access(text, "f").limits.calls
    rate = Rate(count=600, seconds=60.0, burst=5)
    assert first == CallLimit(rate=rate, each=("caller", "tool"), tools=("a_*",), servers=("ns/one",))
    assert first.words == "at most 600 calls a minute for each caller and tool"
    assert second == CallLimit(rate=Rate(count=1, seconds=60.0, burst=1))
    assert (first.rate.fill, first.rate.retry_after) == ((1, 0.1), 1)
    assert (second.rate.fill, second.rate.retry_after) == ((1, 60.0), 60)
    assert Rate(count=60_000, seconds=60.0, burst=1).fill == (50, 0.05)


@pytest.mark.duty("limits.configured")
@pytest.mark.parametrize(
    ("limits", "remedy"),
    [
        ("7", "limits must hold keys and values, like"),
        ("{newSession: {}}", "unknown key 'newSession', did you mean 'newSessions'?"),
        ("{newSessions: 50}", "newSessions must hold keys and values"),
        ("{newSessions: {}}", "newSessions needs perSecond"),
        ("{newSessions: {perSecond: -1}}", "newSessions.perSecond must be a whole number from 0 to 1000000"),
        ("{newSessions: {perSecond: true}}", "must be a whole number"),
        ("{newSessions: {perSecond: 1, burst: 0}}", "newSessions.burst must be a whole number from 1"),
        ("{calls: {perMinute: 1}}", "calls must be a list of at most 16 limits"),
        ("{streams: 5}", "streams must hold keys and values, like {perCaller: 50}"),
        ("{streams: {}}", "streams.perCaller must be a whole number from 1"),
        ("{calls: [{each: [tool]}]}", "calls[0] needs perMinute"),
        ("{calls: [{perMinute: 1, each: tool}]}", "calls[0].each must be a list of texts"),
        ("{calls: [{perMinute: 1, each: [session]}]}", "'session' is none of caller, tool, server"),
        ("{calls: [{perMinute: 1, tools: [1]}]}", "calls[0].tools must be a list of texts"),
        (f"{{calls: [{{perMinute: 1, tools: ['{'x' * 101}']}}]}}", "at most 20 names, each of at most 100"),
        ("{service: {}}", "service.url: write where it is, like {url: http://HOST:8081"),
        (
            "{service: {url: 'rls:8081'}}",
            "service.url: 'rls:8081' cannot be used: write http://HOST:PORT, https://HOST:PORT or",
        ),
        ("{service: {url: 'http://h'}}", "service.url: 'http://h' cannot be used"),
        ("{service: {url: 'http://h:99999'}}", "cannot be used"),
        ("{service: {url: 'http://h:1/p?x=1'}}", "cannot be used"),
        ("{service: {url: 'http://u:p@h:1'}}", "cannot be used"),
        ("{service: {url: 'unix://limits.sock'}}", "cannot be used"),
        ("{service: {url: 'unix:limits.sock'}}", "cannot be used"),
        (f"{{service: {{url: 'unix:/{'x' * 107}'}}}}", "cannot be used"),
        ("{service: {url: 'http://h:1', caFile: /ca.pem}}", "service.caFile is for an https url"),
        ("{service: {url: 'http://h:1', failClosed: 1}}", "service.failClosed must be true or false"),
        ("{service: {url: 'http://h:1', timeout: 6s}}", "service.timeout must be above 0 and at most 5s"),
        ("{service: {url: 'http://h:1', timeout: '0'}}", "service.timeout must be above 0"),
        ("{service: {url: 'http://h:1', domain: ''}}", "service.domain: write the domain of its rules"),
        ("{service: {url: 'http://h:1', domains: x}}", "unknown key 'domains', did you mean 'domain'?"),
    ],
)
def test_mistakes(limits: str, remedy: str) -> None:
    for read in (decode_access, decode):
        with pytest.raises(ConfigurationError) as error:
            read(f"servers: []\nlimits: {limits}" if read is decode else f"limits: {limits}", "file.yaml")
        assert f":{1 + (read is decode)}: limits: " in error.value.problems[0]
        assert remedy in error.value.problems[0]


def test_an_access_document_has_no_servers() -> None:
    with pytest.raises(ConfigurationError, match="unknown key"):
        decode_access("servers: []", "f")
    with pytest.raises(ConfigurationError, match="the file is empty: write"):
        decode_access("", "f")


@pytest.mark.duty("limits.configured")
@given(st.integers(1, 1_000_000), st.sampled_from([1.0, 60.0]))
def test_the_rate_is_the_one_that_is_configured(count: int, seconds: float) -> None:
    tokens, interval = Rate(count=count, seconds=seconds, burst=1).fill
    assert interval >= 0.05
    assert tokens / interval == pytest.approx(count / seconds)


@pytest.mark.duty("limits.configured")
def test_globs_as_envoy_reads_them() -> None:
    rate = Rate(count=1, seconds=60.0, burst=1)

    def patterns(limit: CallLimit) -> list[str]:
        (config,) = (each["typed_config"] for each in of_calls((limit,)))
        matches = [action["header_value_match"] for action in config["rate_limits"][0]["actions"]]
        return [match["headers"][0]["string_match"]["safe_regex"]["regex"] for match in matches]

    tools, servers = patterns(CallLimit(rate=rate, tools=("a_*", "b.c", "*"), servers=("ns/*",)))
    assert re.fullmatch(servers, "ns/one/more")
    assert not re.fullmatch(servers, "other/one")
    assert re.fullmatch(tools, "x")
    (pattern,) = patterns(CallLimit(rate=rate, tools=("a_*", "b.c", "é%*")))
    names = ("a_x", "a_", "b.c", value_of("é%é"), "bxc", "ba_", "")
    assert [bool(re.fullmatch(pattern, name)) for name in names] == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.duty("limits.service")
def test_a_rate_limit_service() -> None:
    read = decode_access("limits: {service: {url: 'unix:/run/limits.sock', timeout: 20ms}}", "f").limits.service
    assert read == LimitService(url="unix:/run/limits.sock", timeout=0.02)
    assert decode_access("limits: {service: {url: 'https://h:1', caFile: /ca.pem, failClosed: true}}", "f").limits == Limits(
        service=LimitService(url="https://h:1", ca_file="/ca.pem", fails_closed=True)
    )


@pytest.mark.duty("limits.service")
def test_what_a_rate_limit_service_is_asked() -> None:
    """A caller is its subject, with its issuer where there are several, or an address."""

    def asked(authentication: Authentication | None) -> list[list[str]]:
        config = of_service(LimitService(url="http://h"), authentication)["typed_config"]
        return [[key_of(action) for action in each["actions"]] for each in config["rate_limits"]]

    def key_of(action: dict[str, Any]) -> str:
        ((kind, value),) = action.items()
        return str(value.get("descriptor_key", kind))

    address, tool = "masked_remote_address", ["server", "tool"]
    assert asked(None) == [[*tool, address], tool, ["server", address], ["server"], ["method", address], ["method"]]
    one, two = (Issuer(issuer=name, audiences=("a",), jwks_uri="https://h/keys") for name in "ab")
    assert asked(Authentication(issuers=(one,)))[0] == [*tool, "subject"]
    several = asked(Authentication(issuers=(one, two), required=False))
    assert several[6:] == [["method", "subject", "issuer"], ["method", "nobody", address], ["method"]]
