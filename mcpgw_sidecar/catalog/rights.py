"""What a caller may see and call: the rules that hold for it, and what these allow.

One evaluation serves lists, calls, prompts, resources and subscriptions, because all of them read
the view of the caller's scope. What no rule allows does not exist for the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mcpgw_sidecar.catalog.snapshot import Owned
from mcpgw_sidecar.model.access import Access, Allowed, Rule
from mcpgw_sidecar.model.kinds import TOOL, Kind
from mcpgw_sidecar.model.names import JsonText, ServerName, VirtualName

_AT_SPACES = frozenset({"scope", "scp"})
_NOTHING: Mapping[str, Any] = {}


def rules_of(access: Access, claims: Mapping[str, Any] | None) -> frozenset[Rule] | None:
    """The rules that hold for a caller; None where there are none at all, and all is allowed."""
    if access.rules is None:
        return None
    return frozenset(rule for rule in access.rules if allows(rule.allow, claims))


def allows(allowed: Allowed, claims: Mapping[str, Any] | None) -> bool:
    """Whether one of the alternatives holds: all its claims have one of their values."""
    found = claims if claims is not None else _NOTHING
    return any(all(values & _values(found, name) for name, values in each) for each in allowed)


def _values(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """The values of a claim: a text, or a list of texts; anything else holds nothing.

    A dotted name goes into objects, unless a claim has that very name.
    """
    value: Any = claims
    for step in [name] if name in claims else name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return frozenset(value.split()) if name in _AT_SPACES else frozenset({value})
    return frozenset(each for each in value if isinstance(each, str)) if isinstance(value, list) else frozenset()


def sees_server(rules: frozenset[Rule], virtual: VirtualName | None, server: ServerName) -> bool:
    """Whether some rule gives something of a server."""
    return any(is_about(rule, virtual, server) for rule in rules)


def reads(rules: frozenset[Rule], virtual: VirtualName | None, server: ServerName) -> bool:
    """Whether some rule gives all of a server, its resources included."""
    return any(not rule.tools and is_about(rule, virtual, server) for rule in rules)


def given_by(rules: frozenset[Rule], virtual: VirtualName | None) -> Callable[[Kind, Owned], bool]:
    """A function that says whether some rule gives an item. A rule with tools gives tools alone.

    What rules say of a server is found once: a server has many items.
    """
    of_servers: dict[ServerName, tuple[bool, tuple[str, ...]]] = {}

    def is_given(kind: Kind, item: Owned) -> bool:
        known = of_servers.get(item.server.name)
        if known is None:
            about = [rule for rule in rules if is_about(rule, virtual, item.server.name)]
            is_whole = any(not rule.tools for rule in about)
            known = of_servers[item.server.name] = is_whole, tuple(glob for rule in about for glob in rule.tools)
        is_whole, globs = known
        return is_whole or (bool(globs) and kind is TOOL and any_of(globs, _bare(item.upstream_key)))

    return is_given


def _bare(text: JsonText) -> str:
    """The name in a JSON text; thousands are read for each scope."""
    bare: str = json.loads(text) if "\\" in text else text[1:-1]
    return bare


def missing(allowed: Allowed, claims: Mapping[str, Any]) -> list[str]:
    """What a caller lacks, for each alternative, in words."""
    return [
        " and ".join(
            f"{name} has none of {', '.join(sorted(values))}" for name, values in each if not values & _values(claims, name)
        )
        for each in allowed
    ]


def is_about(rule: Rule, virtual: VirtualName | None, server: ServerName) -> bool:
    """Whether a rule counts at an endpoint, for a server."""
    if rule.virtual_servers and not (virtual is not None and any_of(rule.virtual_servers, virtual)):
        return False
    if rule.outside and server.partition("/")[0] in rule.outside:
        return False
    return not rule.servers or any_of(rule.servers, server)


def any_of(globs: tuple[str, ...], name: str) -> bool:
    """Whether one of the globs fits."""
    return any(fits(glob, name) for glob in globs)


def fits(glob: str, name: str) -> bool:
    """Whether a glob fits a whole name; `*` stands for any characters, and no other is special."""
    first, *rest = glob.split("*")
    if not rest:
        return glob == name
    last = rest.pop()
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in rest:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
