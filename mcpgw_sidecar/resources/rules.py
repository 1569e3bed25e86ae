"""An HTTPRoute as calls meet it: the rule that they take, its backends, what gateways say of it.

The rules of a route are those of the Gateway API (HTTPRouteRule): of the matches that fit a request
an exact path comes first, then the longest prefix, then one that names the method; of equal ones
the first. A match that also asks for headers or a query is only taken when there is no other: a
call's headers are the client's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

Raw = Mapping[str, Any]
Gateway = tuple[str, str]
"""Namespace and name of a Gateway."""

_METHOD = "POST"  # of every call
_PREFIX, _EXACT = "PathPrefix", "Exact"


@attrs.frozen(kw_only=True)
class Backend:
    """One backend of a rule; `weight` 0 means that it gets no call."""

    group: str
    kind: str
    name: str
    namespace: str
    port: int | None
    weight: int = 1


@attrs.frozen(kw_only=True)
class Match:
    """What a request must have. `more` says that headers or a query are asked for besides."""

    kind: str = _PREFIX
    path: str = "/"
    method: str | None = None
    more: bool = False

    def fits(self, path: str) -> bool:
        """Whether a call to this path may match."""
        if self.method not in {None, _METHOD}:
            return False
        if self.kind == _PREFIX:
            prefix = self.path.rstrip("/")
            return path == prefix or path.startswith(f"{prefix}/")
        if self.kind == _EXACT:
            return path == self.path
        try:
            return re.fullmatch(self.path, path) is not None
        except re.error:
            return True  # the gateway has another dialect: it may fit

    def rank(self) -> tuple[bool, bool, int, bool]:
        """What decides between two matches that fit: the greater one is taken."""
        return not self.more, self.kind == _EXACT, len(self.path) if self.kind == _PREFIX else 0, self.method is not None


@attrs.frozen(kw_only=True)
class Rule:
    """A rule of a route: its matches, of which one must fit, and its backends."""

    matches: tuple[Match, ...]
    backends: tuple[Backend, ...]


@attrs.frozen(kw_only=True)
class Verdict:
    """What a controller says of a route for one of its parents (`status.parents`)."""

    gateway: Gateway
    accepted: bool
    words: str


def rule_for(rules: tuple[Rule, ...], path: str) -> Rule | None:
    """The rule that calls to a path take; None when no rule fits."""
    fitting = [(match.rank(), rule) for rule in rules for match in rule.matches if match.fits(path.partition("?")[0])]
    return max(fitting, key=lambda each: each[0], default=(None, None))[1]


def read_rules(spec: Raw, namespace: str) -> tuple[Rule, ...]:
    """The rules in the spec of an HTTPRoute of a namespace."""
    return tuple(
        Rule(
            matches=tuple(map(_match, rule.get("matches") or ({},))),
            backends=tuple(_backend(backend, namespace) for backend in rule.get("backendRefs") or ()),
        )
        for rule in spec.get("rules") or ()
    )


def read_verdicts(parents: tuple[Raw, ...], namespace: str, ours: str) -> tuple[Verdict, ...]:
    """What other controllers than ours say of a route, by its `status.parents`.

    A controller that has not decided yet says nothing.
    """
    verdicts = []
    for parent in parents:
        accepted = next((each for each in parent.get("conditions") or () if each.get("type") == "Accepted"), None)
        if parent.get("controllerName") == ours or accepted is None or accepted.get("status") not in {"True", "False"}:
            continue
        gateway = gateway_of(parent.get("parentRef") or {}, namespace)
        words = f"{accepted.get('reason')}: {accepted.get('message')}"
        is_accepted = accepted["status"] == "True"
        verdicts.append(Verdict(gateway=gateway, accepted=is_accepted, words="" if is_accepted else words))
    return tuple(verdicts)


def gateway_of(parent_ref: Raw, namespace: str) -> Gateway:
    """The gateway that a route of a namespace names as its parent."""
    return str(parent_ref.get("namespace") or namespace), str(parent_ref.get("name", ""))


def _match(raw: Raw) -> Match:
    path = raw.get("path") or {}
    return Match(
        kind=path.get("type", _PREFIX),
        path=path.get("value", "/"),
        method=raw.get("method"),
        more=bool(raw.get("headers") or raw.get("queryParams")),
    )


def _backend(raw: Raw, namespace: str) -> Backend:
    return Backend(
        group=raw.get("group", ""),
        kind=raw.get("kind", "Service"),
        name=raw.get("name", ""),
        namespace=raw.get("namespace") or namespace,
        port=raw.get("port"),
        weight=raw.get("weight", 1),
    )
