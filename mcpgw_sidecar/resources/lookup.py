"""What a resolution looks up, and what it says when something is missing or forbidden."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import attrs

from mcpgw_sidecar.resources import external
from mcpgw_sidecar.resources.kinds import EVERYWHERE, GRANT
from mcpgw_sidecar.resources.objects import Grant, HttpRoute, Ref, Secret, Service
from mcpgw_sidecar.resources.rules import Gateway


@attrs.frozen(kw_only=True)
class Problem:
    """Why an MCPServer has no server, or its server lacks something, for the Ready condition."""

    reason: str
    message: str


@attrs.frozen
class Permissions:
    """What the operator lets an MCPServer name.

    These are names outside of the cluster (--allow-external-names), Secrets of these namespaces
    (--secrets-in), and URLs that get callers' tokens (--allow-token-urls; what ends in / stands for
    all below).
    """

    external_names: Collection[str] = ()
    secrets_in: Collection[str] = ()
    token_urls: Collection[str] = ()

    def reads_secrets(self, namespace: str) -> bool:
        """Whether the Secrets of a namespace are watched."""
        return bool({EVERYWHERE, namespace} & set(self.secrets_in))


NOTHING = Permissions()

Dependency = tuple[str, str, str]
"""Kind, namespace and name of an object that a resolution looked up, whether it exists or not.

All grants of a namespace are one dependency, without a name.
"""


class Lookup(Protocol):
    """Looks objects up; None for one that does not exist.

    Each object that was looked up is a dependency.
    """

    def route(self, ref: Ref) -> HttpRoute | None:
        """An HTTPRoute."""

    def service(self, ref: Ref) -> Service | None:
        """A Service."""

    def secret(self, ref: Ref) -> Secret | None:
        """A labelled Secret."""

    def grants(self, namespace: str) -> Iterable[Grant]:
        """The ReferenceGrants of a namespace."""

    def troubles(self) -> Mapping[str, str]:
        """The kinds that cannot be watched, each with the reason."""

    def allowed(self) -> Permissions:
        """What an MCPServer may name."""

    def is_judged(self, gateways: Iterable[Gateway]) -> bool:
        """Whether a controller judges the routes of one of these gateways."""

    def resolved(self, host: str) -> external.Resolved | None:
        """What a name outside of the cluster stands for; None as long as nobody has looked."""


def is_permitted(source: tuple[str, str, str], target: Ref, group: str, kind: str, lookup: Lookup) -> bool:
    """Whether an object may refer to one of another namespace.

    `source` is group, kind and namespace of the object.
    """
    if source[2] == target.namespace:
        return True
    return any(grant.allows(source, group, kind, target.name) for grant in lookup.grants(target.namespace))


def absence(reason: str, message: str, kind: str, lookup: Lookup) -> Problem:
    """The problem of an object that the index does not have.

    The message says when its kind cannot be watched.
    """
    trouble = lookup.troubles().get(kind)
    return Problem(reason=reason, message=message if trouble is None else f"{message} (or it is there, but: {trouble})")


def no_grant(source: tuple[str, str, str], target: Ref, group: str, kind: str, lookup: Lookup) -> Problem:
    """The problem of a reference that is not permitted."""
    message = (
        f"reference to {kind} {target} is not permitted: create a ReferenceGrant in {target.namespace} "
        f"from {source[1]} ({source[0]}) in {source[2]} to {kind} ({group or 'core'})"
    )
    return absence("RefNotPermitted", message, GRANT.name, lookup)
