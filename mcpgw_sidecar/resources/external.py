"""Which names outside of the cluster a Service of type ExternalName may stand for.

Whoever may write a Service must not reach through it what the gateway's pod or node can reach: the
loopback, a metadata service, a Service of another namespace. So names are allowed by the operator
(`--allow-external-names`), and some never are. The addresses of an allowed name are judged, too,
and those that were judged are used: a name may stand for others a moment later.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable

import attrs

ANY = "*"  # every name is allowed, but for those that never are
_HERE = frozenset(
    {"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "ip6-allrouters"}
)
_ATON = re.compile(r"(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+)){0,3}")
_IS_HERE = "is the gateway's own pod or node, where no MCP server is"
# IPv6 that carries an IPv4 address in its last bits: NAT64, and forms of old.
_CARRYING = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96")))
# Metadata services with addresses of other kinds: AWS and Google (IPv6), Alibaba, Oracle, Azure.
_METADATA = frozenset({"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"})
_NEVER = frozenset({"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"})


def refusal(host: str, allowed: Collection[str], domain: str) -> str | None:
    """Why a name (in lower case) is refused, with the remedy; None if it may be used.

    `allowed` are names and suffixes, `domain` is that of the cluster.
    """
    first = host.partition(".")[0]
    if first in _HERE or host.endswith((".localhost", ".localdomain")) or host in _NEVER:
        return _IS_HERE
    if host.endswith((".svc", f".svc.{domain}")):
        return "is a Service of the cluster: make it the backend, with a ReferenceGrant if it is in another namespace"
    fault = _address_fault(host)
    if fault is not None:
        return fault
    if not any(_covers(suffix, host) for suffix in allowed):
        return f"is outside of the cluster: start the sidecars with --allow-external-names {host} to allow it"
    return None


@attrs.frozen
class Resolved:
    """The addresses of a name that was allowed, or why it cannot be used."""

    addresses: tuple[str, ...] = ()
    fault: str | None = None


def judged(found: Iterable[str], before: Resolved | None = None) -> Resolved:
    """The verdict on what a name stands for now. One bad address is enough to refuse it.

    Some of the addresses of `before` are enough to stay with these, for some names stand for others
    at each look.
    """
    addresses = sorted(set(found))
    faults = (f"stands for {address}, which {fault}" for address in addresses if (fault := _address_fault(address)))
    fault = next(faults, None)
    if fault is not None or not addresses:
        return Resolved(fault=fault or "stands for no address")
    kept = [address for address in addresses if before is not None and address in before.addresses]
    return Resolved(tuple(kept or addresses))


def _address_fault(host: str) -> str | None:
    """What is wrong with an address; None for names, and addresses that are somewhere else.

    Resolvers read `127.1`, `0x7f000001` and `2130706433` as addresses, as inet_aton does.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _ATON.fullmatch(host):
            return None
        return "is an address in an unusual form: write it as four decimal numbers"
    if isinstance(address, ipaddress.IPv6Address):
        carries = any(address in network for network in _CARRYING)
        carried = address.ipv4_mapped or address.sixtofour or (_last(address) if carries else None)
        address = carried or address
    if (int(address) >> 24 == 0 and address.version == 4) or int(address) == 0xFFFFFFFF:  # noqa: PLR2004  # this network, all
        return _IS_HERE
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return _IS_HERE
    return _IS_HERE if str(address) in _METADATA else None


def _last(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _covers(suffix: str, host: str) -> bool:
    name = suffix.lower().removeprefix("*").strip(".")
    return suffix == ANY or host == name or host.endswith(f".{name}")
