"""What a tenant who may write a Service can have the gateway connect to."""

from __future__ import annotations

import socket

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.resources.external import ANY, Resolved, judged, refusal

HERE = "is the gateway's own pod or node, where no MCP server is"


@pytest.mark.duty("security.external-names")
@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "a.localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"),
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "169.254.169.254", "::1", "fe80::1", "metadata.google.internal"),
    ],
)
def test_what_is_the_pod_or_its_node_is_never_allowed(host: str) -> None:
    assert refusal(host, [ANY, host], "cluster.local") == HERE


@pytest.mark.duty("security.external-names")
@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "2852039166", "0xa9.254.0xa9fe", "10.1"]
)
def test_an_address_has_one_form(host: str) -> None:
    """Each of these ended Envoy, or read the credentials of the node."""
    assert "unusual form" in (refusal(host, [ANY], "cluster.local") or "")


@given(st.from_regex(r"[0-9a-fx]{1,10}(\.[0-9a-fx]{1,10}){0,3}", fullmatch=True))
def test_whatever_a_resolver_reads_as_an_address_is_one_here(host: str) -> None:
    try:
        packed = socket.inet_aton(host)
    except OSError:
        return
    if refusal(host, [ANY], "cluster.local") is None:
        assert socket.inet_ntoa(packed) == host


@pytest.mark.duty("security.external-names")
def test_a_service_of_the_cluster_needs_a_grant() -> None:
    for host in ("x.y.svc.cluster.local", "x.y.svc"):
        assert "ReferenceGrant" in (refusal(host, [ANY], "cluster.local") or "")


@pytest.mark.duty("security.external-names")
@pytest.mark.parametrize(
    ("allowed", "hosts", "refused"),
    [
        ((), (), ("example.com", "10.0.0.1")),
        (("example.com",), ("example.com", "a.b.example.com"), ("badexample.com", "example.com.evil.org")),
        ((".example.com", "*.example.org"), ("a.example.com", "a.example.org", "example.org"), ("example.net",)),
        (("10.0.0.1",), ("10.0.0.1",), ("10.0.0.2",)),
        ((ANY,), ("anything.example", "10.0.0.1"), ("127.0.0.1",)),
    ],
)
def test_the_operator_names_what_is_allowed(
    allowed: tuple[str, ...], hosts: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    assert [refusal(host, allowed, "cluster.local") for host in hosts] == [None] * len(hosts)
    assert all(refusal(host, allowed, "cluster.local") for host in refused)
    if not allowed:
        assert "--allow-external-names example.com" in (refusal("example.com", allowed, "cluster.local") or "")


@pytest.mark.duty("security.external-names")
@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "224.0.0.1",
            "100.100.100.200",
            "192.0.0.192",
        ),
        *("::1", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "::127.0.0.1"),
        *(
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::7f00:1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ),
    ],
)
def test_a_name_that_stands_for_the_pod_or_its_node(address: str) -> None:
    """A zone of the attacker's, or a second look (rebinding), led to loopback and metadata."""
    for found in ([address], ["198.51.100.7", address]):
        verdict = judged(found, Resolved(("198.51.100.7",)))
        assert verdict.addresses == ()
        assert verdict.fault is not None
        assert verdict.fault.endswith(HERE)


def test_what_a_name_stands_for() -> None:
    first = judged(["198.51.100.9", "198.51.100.7", "198.51.100.7"])
    assert first == Resolved(("198.51.100.7", "198.51.100.9"))
    assert judged(["198.51.100.9", "198.51.100.8"], first) == Resolved(("198.51.100.9",)), "one that stays is enough"
    assert judged(["198.51.100.8"], first) == Resolved(("198.51.100.8",))
    assert judged(["10.0.0.1", "2001:db8::1"]) == Resolved(("10.0.0.1", "2001:db8::1"))
    assert judged([]) == Resolved(fault="stands for no address")
