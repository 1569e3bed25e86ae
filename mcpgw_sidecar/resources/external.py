"""Which names outside of the cluster a Service of type ExternalName may stand for.

Whoever may write a Service must not reach through it what the gateway's pod or node can reach: the
loopback, a metadata service, a Service of another namespace. So names are allowed by the operator
(`--allow-external-names`), and some never are.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

ANY = "*"  # every name is allowed, but for those that never are
_HERE = frozenset(
    {"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "ip6-allrouters"}
)
_ATON = re.compile(r"(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+)){0,3}")
_IS_HERE = "is the gateway's own pod or node, where no MCP server is"
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
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return _IS_HERE
    return None


def _covers(suffix: str, host: str) -> bool:
    name = suffix.lower().removeprefix("*").strip(".")
    return suffix == ANY or host == name or host.endswith(f".{name}")
