"""Objects of the API as frozen values with the fields that the sidecar uses. Wire types stop here.

The API server has validated the objects against their schemas, and this module relies on that. For
an object that no schema of ours or of the Gateway API lets through, `read` raises KeyError,
TypeError or ValueError, and the caller leaves the object out.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from mcpgw_sidecar.catalog.ruletext import read_rules as read_rules_of_access
from mcpgw_sidecar.model.access import Rule as AccessRule
from mcpgw_sidecar.model.servers import DISCOVERY
from mcpgw_sidecar.resources.kinds import (
    ACCESS_POLICY,
    CONTROLLER,
    GATEWAY_GROUP,
    GRANT,
    HTTP_ROUTE,
    MCP_SERVER,
    SECRET,
    SERVICE,
    VIRTUAL_SERVER,
)
from mcpgw_sidecar.resources.rules import Rule, Verdict, read_rules, read_verdicts

Raw = Mapping[str, Any]


@attrs.frozen(order=True)
class Ref:
    """Namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def ref_of(raw: Raw) -> Ref:
    """Namespace and name of an object."""
    return Ref(raw["metadata"].get("namespace", ""), raw["metadata"]["name"])


@attrs.frozen(kw_only=True)
class McpServer:
    """An MCPServer. `created` is the time as the API writes it, which sorts as text.

    Equality ignores `version` and `status`.
    """

    ref: Ref
    uid: str
    generation: int
    created: str
    prefix: str
    path: str
    group: str
    kind: str
    route: Ref
    credential: tuple[str, str] | None
    credential_header: str
    credential_use: str
    forwarded: object
    exchange: object
    version: str = attrs.field(eq=False)
    status: Raw = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class VirtualServerObject:
    """An MCPVirtualServer."""

    ref: Ref
    uid: str
    generation: int
    tools: tuple[str, ...]
    version: str = attrs.field(eq=False)
    status: Raw = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class PolicyObject:
    """An MCPAccessPolicy. With a `fault` it has no rules, and so it gives nothing."""

    ref: Ref
    uid: str
    generation: int
    rules: tuple[AccessRule, ...]
    fault: str | None
    version: str = attrs.field(eq=False)
    status: Raw = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class HttpRoute:
    """An HTTPRoute. `parent_refs` and `parents` (of its status) are as the API writes them.

    `verdicts` is what other controllers say of it. Equality ignores `version` and `parents`.
    """

    ref: Ref
    generation: int
    version: str = attrs.field(eq=False)
    hostnames: tuple[str, ...]
    rules: tuple[Rule, ...]
    parent_refs: tuple[Raw, ...]
    verdicts: tuple[Verdict, ...] = ()
    parents: tuple[Raw, ...] = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class Service:
    """A Service, with the port of its pods for each of its own.

    `https` has those of appProtocol https.

    A headless one has no address: its name stands for its pods, whose ports are called.
    """

    ref: Ref
    external_name: str | None
    headless: bool
    ports: Mapping[int, int | str]
    https: frozenset[int]


@attrs.frozen(kw_only=True)
class Grant:
    """A ReferenceGrant: each source may refer to each target.

    A source is group, kind and namespace, a target group, kind and name. A target without a name
    stands for all objects of its kind.
    """

    ref: Ref
    sources: frozenset[tuple[str, str, str]]
    targets: frozenset[tuple[str, str, str | None]]

    def allows(self, source: tuple[str, str, str], group: str, kind: str, name: str) -> bool:
        """Whether `source` may refer to the object of this group, kind and name."""
        matching_targets = {(group, kind, None), (group, kind, name)}
        return source in self.sources and not matching_targets.isdisjoint(self.targets)


@attrs.frozen(kw_only=True)
class Secret:
    """A labelled Secret; its values are in base64, as in the API."""

    ref: Ref
    values: Mapping[str, str] = attrs.field(repr=False)

    def text(self, key: str) -> str | None:
        """A value as text; None when it is missing or not UTF-8."""
        try:
            return base64.b64decode(self.values[key]).decode().strip()
        except (KeyError, ValueError):
            return None


WatchedObject = McpServer | VirtualServerObject | PolicyObject | HttpRoute | Service | Grant | Secret


def _mcp_server(raw: Raw) -> McpServer:
    meta, spec = raw["metadata"], raw["spec"]
    target, credential = spec["targetRef"], spec.get("credentialRef")
    ref = ref_of(raw)
    return McpServer(
        ref=ref,
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        created=meta.get("creationTimestamp", ""),
        prefix=spec.get("toolPrefix", ""),
        path=spec.get("path", "/mcp"),
        group=target.get("group", GATEWAY_GROUP),
        kind=target.get("kind", HTTP_ROUTE.name),
        route=Ref(target.get("namespace") or ref.namespace, target["name"]),
        credential=(credential["name"], credential.get("key", "token")) if credential else None,
        credential_header=spec.get("credentialHeader", "authorization"),
        credential_use=spec.get("credentialUse", DISCOVERY),
        forwarded=spec.get("forwardHeaders") or [],
        exchange=spec.get("tokenExchange"),
        version=meta["resourceVersion"],
        status=raw.get("status") or {},
    )


def _virtual_server(raw: Raw) -> VirtualServerObject:
    meta = raw["metadata"]
    return VirtualServerObject(
        ref=ref_of(raw),
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        tools=tuple(dict.fromkeys(map(str, raw["spec"]["tools"]))),
        version=meta["resourceVersion"],
        status=raw.get("status") or {},
    )


def _policy(raw: Raw) -> PolicyObject:
    meta, fault, rules = raw["metadata"], None, tuple[AccessRule, ...]()
    try:
        rules = read_rules_of_access((raw.get("spec") or {}).get("rules") or [])
    except ValueError as error:
        fault = f"spec.rules{error}"
    return PolicyObject(
        ref=ref_of(raw),
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        rules=rules,
        fault=fault,
        version=meta["resourceVersion"],
        status=raw.get("status") or {},
    )


def _http_route(raw: Raw) -> HttpRoute:
    meta, spec = raw["metadata"], raw.get("spec") or {}
    ref, parents = ref_of(raw), tuple((raw.get("status") or {}).get("parents") or ())
    return HttpRoute(
        ref=ref,
        generation=meta.get("generation", 0),
        version=meta["resourceVersion"],
        hostnames=tuple(spec.get("hostnames") or ()),
        rules=read_rules(spec, ref.namespace),
        parent_refs=tuple(spec.get("parentRefs") or ()),
        verdicts=read_verdicts(parents, ref.namespace, CONTROLLER),
        parents=parents,
    )


def _service(raw: Raw) -> Service:
    spec = raw.get("spec") or {}
    ports = spec.get("ports") or ()
    external = spec.get("externalName") if spec.get("type") == "ExternalName" else None
    https = frozenset(port["port"] for port in ports if str(port.get("appProtocol", "")).lower() == "https")
    return Service(
        ref=ref_of(raw),
        external_name=external,
        headless=spec.get("clusterIP") == "None",
        ports={port["port"]: port.get("targetPort") or port["port"] for port in ports},
        https=https,
    )


def _grant(raw: Raw) -> Grant:
    spec = raw["spec"]
    return Grant(
        ref=ref_of(raw),
        sources=frozenset((source["group"], source["kind"], source["namespace"]) for source in spec["from"]),
        targets=frozenset((target["group"], target["kind"], target.get("name") or None) for target in spec["to"]),
    )


def _secret(raw: Raw) -> Secret:
    return Secret(ref=ref_of(raw), values=raw.get("data") or {})


_READERS: Mapping[str, Callable[[Raw], WatchedObject]] = {
    MCP_SERVER.name: _mcp_server,
    VIRTUAL_SERVER.name: _virtual_server,
    ACCESS_POLICY.name: _policy,
    HTTP_ROUTE.name: _http_route,
    SERVICE.name: _service,
    GRANT.name: _grant,
    SECRET.name: _secret,
}


def read(kind: str, raw: Raw) -> WatchedObject:
    """An object of a watched kind as a value.

    Raises KeyError, TypeError, ValueError or AttributeError for an object that does not fit its
    schema.
    """
    return _READERS[kind](raw)
