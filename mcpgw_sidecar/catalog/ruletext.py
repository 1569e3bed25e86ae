"""Reads rules as users write them: `authorization`, `policies`, MCPAccessPolicy, `allow`."""

from __future__ import annotations

from typing import Any

from mcpgw_sidecar.model.access import Allowed, Policy, Rule
from mcpgw_sidecar.model.plain import mapping, text, texts

MAX_RULES = 1000
_FORM = "{servers: ['team-a/*'], tools: ['get_*'], allow: [{groups: [agents]}]}"
_ALLOW = "a list like [{groups: [agents, admins]}]; [{}] is everybody"


def read_rules(value: Any) -> tuple[Rule, ...]:  # noqa: ANN401  # whatever the file holds
    """The rules. Raises ValueError with the remedy."""
    if not isinstance(value, list) or len(value) > MAX_RULES:
        raise ValueError(f"must be a list of at most {MAX_RULES} rules, like [{_FORM}]")
    return tuple(_rule(each, f"[{index}]") for index, each in enumerate(value))


def read_policies(value: Any) -> tuple[Policy, ...]:  # noqa: ANN401
    """The rules of namespaces, by namespace. Raises ValueError with the remedy."""
    if not isinstance(value, dict) or not all(isinstance(each, str) and each for each in value):
        raise ValueError("must hold namespaces and their rules")  # one kind
    return tuple(Policy(namespace, read_rules(rules)) for namespace, rules in value.items())


def rules_document(rules: tuple[Rule, ...]) -> list[dict[str, Any]]:
    """Rules as `read_rules` takes them."""
    return [
        {
            key: value
            for key, value in (
                ("servers", list(rule.servers)),
                ("virtualServers", list(rule.virtual_servers)),
                ("tools", list(rule.tools)),
                ("allow", [{name: sorted(values) for name, values in each} for each in rule.allow]),
            )
            if value
        }
        for rule in rules
    ]


def read_allow(value: Any, place: str = "allow") -> Allowed:  # noqa: ANN401
    """The alternatives of claims. Raises ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place} must be {_ALLOW}")
    return tuple(_claims(each, f"{place}[{index}]") for index, each in enumerate(value))


def _rule(value: Any, place: str) -> Rule:  # noqa: ANN401
    given = mapping(value, place, ("servers", "virtualServers", "tools", "allow"), _FORM)
    if "allow" not in given:
        raise ValueError(f"{place} needs allow: {_ALLOW}")
    lists = {
        key: tuple(texts(given[key], f"{place}.{key}")) for key in ("servers", "virtualServers", "tools") if key in given
    }
    if empty := next((key for key, found in lists.items() if not found), None):
        raise ValueError(f"{place}.{empty} is empty: leave it out for all")
    return Rule(
        servers=lists.get("servers", ()),
        virtual_servers=lists.get("virtualServers", ()),
        tools=lists.get("tools", ()),
        allow=read_allow(given["allow"], f"{place}.allow"),
    )


def _claims(value: Any, place: str) -> tuple[tuple[str, frozenset[str]], ...]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise ValueError(f"{place} must hold claims and their values, like {{groups: [agents]}}")  # noqa: TRY004  # one kind
    return tuple(
        (text(name, place, "write names of claims"), _values(each, f"{place}.{name}")) for name, each in value.items()
    )


def _values(value: Any, place: str) -> frozenset[str]:  # noqa: ANN401
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(each, str) for each in values):
        raise ValueError(f"{place} must be a text, or a list of texts; write numbers in quotes")
    return frozenset(values)
