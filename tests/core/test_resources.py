from __future__ import annotations

import base64
from typing import Any

import pytest

from mcpgw_sidecar.config.decode import decode
from mcpgw_sidecar.envoy.clusters import clusters
from mcpgw_sidecar.envoy.settings import Endpoint, EnvoySettings
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.statuses import Conflict, Health, Invalid, ServerStatus
from mcpgw_sidecar.resources import leases
from mcpgw_sidecar.resources.conditions import (
    policy_status,
    ready_condition,
    ready_of,
    route_parents,
    server_status,
    virtual_status,
)
from mcpgw_sidecar.resources.configmap import render
from mcpgw_sidecar.resources.external import judged
from mcpgw_sidecar.resources.index import Index, policies_of
from mcpgw_sidecar.resources.kinds import (
    ACCESS_POLICY,
    CONTROLLER,
    GRANT,
    HTTP_ROUTE,
    MCP_SERVER,
    SECRET,
    SERVICE,
    VIRTUAL_SERVER,
    WATCHED,
    ResourceKind,
)
from mcpgw_sidecar.resources.lookup import Permissions
from mcpgw_sidecar.resources.objects import HttpRoute, McpServer, Ref, VirtualServerObject, read, ref_of
from mcpgw_sidecar.resources.resolve import Row
from mcpgw_sidecar.resources.secrets import is_allowed as allows

NS = "mcp-test"
NOW, LATER = "2026-11-24T12:00:00Z", "2026-11-24T13:00:00Z"


def meta(name: str, namespace: str = NS, created: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {
        "name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 3, "creationTimestamp": created,
        "resourceVersion": "7",
    }  # fmt: skip


def mcp(name: str = "s", route: str = "r", namespace: str = NS, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Any:
    target = {"name": route, **spec.pop("target", {})}
    raw = {"metadata": meta(name, namespace, created), "spec": {"targetRef": target, **spec}}
    return read(MCP_SERVER.name, raw)


def route(name: str = "r", namespace: str = NS, backend: Any = ..., hosts: Any = ("s.mcp.local",), **more: Any) -> Any:
    backend = {"name": "svc", "port": 9090} if backend is ... else backend
    rules = [] if backend is None else [{"backendRefs": [backend]}]
    spec = {"hostnames": list(hosts), "rules": rules, "parentRefs": [{"name": "gw"}], **more.pop("spec", {})}
    return read(HTTP_ROUTE.name, {"metadata": meta(name, namespace), "spec": spec, **more})


def service(name: str = "svc", namespace: str = NS, **spec: Any) -> Any:
    return read(SERVICE.name, {"metadata": meta(name, namespace), "spec": spec})


def grant(namespace: str, source: tuple[str, str, str], target: tuple[str, str], name: str | None = None) -> Any:
    to = {"group": target[0], "kind": target[1], **({"name": name} if name else {})}
    spec = {"from": [dict(zip(("group", "kind", "namespace"), source, strict=True))], "to": [to]}
    return read(GRANT.name, {"metadata": meta("g", namespace), "spec": spec})


def secret(name: str = "key", **values: str) -> Any:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return read(SECRET.name, {"metadata": meta(name), "data": data})


KINDS = {McpServer: MCP_SERVER, HttpRoute: HTTP_ROUTE, VirtualServerObject: VIRTUAL_SERVER}


def filled(
    *objects: Any,
    external_names: tuple[str, ...] = ("example.com",),
    secrets_in: tuple[str, ...] = (NS, "second"),
    token_urls: tuple[str, ...] = ("https://idp.example.com/token",),
) -> Index:
    index = Index(Permissions(external_names, secrets_in, token_urls))
    for obj in objects:
        index.apply(kind_of(obj), obj)
    for host in index.external_hosts():
        index.resolve_name(host, judged(["198.51.100.7"]))
    return index


def kind_of(obj: Any) -> str:
    names = {"McpServer": MCP_SERVER, "VirtualServerObject": VIRTUAL_SERVER, "HttpRoute": HTTP_ROUTE, "Service": SERVICE}
    kind: ResourceKind = (names | {"Grant": GRANT, "Secret": SECRET})[type(obj).__name__]
    return kind.name


def row(*objects: Any, name: str = "s") -> Row:
    index_row = filled(*objects).row(Ref(NS, name))
    assert index_row is not None
    return index_row


def server(*objects: Any) -> Server:
    value = row(*objects).server
    assert value is not None
    return value


def reason(*objects: Any) -> str:
    problem = row(*objects).problem
    assert problem is not None
    return problem.reason


def test_paths_of_the_api() -> None:
    assert MCP_SERVER.path() == "/apis/mcpgw.dev/v1alpha1/mcpservers"
    assert MCP_SERVER.path("ns", "x", "status") == "/apis/mcpgw.dev/v1alpha1/namespaces/ns/mcpservers/x/status"
    assert SECRET.path("ns") == "/api/v1/namespaces/ns/secrets"
    assert (SECRET.full_name, HTTP_ROUTE.full_name) == ("secrets", "httproutes.gateway.networking.k8s.io")
    assert len({kind.name for kind in WATCHED}) == len(WATCHED)


@pytest.mark.duty("kube.route-resolved")
def test_the_guides_server() -> None:
    server_row = server(mcp(toolPrefix="test_"), route(), service())
    assert server_row == Server(
        name=ServerName("mcp-test/r"),
        url="http://svc.mcp-test.svc.cluster.local:9090/mcp",
        hostname="s.mcp.local",
        tool_prefix="test_",
    )


@pytest.mark.duty("kube.route-resolved")
@pytest.mark.parametrize(
    ("objects", "url", "hostname"),
    [
        ((mcp(path="/v1/mcp"), route(), service()), "http://svc.mcp-test.svc.cluster.local:9090/v1/mcp", "s.mcp.local"),
        ((mcp(), route(backend={"name": "svc"}), service()), "http://svc.mcp-test.svc.cluster.local/mcp", "s.mcp.local"),
        (
            (mcp(), route(spec={"parentRefs": [{"name": "gw", "sectionName": "https-in"}]}), service()),
            "https://svc.mcp-test.svc.cluster.local:9090/mcp",
            "s.mcp.local",
        ),
        (
            (
                mcp(),
                route(backend={"name": "svc", "port": 443}, hosts=()),
                service(type="ExternalName", externalName="api.example.com."),
            ),
            "http://api.example.com:443/mcp",
            "api.example.com",
        ),
        (
            (
                mcp(),
                route(backend={"name": "svc", "port": 443}),
                service(type="ExternalName", externalName="api.example.com", ports=[{"port": 443, "appProtocol": "HTTPS"}]),
            ),
            "https://api.example.com:443/mcp",
            "api.example.com",
        ),
    ],
)
def test_urls(objects: tuple[Any, ...], url: str, hostname: str) -> None:
    server_row = server(*objects)
    assert (server_row.url, server_row.hostname) == (url, hostname)


@pytest.mark.duty("kube.ready-truth", "kube.grant")
@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ((mcp(target={"group": "example.com"}),), "InvalidTargetRef"),
        ((mcp(target={"kind": "Service"}),), "InvalidTargetRef"),
        ((mcp(target={"namespace": "other"}), route(namespace="other")), "RefNotPermitted"),
        ((mcp(),), "RouteNotFound"),
        ((mcp(), route(backend=None)), "NoBackend"),
        ((mcp(), route(spec={"rules": [{}]})), "NoBackend"),
        ((mcp(), route(backend={"name": ""})), "InvalidBackend"),
        ((mcp(), route(backend={"name": "b", "kind": "Bucket"})), "InvalidBackend"),
        ((mcp(), route(backend={"name": "b", "group": "example.com"})), "InvalidBackend"),
        ((mcp(), route(backend={"name": "svc", "namespace": "other"}), service(namespace="other")), "RefNotPermitted"),
        ((mcp(), route()), "ServiceNotFound"),
        ((mcp(), route(hosts=()), service()), "NoHostname"),
        ((mcp(), route(hosts=("*.mcp.local",)), service()), "NoHostname"),
        ((mcp(toolPrefix="-x"), route(), service()), "InvalidSpec"),
        ((mcp(path="/a#b"), route(), service()), "InvalidSpec"),
        ((mcp(path="mcp"), route(), service()), "InvalidSpec"),
        ((mcp(forwardHeaders=["host"]), route(), service()), "InvalidSpec"),
        ((mcp(route="r" * 250), route("r" * 250), service()), "InvalidSpec"),
        ((mcp(), route(hosts=("a..b",)), service()), "InvalidSpec"),
        ((mcp(), route(), service(type="ExternalName", externalName="x" * 64 + ".example.com")), "InvalidSpec"),
        *(
            (
                (
                    mcp(path="/quitquitquit"),
                    route(backend={"name": "svc", "port": 9901}),
                    service(type="ExternalName", externalName=name),
                ),
                "InvalidBackend",
            )
            for name in (
                "localhost",
                "Localhost.",
                "127.0.0.1",
                "api.example.org",
                "badexample.com",
                "svc.other.svc.cluster.local",
            )
        ),
    ],
)
def test_the_ladder(objects: tuple[Any, ...], expected: str) -> None:
    assert reason(*objects) == expected
    assert row(*objects).server is None


def verdict(status: str = "True", gateway: str = "gw", words: str = "NoMatchingParent: m") -> dict[str, Any]:
    why, _, message = words.partition(": ")
    accepted = {"type": "Accepted", "status": status, "reason": why, "message": message}
    return {"controllerName": "example.com/other", "parentRef": {"name": gateway}, "conditions": [accepted]}


def judged_route(*parents: dict[str, Any], **more: Any) -> Any:
    return route(status={"parents": list(parents)}, **more)


@pytest.mark.duty("kube.route-refused")
def test_what_a_gateway_says_of_a_route() -> None:
    refused = row(mcp(), judged_route(verdict("False")), service())
    assert refused.problem is not None
    assert (refused.server, refused.problem.reason) == (None, "RouteRefused")
    assert refused.problem.message.endswith("so that no call reaches the server: NoMatchingParent: m")
    assert server(mcp(), judged_route(verdict()), service())
    assert server(mcp(), judged_route(verdict("Unknown")), service())
    partly = row(mcp(), judged_route(verdict(), verdict("False", "second")), service())
    assert partly.problem is None
    assert partly.remarks == (f"Gateway {NS}/second refuses HTTPRoute {NS}/r: NoMatchingParent: m",)
    index = filled(mcp(), judged_route(verdict("False")), service())
    assert index.apply(HTTP_ROUTE.name, judged_route(verdict())) == {Ref(NS, "s")}, "a change of the status reaches it"
    assert index.servers() != ()


@pytest.mark.duty("kube.route-refused")
def test_a_route_that_nobody_has_judged_yet() -> None:
    """Only where a controller judges the routes of its gateway: a plain Envoy takes each."""
    other = read(
        HTTP_ROUTE.name,
        {"metadata": meta("other"), "spec": {"parentRefs": [{"name": "gw"}]}, "status": {"parents": [verdict()]}},
    )
    assert reason(other, mcp(), route(), service()) == "RoutePending"
    condition = server_status(row(other, mcp(), route(), service()), None, NOW)
    assert condition is not None
    assert ready_condition(condition)["status"] == "Unknown"
    assert server(other, mcp(), route(spec={"parentRefs": [{"name": "another"}]}), service())
    index = filled(other, mcp(), route(), service())
    index.delete(HTTP_ROUTE.name, Ref(NS, "other"))
    index.apply(HTTP_ROUTE.name, route(hosts=("t.mcp.local",)))
    assert index.servers() != ()


def rules(*each: tuple[dict[str, Any] | None, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "rules": [
            {**({"matches": [match]} if match is not None else {}), "backendRefs": [{"port": 80, **ref} for ref in refs]}
            for match, refs in each
        ]
    }


def prefix(path: str, **more: Any) -> dict[str, Any]:
    return {"path": {"type": "PathPrefix", "value": path}, **more}


@pytest.mark.duty("kube.backends")
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (rules((prefix("/other"), [{"name": "a"}]), (prefix("/mcp"), [{"name": "b"}])), "b"),
        (rules((prefix("/"), [{"name": "a"}]), (prefix("/mcp/"), [{"name": "b"}])), "b"),
        (rules((prefix("/mc"), [{"name": "a"}]), (None, [{"name": "b"}])), "b"),
        (rules((None, [{"name": "a"}]), ({"path": {"type": "Exact", "value": "/mcp"}}, [{"name": "b"}])), "b"),
        (rules(({"path": {"type": "Exact", "value": "/mcp/x"}}, [{"name": "a"}]), (None, [{"name": "b"}])), "b"),
        (rules(({"path": {"type": "RegularExpression", "value": "/m.p"}}, [{"name": "b"}])), "b"),
        (rules(({"path": {"type": "RegularExpression", "value": "(?<x"}}, [{"name": "b"}])), "b"),
        (rules((prefix("/mcp", method="GET"), [{"name": "a"}]), (prefix("/"), [{"name": "b"}])), "b"),
        (rules((prefix("/mcp"), [{"name": "a"}]), (prefix("/mcp", method="POST"), [{"name": "b"}])), "b"),
        (rules((prefix("/mcp", headers=[{"name": "x", "value": "y"}]), [{"name": "a"}]), (None, [{"name": "b"}])), "b"),
        (rules((None, [{"name": "a", "weight": 0}, {"name": "b", "weight": 5}])), "b"),
        # A plain Envoy of ours does not look at the matches.
        (rules((prefix("/other"), [{"name": "b"}])), "b"),
    ],
)
def test_the_rule_and_the_backend_that_calls_take(spec: dict[str, Any], expected: str) -> None:
    found = server(mcp(), route(spec=spec), service("a"), service("b"))
    assert found.url == f"http://{expected}.{NS}.svc.cluster.local:80/mcp"


@pytest.mark.duty("kube.backends", "kube.route-refused")
def test_routes_that_cannot_carry_a_call() -> None:
    other_path = judged_route(verdict(), spec=rules((prefix("/other"), [{"name": "svc"}])))
    found = row(mcp(), other_path, service())
    assert found.problem is not None
    assert found.problem.reason == "NoMatchingRule"
    assert "matches POST /mcp" in found.problem.message
    nobody = row(mcp(), route(spec=rules((None, [{"name": "svc", "weight": 0}]))), service())
    assert nobody.problem is not None
    assert "weight 0" in nobody.problem.message
    no_port = row(mcp(), route(), service(ports=[{"port": 80}, {"port": 443}]))
    assert no_port.problem is not None
    assert "has no port 9090: change it in HTTPRoute mcp-test/r to one of 80, 443" in no_port.problem.message


@pytest.mark.duty("kube.backends")
def test_remarks() -> None:
    two = rules((None, [{"name": "a"}, {"name": "b"}]))
    for made, words in ((route, "this gateway takes the first alone"), (judged_route, "name one Service")):
        parents = (verdict(),) if made is judged_route else ()
        found = row(mcp(), made(*parents, spec=two), service("a"), service("b"))
        assert found.server is not None
        assert found.remarks[0].startswith(f"HTTPRoute {NS}/r splits calls among the Services {NS}/a, {NS}/b")
        assert words in found.remarks[0]
    headless = {"clusterIP": "None", "ports": [{"port": 9090, "targetPort": 8000}]}
    assert server(mcp(), route(), service(**headless)).url.startswith(f"http://svc.{NS}.svc.cluster.local:8000/")
    named = row(mcp(), route(), service(clusterIP="None", ports=[{"port": 9090, "targetPort": "http"}]))
    assert "give targetPort http of its port 9090 as a number" in named.remarks[0]
    https = row(mcp(), route(spec={"parentRefs": [{"name": "gw", "sectionName": "https"}]}), service())
    assert "sectionName" in https.remarks[0]
    assert server(mcp(), route(hosts=("*.mcp.local", "s.mcp.local")), service()).hostname == "s.mcp.local"


@pytest.mark.duty("kube.grant")
def test_grants_on_both_hops() -> None:
    there = (mcp(target={"namespace": "other"}), route(namespace="other", backend={"name": "svc", "namespace": "third"}))
    to_route = grant("other", ("mcpgw.dev", "MCPServer", NS), ("gateway.networking.k8s.io", "HTTPRoute"))
    to_service = grant("third", ("gateway.networking.k8s.io", "HTTPRoute", "other"), ("", "Service"), "svc")
    assert server(*there, service(namespace="third"), to_route, to_service).name == "other/r"
    assert reason(*there, service(namespace="third"), to_route) == "RefNotPermitted"
    another = grant("third", ("gateway.networking.k8s.io", "HTTPRoute", "other"), ("", "Service"), "another")
    assert reason(*there, service(namespace="third"), to_route, another) == "RefNotPermitted"


@pytest.mark.duty("security.external-names")
def test_the_addresses_of_a_name_are_judged_and_are_those_that_are_used() -> None:
    index = Index(Permissions(("example.com",)))
    for each in (mcp(), route(), service(type="ExternalName", externalName="api.example.com")):
        index.apply(kind_of(each), each)
    ref = Ref(NS, "s")

    def problem() -> str:
        index_row = index.row(ref)
        assert index_row is not None
        return index_row.problem.message if index_row.problem is not None else ""

    assert "api.example.com is being resolved" in problem()
    assert index.resolve_name("api.example.com", judged(["198.51.100.7", "2001:db8::1"])) == {ref}
    assert not problem()
    assert index.servers()[0].addresses == ("198.51.100.7", "2001:db8::1")
    assert index.resolve_name("api.example.com", judged(["198.51.100.7", "2001:db8::1"])) == set()
    assert index.resolve_name("api.example.com", judged(["127.0.0.1"])) == {ref}
    assert "stands for 127.0.0.1, which is the gateway's own pod or node" in problem()
    assert index.servers() == ()
    index.delete(SERVICE.name, Ref(NS, "svc"))
    assert index.external_hosts() == set()
    index.forget_names(())
    assert index.resolved == {}


@pytest.mark.duty("kube.credential")
def test_credentials() -> None:
    base = (mcp(credentialRef={"name": "key"}), route(), service())
    assert server(*base, secret(token=" Bearer x\n")).credential == "Bearer x"
    for more in ((), (secret(other="x"),), (secret(token="a\nb"),)):
        assert reason(*base, *more) == "InvalidCredential"
        assert server(*base, *more).credential is None  # the server stays
    wrong = read(SECRET.name, {"metadata": meta("key"), "data": {"token": "/w=="}})
    assert reason(*base, wrong) == "InvalidCredential"
    index = filled(*base)
    assert index.trouble(SECRET.name, "forbidden") == {Ref(NS, "s")}
    index_row = index.row(Ref(NS, "s"))
    assert index_row is not None
    assert index_row.problem is not None
    assert "Secrets cannot be read (forbidden)" in index_row.problem.message
    assert index.trouble(SECRET.name, "forbidden") == set()
    assert index.trouble(SECRET.name, None) == {Ref(NS, "s")}


EXCHANGE = {"tokenUrl": "https://idp.example.com/token", "clientId": "g", "clientSecretRef": {"name": "key"}}


@pytest.mark.duty("kube.exchange")
def test_a_token_exchange_needs_the_operators_leave_and_its_secret() -> None:
    objects = (mcp(tokenExchange=EXCHANGE), route(), service(), secret(token=" s\n", grant="g", empty=""))
    found = server(*objects).token_exchange
    assert found is not None
    assert (found.client.token_url, found.client.client_secret) == ("https://idp.example.com/token", "s")
    assert "client_secret=" not in repr(found)
    assert not filled(*objects, token_urls=()).row(Ref(NS, "s")).server  # type: ignore[union-attr]
    ref = {"name": "key", "key": "grant"}
    jag = {
        **EXCHANGE,
        "profile": "id-jag",
        "audience": "https://as.example.com",
        "scope": "a: b #\N{GRINNING FACE}",
        "grant": {"tokenUrl": "https://as.example.com/token", "clientId": "c", "clientSecretRef": ref},
    }
    both = filled(
        mcp(tokenExchange=jag), *objects[1:], token_urls=("https://idp.example.com/", "https://as.example.com/token")
    )
    of_jag = both.row(Ref(NS, "s"))
    assert of_jag is not None
    assert of_jag.server is not None
    assert [client.client_secret for _, client in of_jag.server.token_exchange.clients] == ["s", "g"]  # type: ignore[union-attr]
    text = render((of_jag.server,), ())
    followed = decode(text, "x").servers[0].token_exchange
    assert followed is not None
    assert followed.mark == of_jag.server.token_exchange.mark  # type: ignore[union-attr]
    assert [client.client_secret for _, client in followed.clients] == [None, None]
    for wrong, expected in (
        ({"clientSecretFile": "/etc/passwd"}, "InvalidSpec"),
        ({"profile": "x"}, "InvalidSpec"),
        ({"clientSecretRef": {"name": "none"}}, "InvalidCredential"),
        ({"clientSecretRef": {"name": "key", "key": "none"}}, "InvalidCredential"),
        ({"clientSecretRef": {"name": "key", "key": "empty"}}, "InvalidCredential"),
        ({"tokenUrl": "https://evil.example.com/"}, "InvalidSpec"),
    ):
        assert reason(mcp(tokenExchange=EXCHANGE | wrong), *objects[1:]) == expected
    for more in ({"forwardHeaders": ["authorization"]}, {"credentialRef": {"name": "key"}, "credentialUse": "always"}):
        assert reason(mcp(tokenExchange=EXCHANGE, **more), *objects[1:]) == "InvalidSpec"
    assert "grant" not in render((server(*objects),), ())
    public = {key: value for key, value in EXCHANGE.items() if key != "clientSecretRef"}
    assert server(mcp(tokenExchange=public), *objects[1:]).token_exchange.client.client_secret is None  # type: ignore[union-attr]


@pytest.mark.duty("kube.exchange")
@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://idp.example.com/realms/a/token", True),
        ("https://idp.example.com/realms/a/../b/token", False),
        ("https://idp.example.com/realms/a/%2e%2e/b/token", False),
        ("https://idp.example.com/realms/a//token", False),
        ("https://idp.example.com/realms/b/token", False),
        ("https://idp.example.com.evil.example/realms/a/token", False),
        ("http://other.example/token", True),
        ("http://other.example/token/more", False),
    ],
)
def test_where_tokens_of_callers_may_go(url: str, *, is_allowed: bool) -> None:
    assert allows(url, ("https://idp.example.com/realms/a/", "http://other.example/token")) == is_allowed


@pytest.mark.duty("kube.credential", "access.credentials")
def test_where_a_credential_goes_and_when() -> None:
    spec = {"credentialRef": {"name": "key"}, "credentialHeader": "X-Api-Key", "credentialUse": "always"}
    found = server(mcp(**spec), route(), service(), secret(token="k"))
    assert (found.credential, found.credential_header, found.credential_use) == ("k", "x-api-key", "always")
    assert found.gives_credential
    assert not server(mcp(**spec), route(), service()).gives_credential, "there is none"
    assert reason(mcp(**(spec | {"credentialHeader": "Host"})), route(), service()) == "InvalidSpec"


@pytest.mark.duty("kube.credential")
def test_secrets_are_read_in_the_namespaces_that_are_named() -> None:
    base = (mcp(credentialRef={"name": "key"}), route(), service(), secret(token="Bearer x"))
    for named, is_read in (((), False), (("other",), False), ((NS,), True), (("*",), True)):
        index_row = filled(*base, secrets_in=named).row(Ref(NS, "s"))
        assert index_row is not None
        assert index_row.server is not None
        assert (index_row.server.credential == "Bearer x") == is_read
        assert is_read or (index_row.problem is not None and f"give --secrets-in {NS}" in index_row.problem.message)


@pytest.mark.duty("kube.credential")
def test_the_watches_of_two_namespaces_know_nothing_of_each_other() -> None:
    index = filled(mcp(credentialRef={"name": "key"}), route(), service(), secret(token="Bearer x"))
    assert index.reset(SECRET.name, [], "second") == set()
    assert index.trouble(SECRET.name, "forbidden", "second") == {Ref(NS, "s")}
    assert (index_row := index.row(Ref(NS, "s"))) is not None
    assert index_row.problem is None
    assert index.reset(SECRET.name, [], NS) == {Ref(NS, "s")}
    assert index.trouble(SECRET.name, "forbidden", NS) == {Ref(NS, "s")}
    assert (index_row := index.row(Ref(NS, "s"))) is not None
    assert index_row.problem is not None
    assert "Secrets cannot be read (forbidden)" in index_row.problem.message
    index.trouble(SECRET.name, None, NS)
    assert set(index.troubles) == {"Secret in second"}


def test_what_cannot_be_watched_may_be_there() -> None:
    index = filled(mcp())
    index.trouble(HTTP_ROUTE.name, "forbidden")
    index_row = index.row(Ref(NS, "s"))
    assert index_row is not None
    assert index_row.problem is not None
    assert index_row.problem.message.endswith("(or it is there, but: forbidden)")
    assert [(each.name, each.reason) for each in index.refused()] == [("mcp-test/s", "RouteNotFound")]


@pytest.mark.duty("kube.older-wins")
def test_the_older_one_keeps_the_route() -> None:
    old, new = mcp("z", created="2026-01-01T00:00:00Z"), mcp("a", created="2026-02-01T00:00:00Z")
    index = filled(new, route(), service(), old)
    younger = index.row(Ref(NS, "a"))
    assert younger is not None
    assert younger.problem is not None
    assert younger.problem.reason == "NameConflict"
    assert [each.found.ref.name for each in index.rows()] == ["z", "a"]
    assert len(index.servers()) == 1
    assert index.owner(ServerName("mcp-test/r")) == Ref(NS, "z")
    assert index.users(Ref(NS, "r")) == [Ref(NS, "z"), Ref(NS, "a")]
    assert index.delete(MCP_SERVER.name, Ref(NS, "z")) == {Ref(NS, "z"), Ref(NS, "a")}
    assert index.owner(ServerName("mcp-test/r")) == Ref(NS, "a")
    assert index.owner(ServerName("mcp-test/none")) is None
    assert index.row(Ref(NS, "z")) is None


def test_two_servers_with_one_host_name_are_told() -> None:
    index = filled(mcp("a", "ra"), route("ra"), service(), mcp("b", "rb"))
    assert index.apply(HTTP_ROUTE.name, route("rb")) == {Ref(NS, "a"), Ref(NS, "b")}
    index_row = index.row(Ref(NS, "a"))
    assert index_row is not None
    assert index_row.server is not None
    assert index_row.same_host == ("mcp-test/rb",)
    document = server_status(index_row, seen(index_row.server), NOW)
    assert document is not None
    assert "has one host name with mcp-test/rb" in document["conditions"][0]["message"]
    assert index.apply(HTTP_ROUTE.name, route("rb", hosts=("other",))) == {Ref(NS, "a"), Ref(NS, "b")}
    again = index.row(Ref(NS, "a"))
    assert again is not None
    assert again.same_host == ()


def test_only_what_depends_is_touched() -> None:
    index = filled(
        mcp("a", "ra"),
        mcp("b", "rb"),
        route("ra"),
        route("rb", backend={"name": "other"}, hosts=("rb",)),
        service(),
        service("other"),
    )
    assert index.apply(SERVICE.name, service("other")) == set()  # the same again
    assert index.apply(SERVICE.name, service("other", type="ExternalName", externalName="x")) == {Ref(NS, "b")}
    assert index.delete(SERVICE.name, Ref(NS, "svc")) == {Ref(NS, "a")}
    assert index.delete(SERVICE.name, Ref(NS, "svc")) == set()
    assert index.apply(SERVICE.name, service("nobody")) == set()
    granted = grant("elsewhere", ("g", "k", NS), ("", "Service"))
    assert index.apply(GRANT.name, granted) == set()
    assert index.reset(GRANT.name, []) == set()
    assert index.grants["elsewhere"] == {}
    assert index.reset(HTTP_ROUTE.name, [route("rb", backend={"name": "other"}, hosts=("rb",))]) == {Ref(NS, "a")}
    assert list(index.objects[HTTP_ROUTE.name]) == [Ref(NS, "rb")]


def test_objects_are_what_is_used_of_them() -> None:
    assert ref_of({"metadata": {"name": "x"}}) == Ref("", "x")
    assert str(Ref("a", "b")) == "a/b"
    virtual = read(VIRTUAL_SERVER.name, {"metadata": meta("v"), "spec": {"tools": ["b", "a", "b"]}})
    index = filled(virtual)
    assert [(row.name, row.tools) for row in index.virtual_servers()] == [("mcp-test/v", ("b", "a"))]
    for kind in (MCP_SERVER, VIRTUAL_SERVER, GRANT):
        with pytest.raises((KeyError, TypeError)):
            read(kind.name, {"metadata": meta("x"), "spec": {}})
    assert "Bearer" not in repr(secret(token="Bearer x"))


def seen(server: Server, **health: Any) -> ServerStatus:
    state = {"ready": True, "reason": "Ready", "message": "", "protocol_version": "2025-11-25", "tried": True}
    return ServerStatus(server=server, health=Health(**(state | health)), tools=4)


@pytest.mark.duty("kube.ready-truth")
def test_ready_is_the_truth_about_the_server() -> None:
    good = row(mcp(), route(), service())
    assert good.server is not None
    document = server_status(good, seen(good.server), NOW)
    assert document == {
        "discoveredTools": 4,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Ready",
                "message": "4 tools, protocol version 2025-11-25",
                "observedGeneration": 3,
                "lastTransitionTime": NOW,
            }
        ],
    }
    assert ready_of(document) == ("True", "Ready")
    assert ready_condition(document)["reason"] == "Ready"
    assert ready_of({}) is None
    down = server_status(good, seen(good.server, ready=False, reason="Unreachable", message="cannot be reached: no"), NOW)
    assert down is not None
    assert down["conditions"][0]["reason"] == "Unreachable"
    assert "check that the pods behind http://svc.mcp-test" in down["conditions"][0]["message"]
    refused = server_status(good, seen(good.server, ready=False, reason="Unauthorized", message="refused"), NOW)
    assert refused is not None
    assert refused["conditions"][0]["message"] == "MCP server refused"


@pytest.mark.duty("kube.ready-truth")
def test_what_is_left_out_is_named() -> None:
    good = row(mcp(), route(), service())
    assert good.server is not None
    clashes = tuple(Conflict(kind="tool", name=f"t{n}", owner=ServerName("ns/x")) for n in range(7))
    status = ServerStatus(
        server=good.server,
        health=seen(good.server).health,
        conflicts=clashes,
        invalid=(Invalid(kind="tool", name="", reason="bad"),),
    )
    document = server_status(good, status, NOW)
    assert document is not None
    message = document["conditions"][0]["message"]
    assert "tool t0 (owned by ns/x)" in message
    assert "and 2 more" in message
    assert "not usable: tool  (bad)" in message


def test_conditions_of_others_stay_theirs() -> None:
    good = row(mcp(), route(), service())
    assert good.server is not None
    theirs = {"type": "Accepted", "status": "True"}
    raw = {"metadata": meta("s"), "spec": {"targetRef": {"name": "r"}}, "status": {"conditions": [theirs]}}
    obj: Any = read(MCP_SERVER.name, raw)
    document = server_status(Row(found=obj, server=good.server, problem=None), seen(good.server), NOW)
    assert document is not None
    assert [each["type"] for each in document["conditions"]] == ["Accepted", "Ready"]


@pytest.mark.duty("kube.write-changes")
def test_a_status_is_written_only_when_it_differs() -> None:
    good = row(mcp(), route(), service())
    assert good.server is not None
    document = server_status(good, seen(good.server), NOW)
    assert document is not None
    raw = {"metadata": meta("s"), "spec": {"targetRef": {"name": "r"}}, "status": document}
    again = Row(found=read(MCP_SERVER.name, raw), server=good.server, problem=None)  # type: ignore[arg-type]
    assert server_status(again, seen(good.server), LATER) is None
    assert server_status(again, None, LATER) is None  # a process that has just started knows less than what is written
    assert server_status(again, seen(good.server, tried=False), LATER) is None
    other = server_status(again, seen(good.server, protocol_version="2025-06-18"), LATER)
    assert other is not None
    assert other["conditions"][0]["lastTransitionTime"] == NOW  # the status itself is the same
    down = server_status(again, seen(good.server, ready=False), LATER)
    assert down is not None
    assert down["conditions"][0]["lastTransitionTime"] == LATER
    pending = server_status(good, None, NOW)
    assert pending is not None
    assert (pending["conditions"][0]["status"], pending["discoveredTools"]) == ("Unknown", 0)
    broken = server_status(row(mcp()), None, NOW)
    assert broken is not None
    assert (broken["conditions"][0]["reason"], broken["discoveredTools"]) == ("RouteNotFound", 0)


@pytest.mark.duty("kube.virtual")
def test_status_of_a_virtual_server() -> None:
    obj: Any = read(VIRTUAL_SERVER.name, {"metadata": meta("v"), "spec": {"tools": ["a", "b"]}})
    document = virtual_status(obj, {"a", "b"}, NOW)
    assert document is not None
    assert document["conditions"][0]["message"] == "2 of 2 tools"
    raw = {"metadata": meta("v"), "spec": {"tools": ["a", "b"]}, "status": document}
    again: Any = read(VIRTUAL_SERVER.name, raw)
    assert virtual_status(again, {"a", "b"}, LATER) is None
    missing = virtual_status(again, {"a"}, LATER)
    assert missing is not None
    assert missing["conditions"][0]["reason"] == "ToolsNotFound"


@pytest.mark.duty("access.policies")
def test_policies_of_a_namespace() -> None:
    def policy(name: str, rules: Any, namespace: str = NS, **more: Any) -> Any:
        return read(ACCESS_POLICY.name, {"metadata": meta(name, namespace), "spec": {"rules": rules}, **more})

    good = policy("a", [{"servers": ["x"], "allow": [{"groups": ["g"]}]}])
    bad = policy("b", [{"allow": [{"groups": [1]}]}])
    other = policy("c", [], "other")
    index = Index()
    for each in (bad, other, good):
        index.apply(ACCESS_POLICY.name, each)
    assert [(each.namespace, len(each.rules)) for each in policies_of(index)] == [(NS, 1), ("other", 0)]
    shown = policy_status(good, NOW)
    assert shown is not None
    assert ready_condition(shown)["message"] == "1 rules"
    again = policy("a", [{"servers": ["x"], "allow": [{"groups": ["g"]}]}], status=shown)
    assert policy_status(again, LATER) is None
    refused = policy_status(bad, NOW)
    assert refused is not None
    condition = ready_condition(refused)
    assert (condition["status"], condition["reason"]) == ("False", "InvalidRules")
    assert condition["message"].startswith("gives nothing: spec.rules[0].allow[0].groups must be a text")


@pytest.mark.duty("kube.route-condition")
def test_what_is_said_at_a_route() -> None:
    theirs = {"controllerName": "example.com/x", "parentRef": {"name": "gw"}, "conditions": []}
    obj = route(status={"parents": [theirs]})
    parents = route_parents(obj, [Ref(NS, "s")], NOW)
    assert parents is not None
    assert parents[0] == theirs
    assert parents[1]["controllerName"] == CONTROLLER
    assert parents[1]["conditions"][0]["lastTransitionTime"] == NOW
    again = route(status={"parents": parents})
    assert route_parents(again, [Ref(NS, "s")], LATER) is None
    other = route_parents(again, [Ref(NS, "s"), Ref(NS, "t")], LATER)
    assert other is not None
    assert other[1]["conditions"][0]["lastTransitionTime"] == NOW
    assert route_parents(again, [], LATER) == [theirs]
    turned = route(status={"parents": list(reversed(parents))})
    assert route_parents(turned, [Ref(NS, "s")], LATER) is None  # another controller's order is no change
    many = [{"name": f"gw{n}"} for n in range(32)]
    full = route_parents(route(spec={"parentRefs": many}, status={"parents": [theirs] * 30}), [Ref(NS, "s")], NOW)
    assert full is not None
    assert len(full) == 32  # more the API would refuse
    assert route_parents(obj, [], LATER) is None


@pytest.mark.duty("kube.one-writer")
def test_who_holds_the_lease() -> None:
    watcher = leases.Observed("me")
    lease: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": "other"}}
    assert not watcher.may_take(lease, 100.0)
    assert not watcher.may_take(lease, 100.0 + leases.DURATION - 0.1)
    assert watcher.may_take(lease, 100.0 + leases.DURATION)  # it was not renewed
    lease["metadata"]["resourceVersion"] = "2"
    assert not watcher.may_take(lease, 200.0)  # it was
    mine = leases.taken(lease, "me", "now")
    assert (mine["spec"]["holderIdentity"], mine["spec"]["leaseTransitions"], mine["spec"]["acquireTime"]) == (
        "me",
        1,
        "now",
    )
    again = leases.taken(mine, "me", "later")
    assert (again["spec"]["leaseTransitions"], again["spec"]["acquireTime"], again["spec"]["renewTime"]) == (
        1,
        "now",
        "later",
    )
    assert watcher.may_take(again, 300.0)
    free = leases.released(again, "end")
    assert free["spec"]["holderIdentity"] == ""
    assert leases.Observed("third").may_take(free, 0.0)
    first = leases.taken({"metadata": {"resourceVersion": ""}}, "me", "now")
    assert first["spec"]["leaseTransitions"] == 0
    assert leases.DURATION + leases.LOOK + leases.RENEW <= 15.0  # the holder's death is noticed within 15 s


@pytest.mark.duty("security.external-names")
def test_envoy_gets_the_addresses_that_were_judged() -> None:
    settings = EnvoySettings(
        directory="/d", gateway=Endpoint(port=1), admin=Endpoint(path="/a"), broker=Endpoint(path="/b"), router=Endpoint(path="/r"),
        inner=None, max_body=1, call_timeout=1.0, discovery_timeout=1.0, refused="", heal="", messages="",
    )  # fmt: skip
    spec = {"type": "ExternalName", "externalName": "api.example.com", "ports": [{"port": 443, "appProtocol": "https"}]}
    external = server(mcp(), route(backend={"name": "svc", "port": 443}), service(**spec))
    (cluster,) = (each for each in clusters(settings, (external,)) if each["name"].startswith("mcp_server/"))
    assert cluster["type"] == "STATIC"
    (endpoints,) = (each["lb_endpoints"] for each in cluster["load_assignment"]["endpoints"])
    assert [each["endpoint"]["address"]["socket_address"] for each in endpoints] == [
        {"address": "198.51.100.7", "port_value": 443}
    ]
    assert cluster["transport_socket"]["typed_config"]["sni"] == "api.example.com"
