"""Laws of what is made of Kubernetes' objects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcpgw_sidecar.config.decode import decode
from mcpgw_sidecar.model.names import ServerName, VirtualName
from mcpgw_sidecar.model.servers import ForwardedHeader, Server, VirtualServer
from mcpgw_sidecar.resources.configmap import render
from mcpgw_sidecar.resources.index import Index
from mcpgw_sidecar.resources.kinds import GRANT, HTTP_ROUTE, MCP_SERVER, SECRET, SERVICE
from mcpgw_sidecar.resources.lookup import Permissions
from mcpgw_sidecar.resources.objects import Ref
from tests.core.test_resources import grant, mcp, route, secret, service

NAMES, SPACES = st.sampled_from(["a", "b", "c"]), st.sampled_from(["n1", "n2"])
GATEWAY = "gateway.networking.k8s.io"


class IncrementalIsWhole(RuleBasedStateMachine):
    """After changes in any order, the index equals an index that got the objects all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(Permissions(secrets_in="*"))
        self.known: dict[tuple[str, Ref], Any] = {}

    def put(self, kind: str, found: Any) -> None:
        self.known[kind, found.ref] = found
        before = {row.found.ref: row for row in self.index.rows()}
        changed = self.index.apply(kind, found)
        after = {row.found.ref: row for row in self.index.rows()}
        assert {ref for ref in before | after if before.get(ref) != after.get(ref)} <= changed

    @rule(name=NAMES, space=SPACES, to=NAMES, there=SPACES, age=st.sampled_from(["1", "2"]), keyed=st.booleans())
    def server(self, name: str, space: str, to: str, there: str, age: str, keyed: bool) -> None:
        spec: dict[str, Any] = {"credentialRef": {"name": "a"}} if keyed else {}
        self.put(MCP_SERVER.name, mcp(name, to, space, age, target={"namespace": there}, **spec))

    @rule(name=NAMES, space=SPACES, backend=NAMES, there=SPACES, hosts=st.sampled_from([(), ("h",), ("*.h",)]))
    def route(self, name: str, space: str, backend: str, there: str, hosts: tuple[str, ...]) -> None:
        self.put(HTTP_ROUTE.name, route(name, space, {"name": backend, "namespace": there}, hosts))

    @rule(name=NAMES, space=SPACES, external=st.sampled_from([None, "x.example"]))
    def service(self, name: str, space: str, external: str | None) -> None:
        spec = {"type": "ExternalName", "externalName": external} if external else {}
        self.put(SERVICE.name, service(name, space, **spec))

    @rule(space=SPACES, source=SPACES, routes=st.booleans())
    def grant(self, space: str, source: str, routes: bool) -> None:
        kinds = (("mcpgw.dev", "MCPServer"), (GATEWAY, "HTTPRoute")) if routes else ((GATEWAY, "HTTPRoute"), ("", "Service"))
        self.put(GRANT.name, grant(space, (*kinds[0], source), kinds[1]))

    @rule(value=st.sampled_from(["x", "a\nb"]))
    def secret(self, value: str) -> None:
        self.put(SECRET.name, secret("a", token=value))

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.known:
            kind, ref = data.draw(st.sampled_from(sorted(self.known)))
            del self.known[kind, ref]
            self.index.delete(kind, ref)

    @invariant()
    def whole(self) -> None:
        fresh = Index(Permissions(secrets_in="*"))
        for kind in {kind for kind, _ in self.known}:
            fresh.reset(kind, [obj for (of, _), obj in self.known.items() if of == kind])
        assert self.index.rows() == fresh.rows()
        assert self.index.servers() == fresh.servers()


TestIncrementalIsWhole = IncrementalIsWhole.TestCase
TestIncrementalIsWhole.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_SERVERS = st.builds(
    lambda space, name, prefix, path, forwarded: Server(
        name=ServerName(f"{space}/{name}"),
        url=f"http://{name}.{space}.svc.cluster.local:9090{path}",
        hostname=f"{name}.mcp.local",
        tool_prefix=prefix,
        forwarded=tuple(forwarded),
    ),
    _LABEL,
    _LABEL,
    st.from_regex(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})?", fullmatch=True),
    st.from_regex(r"/[!-\"$-~]{0,20}", fullmatch=True),
    st.sampled_from(
        [
            [],
            [ForwardedHeader("authorization", "authorization")],
            [ForwardedHeader("x-a", "authorization"), ForwardedHeader("yes", "yes", required=True)],
        ]
    ),
)
_VIRTUAL = st.builds(
    lambda space, name, tools: VirtualServer(name=VirtualName(f"{space}/{name}"), tools=tuple(dict.fromkeys(tools))),
    _LABEL,
    _LABEL,
    st.lists(
        st.text(min_size=1, max_size=12, alphabet=st.characters(exclude_categories=["Cs"]))
        | st.sampled_from(["http:", "a://b:", "x\x7f", "x\x85y", "yes", "1e5", "\u2028", "\ufeff", "-", "# x", "{"]),
        max_size=4,
    ),
)


@pytest.mark.duty("kube.configmap")
@given(
    st.lists(_SERVERS, max_size=5, unique_by=lambda s: s.name), st.lists(_VIRTUAL, max_size=3, unique_by=lambda v: v.name)
)
@settings(deadline=None)
def test_what_is_written_to_the_configmap_is_read_back(servers: list[Server], virtual: list[VirtualServer]) -> None:
    content = decode(render(tuple(servers), tuple(virtual)), "configmap")
    assert content.servers == tuple(servers)
    assert content.virtual_servers == tuple(virtual)
