"""Who may call, and how much: the access document, or the same keys of a configuration file."""

from __future__ import annotations

import hashlib
import math
from typing import Final

import attrs

CALLER, TOOL, SERVER = "caller", "tool", "server"
EACH: Final = (CALLER, TOOL, SERVER)
"""What a limit may be counted by. A caller is a client address as long as nobody logs in."""

_LEAST_FILL = 0.05  # seconds: Envoy fills a bucket no more often


@attrs.frozen(kw_only=True)
class Rate:
    """At most `count` in `seconds`, evenly; after a silence up to `burst` at once."""

    count: int
    seconds: float
    burst: int

    @property
    def fill(self) -> tuple[int, float]:
        """How a token bucket is filled: tokens, and the seconds after which they come."""
        tokens = math.ceil(self.count * _LEAST_FILL / self.seconds)
        return tokens, tokens * self.seconds / self.count

    @property
    def retry_after(self) -> int:
        """Whole seconds after which there is room again."""
        return math.ceil(self.fill[1])


@attrs.frozen(kw_only=True)
class CallLimit:
    """A limit of calls of tools, counted apart for `each`; of the `tools` and `servers` named.

    Both are globs of whole names, as clients call a tool; without any they are all.
    """

    rate: Rate
    each: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What a client is told."""
        of_each = f" for each {' and '.join(self.each)}" if self.each else ""
        return f"at most {self.rate.count} calls a minute{of_each}"


SESSIONS: Final = Rate(count=50, seconds=1.0, burst=1000)
"""New sessions of one client address, unless the configuration says otherwise."""


@attrs.frozen(kw_only=True)
class LimitService:
    """A rate limit service that counts for several gateways (Envoy's protocol, rls.proto).

    `url` is its address: http, https, or unix with a path. While it does not answer within
    `timeout` seconds, calls go on, unless it `fails_closed`.
    """

    url: str
    domain: str = "mcpgw"
    timeout: float = 0.1
    ca_file: str | None = None
    fails_closed: bool = False


@attrs.frozen(kw_only=True)
class Limits:
    """The limits; `new_sessions` is None for none.

    `streams` are the notification streams that one caller may have open, None for no limit.
    """

    new_sessions: Rate | None = SESSIONS
    calls: tuple[CallLimit, ...] = ()
    streams: int | None = None
    service: LimitService | None = None


USUAL_LIMITS: Final = Limits()
"""What holds without any configuration."""


@attrs.frozen(kw_only=True)
class Issuer:
    """Who issues tokens. Its keys come from a URL or a file; `skew` is in seconds.

    A token has to have `issuer` as its `iss`, exactly, and one of the audiences. `subject` is the
    claim that names the caller.
    """

    issuer: str
    audiences: tuple[str, ...]
    jwks_uri: str | None = None
    jwks_file: str | None = None
    ca_file: str | None = None
    skew: float = 60.0
    subject: str = "sub"

    @property
    def mark(self) -> str:
        """A name for the issuer and the place of its keys, which no other issuer has."""
        text = repr((self.issuer, self.jwks_uri, self.jwks_file, self.ca_file))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@attrs.frozen(kw_only=True)
class KnownKeys:
    """The public keys of an issuer: their ids, and when one was withdrawn last (epoch seconds).

    `ids` is None when a key has no id, so that the id of a token does not tell its key.
    """

    ids: frozenset[str] | None
    withdrawn: float = -math.inf

    def signs(self, ident: str | None, issued: float, skew: float) -> bool:
        """Whether a token that Envoy knows may still be good: its key is there.

        `ident` is the id of its key, `issued` its `iat`. Without an id a token is good if it was
        issued after the last key had been withdrawn.
        """
        if ident is not None and self.ids is not None:
            return ident in self.ids
        return issued >= self.withdrawn - skew


@attrs.frozen(kw_only=True)
class Authentication:
    """How callers show who they are.

    `resource` is the URL that clients type, None for that of the request. Without `required`,
    callers without a token may call, too. Every token has to have all `scopes`. `by_istio`: a
    RequestAuthentication of Istio verifies the tokens, and has the keys.
    """

    issuers: tuple[Issuer, ...]
    resource: str | None = None
    required: bool = True
    scopes: tuple[str, ...] = ()
    by_istio: bool = False


Allowed = tuple[tuple[tuple[str, frozenset[str]], ...], ...]
"""Alternatives: in one of them each claim has one of these values; an empty one is everybody."""

EVERYBODY: Final[Allowed] = ((),)


@attrs.frozen(kw_only=True)
class Rule:
    """What callers may use: `allow` says which callers.

    The others are globs: of names of servers and virtual servers, and of tools as their servers
    have them; without any, all. A rule with `virtual_servers` counts at these endpoints alone, one
    with `tools` gives tools alone. It never counts for servers of the namespaces `outside`.
    """

    servers: tuple[str, ...] = ()
    virtual_servers: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    outside: frozenset[str] = frozenset()
    allow: Allowed

    @property
    def text(self) -> str:
        """The rule as a text that is the same in every process."""
        parts = self.servers, self.virtual_servers, self.tools, sorted(self.outside), allowed_text(self.allow)
        return repr(parts)


@attrs.frozen
class Policy:
    """The rules of a namespace, for its own servers and virtual servers (MCPAccessPolicy).

    The globs of its rules are of names without the namespace.
    """

    namespace: str
    rules: tuple[Rule, ...]


def allowed_text(allowed: Allowed | None) -> str:
    """Alternatives as a text that is the same in every process."""
    return repr(None if allowed is None else [[(name, sorted(values)) for name, values in each] for each in allowed])


@attrs.frozen(kw_only=True)
class Access:
    """The whole document.

    Without `authentication` nobody is asked who they are; without `rules` (None) whoever is known
    may use everything. Without `bare` the endpoint of the whole catalog is closed.
    """

    limits: Limits = USUAL_LIMITS
    authentication: Authentication | None = None
    rules: tuple[Rule, ...] | None = None
    bare: bool = True


OPEN: Final = Access()
"""What holds without a document."""


def with_policies(access: Access, policies: tuple[Policy, ...]) -> Access:
    """The access document, and what the policies of namespaces give besides.

    A document without rules allows everything, but in namespaces that have a policy.
    """
    if not policies:
        return access
    namespaces = frozenset(policy.namespace for policy in policies)
    rules = access.rules if access.rules is not None else (Rule(allow=EVERYBODY, outside=namespaces),)
    return attrs.evolve(access, rules=rules + tuple(_whole(rule, policy) for policy in policies for rule in policy.rules))


def _whole(rule: Rule, policy: Policy) -> Rule:
    """A rule of a policy with whole names."""
    servers = tuple(f"{policy.namespace}/{glob}" for glob in rule.servers or ("*",))
    virtual = tuple(f"{policy.namespace}/{glob}" for glob in rule.virtual_servers)
    return attrs.evolve(rule, servers=servers, virtual_servers=virtual)
