"""The access document as it is read, and who calls by the claims of a token."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import attrs
import pytest

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.items import Item, read_item
from mcpgw_sidecar.catalog.offers import Discovered
from mcpgw_sidecar.catalog.rights import missing, rules_of, sees_server
from mcpgw_sidecar.catalog.ruletext import read_policies, rules_document
from mcpgw_sidecar.config.decode import decode, decode_access
from mcpgw_sidecar.envoy.credentials import secret
from mcpgw_sidecar.envoy.entries import Audience
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.inbound.callers import Caller, caller_of, challenge, metadata
from mcpgw_sidecar.inbound.classify import Inbound, classify
from mcpgw_sidecar.inbound.guard import LOOPBACK, Guard
from mcpgw_sidecar.model.access import Access, Authentication, Issuer, KnownKeys, Policy, Rule, with_policies
from mcpgw_sidecar.model.decisions import HttpRequest, Reject
from mcpgw_sidecar.model.kinds import TOOL
from mcpgw_sidecar.model.names import JsonText, ServerName, VirtualName
from mcpgw_sidecar.model.servers import Desired, Server, VirtualServer
from mcpgw_sidecar.model.sessions import Session, SessionState
from mcpgw_sidecar.resources.configmap import render
from mcpgw_sidecar.sessions.tokens import parse_keys

IDP = Issuer(issuer="https://idp", audiences=("https://gw/mcp",), jwks_uri="https://idp/keys")
LOGIN = Authentication(issuers=(IDP,), resource="https://gw/mcp")


@pytest.mark.duty("access.login")
def test_the_keys_of_authentication() -> None:
    text = """
authentication:
  resource: https://gw/mcp
  required: false
  scopes: [mcp, "read:all"]
  issuers:
    - {issuer: https://idp, jwksUri: https://idp/keys}
    - {issuer: other, audiences: [a, b], jwksFile: keys.json, clockSkew: 5s, subject: client_id}
"""
    access = decode_access(text, "f")
    other = Issuer(issuer="other", audiences=("a", "b"), jwks_file="keys.json", skew=5.0, subject="client_id")
    wanted = Authentication(issuers=(IDP, other), resource="https://gw/mcp", required=False, scopes=("mcp", "read:all"))
    assert access.authentication == wanted
    assert decode(f"servers: []\n{text}", "f").access == access
    assert (access.rules, access.bare) == (None, True)
    assert not decode_access("endpoint: {bare: false}", "f").bare
    with pytest.raises(ConfigurationError, match="endpoint: must hold keys and values"):
        decode_access("endpoint: null", "f")


@pytest.mark.duty("access.login", "access.rules")
@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("authentication: {}", "issuers must be a list of 1 to 16 issuers"),
        ("authentication: []", "authentication must hold keys and values"),
        ("authentication: {issuer: x}", "unknown key 'issuer', did you mean 'issuers'?"),
        (
            "authentication: {issuers: [{issuer: x, jwksUri: 'https://k'}]}",
            "give audiences, or resource, the URL that clients",
        ),
        ("authentication: {issuers: [{issuer: x, audiences: [a]}]}", "give jwksUri or jwksFile"),
        ("authentication: {issuers: [{issuer: x, audiences: [a], jwksUri: 'ftp://k'}]}", "write http:// or https://"),
        ("authentication: {issuers: [{issuer: x, audiences: [a], jwksUri: 'http://['}]}", "write http:// or https://"),
        (
            "authentication: {issuers: [{issuer: x, audiences: [a], jwksUri: 'http://k', caFile: c}]}",
            "caFile is for an https",
        ),
        ("authentication: {issuers: [{audiences: [a], jwksFile: k}]}", "write the issuer exactly"),
        ("authentication: {issuers: [{issuer: x, audiences: [a], jwksFile: k, clockSkew: 1h}]}", "at most 600s"),
        ("authentication: {issuers: [{issuer: x, audiences: [a], jwksFile: k, clockSkew: x}]}", "is not a duration"),
        (
            "authentication: {required: 1, issuers: [{issuer: x, audiences: [a], jwksFile: k}]}",
            "required must be true or false",
        ),
        (f"authentication: {{issuers: [{', '.join(['{issuer: x, audiences: [a], jwksFile: k}'] * 2)}]}}", "is there twice"),
        ("authentication: {scopes: ['a b'], issuers: [{issuer: x, audiences: [a], jwksFile: k}]}", "'a b' is no scope"),
        (
            'authentication: {scopes: ["a\\nb"], issuers: [{issuer: x, audiences: [a], jwksFile: k}]}',
            "must be a list of texts",
        ),
        *(
            (
                f"authentication: {{issuers: [{{issuer: x, audiences: [a], jwksFile: k, subject: '{name}'}}]}}",
                "letters, digits",
            )
            for name in ("user.id", "https://x/y", "a)%b")
        ),
        *(
            (f"authentication: {{resource: '{url}', issuers: [{{issuer: x, jwksFile: k}}]}}", "write http:// or https://")
            for url in ("http://[fe80::1%25eth0]/mcp", "http://user:pw@h/mcp")
        ),
        ("authorization: {}", "must be a list of at most 1000 rules"),
        ("authorization: [{tools: [a]}]", "[0] needs allow"),
        ("authorization: [{tools: [], allow: [{}]}]", "[0].tools is empty: leave it out for all"),
        ("authorization: [{allow: []}]", "[0].allow must be a list like"),
        ("authorization: [{allow: [groups]}]", "[0].allow[0] must hold claims and their values"),
        ("authorization: [{allow: [{groups: [1]}]}]", "[0].allow[0].groups must be a text, or a list of texts"),
        ("authorization: [{allow: [{groups: []}]}]", "[0].allow[0].groups must be a text, or a list of texts"),
        ("endpoint: {bear: true}", "unknown key"),
    ],
)
def test_mistakes(text: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        decode_access(text, "f")
    assert remedy in error.value.problems[0]


@pytest.mark.duty("access.rules")
def test_the_keys_of_rules() -> None:
    text = "authorization: [{servers: ['a/*'], tools: [x], allow: [{groups: [g, h], sub: s}, {}]}, {virtualServers: [v], allow: [{}]}]"
    first, second = decode_access(text, "f").rules or ()
    allow = ((("groups", frozenset({"g", "h"})), ("sub", frozenset({"s"}))), ())
    assert first == Rule(servers=("a/*",), tools=("x",), allow=allow)
    assert second == Rule(virtual_servers=("v",), allow=((),))
    assert first.text != second.text
    virtual = "{servers: [], virtualServers: [{name: v, tools: [x], allow: [{groups: g}]}]}"
    (definition,) = decode(virtual, "f").virtual_servers
    assert definition.allow == ((("groups", frozenset({"g"})),),)


def claims(**given: Any) -> dict[str, str]:
    text = base64.urlsafe_b64encode(json.dumps({"iss": "https://idp", "sub": "alice"} | given).encode()).decode()
    return {"x-mcp-claims": text.rstrip("="), ":path": "/mcp?x=1", "authorization": bearer()}


def bearer(**header: Any) -> str:
    """A token, of whose parts the first one alone is read here."""
    return f"Bearer {base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip('=')}.x.y"


@pytest.mark.duty("access.login")
def test_who_calls() -> None:
    caller = caller_of(claims(), LOGIN)
    assert isinstance(caller, Caller)
    assert (caller.issuer, caller.subject) == ("https://idp", "alice")
    others = [
        caller_of(claims(sub="bob"), LOGIN),
        caller_of(claims(sub="alice", iss="x"), Authentication(issuers=(IDP, other_issuer()))),
    ]
    assert len({caller.owner, *(each.owner for each in others if isinstance(each, Caller))}) == 3
    assert caller_of({}, None) is None
    assert caller_of({}, Authentication(issuers=(IDP,), required=False)) is None


def other_issuer() -> Issuer:
    return Issuer(issuer="x", audiences=("a",), jwks_file="k")


@pytest.mark.duty("access.login")
@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({}, 401, ""),
        ({"x-mcp-claims": "%"}, 401, "invalid_token"),
        ({"x-mcp-claims": "AAAA"}, 401, "invalid_token"),
        ({"x-mcp-claims": base64.urlsafe_b64encode(b"[]").decode()}, 401, "invalid_token"),
        (claims(iss="https://idp/"), 401, "invalid_token"),
        (claims(sub=None), 401, "invalid_token"),
        (claims(sub=""), 401, "invalid_token"),
        (claims(sub=" alice"), 401, "invalid_token"),
        (claims(sub="a\nb"), 401, "invalid_token"),
        (claims() | {"authorization": f"Basic x, {bearer()}"}, 401, "invalid_token"),
        (claims(scope="read"), 403, "insufficient_scope"),
        (claims(scp=["mc", 1]), 403, "insufficient_scope"),
    ],
)
def test_who_does_not(headers: dict[str, str], status: int, error: str) -> None:
    login = Authentication(issuers=(IDP,), resource="https://gw/mcp", scopes=("mcp",))
    refused = caller_of(headers, login)
    assert isinstance(refused, Reject)
    assert (refused.status, refused.code) == (status, -32001)
    assert (error in refused.challenge) if error else ("error" not in refused.challenge)
    for good in (claims(scope="x mcp"), claims(scp="mcp"), claims(scp=["mcp"])):
        assert isinstance(caller_of(good, login), Caller)


@pytest.mark.duty("access.keys")
@pytest.mark.parametrize(
    ("known", "header", "issued", "good"),
    [
        (None, {}, None, True),
        (KnownKeys(ids=frozenset({"k1"})), {"kid": "k1"}, None, True),
        (KnownKeys(ids=frozenset({"k1"})), {"kid": "k2"}, None, False),
        (KnownKeys(ids=frozenset({"k1"})), {"kid": 7}, None, True),
        (KnownKeys(ids=frozenset({"k1"})), {}, 5, True),
        (KnownKeys(ids=frozenset({"k1"}), withdrawn=1000.0), {}, 939, False),
        (KnownKeys(ids=frozenset({"k1"}), withdrawn=1000.0), {}, 941, True),
        (KnownKeys(ids=frozenset({"k1"}), withdrawn=1000.0), {}, None, True),
        (KnownKeys(ids=None, withdrawn=1000.0), {"kid": "k1"}, 5, False),
    ],
)
def test_a_token_whose_key_was_withdrawn(known: Any, header: Any, issued: Any, good: bool) -> None:
    """Envoy knows a token that it has verified for as long as the token lives."""
    given = claims(**({} if issued is None else {"iat": issued})) | {"authorization": bearer(**header)}
    caller = caller_of(given, LOGIN, lambda _issuer: known)
    assert isinstance(caller, Caller if good else Reject)
    odd = given | {"authorization": "Bearer W10.x.y"}
    assert isinstance(caller_of(odd, LOGIN, lambda _issuer: known), Caller if known is None else Reject)


@pytest.mark.duty("access.login")
def test_until_when_a_token_is_good() -> None:
    for expires, until in ((100, 160.0), ("x", math.inf)):
        caller = caller_of(claims(exp=expires), LOGIN)
        assert isinstance(caller, Caller)
        assert caller.until == until
    large = caller_of(claims(groups=["g" * 5000]), LOGIN)
    assert isinstance(large, Caller), "claims that are too large to be kept are read"


@pytest.mark.duty("access.metadata")
def test_the_metadata_and_the_challenge_without_a_resource() -> None:
    login = Authentication(issuers=(IDP,))
    headers = {":path": "/mcp/ns/v?x", ":authority": "h:1", "x-forwarded-proto": "https"}
    assert (
        challenge(headers, login) == 'Bearer resource_metadata="https://h:1/.well-known/oauth-protected-resource/mcp/ns/v"'
    )
    assert challenge({":authority": "h"}, login).startswith('Bearer resource_metadata="http://h/.well-known/')
    well_known = headers | {":path": "/.well-known/oauth-protected-resource/mcp/ns/v"}
    assert metadata(well_known, login)["resource"] == "https://h:1/mcp/ns/v"
    assert metadata(well_known, LOGIN)["resource"] == "https://gw/mcp/ns/v"
    assert metadata({":path": "/.well-known/oauth-protected-resource"}, LOGIN)["resource"] == "https://gw/mcp"


RULES = (
    Rule(servers=("ns/*",), tools=("*re*t",), allow=((("groups", frozenset({"g"})),),)),
    Rule(virtual_servers=("v",), allow=((),)),
)
OWN = VirtualServer(name=VirtualName("v"), tools=("a_greet",), allow=((("groups", frozenset({"boss"})),),))
ONE = Server(name=ServerName("ns/one"), url="http://h/mcp", hostname="h", tool_prefix="a_")
GREET = read_item(TOOL, '{"name":"greet","inputSchema":{"type":"object"}}')
SESSION = Session(
    key="k", expires=1000, protocol_version="2025-11-25", client_info=JsonText("{}"), capabilities=JsonText("{}")
)
KEYS = parse_keys("k" * 40, "f")


def climbed(headers: dict[str, str], access: Access, path: str = "/mcp", owner: str = "") -> Inbound | Reject:
    assert isinstance(GREET, Item)
    catalog = federate((ONE,), {ONE.name: Discovered({"tool": (GREET,)})}, (OWN,), access).snapshot
    sent = {":method": "POST", ":authority": "localhost", "content-type": "application/json", **headers, ":path": path}
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    state = SessionState(session=attrs.evolve(SESSION, owner=owner), upstreams={})
    return classify(HttpRequest(headers=sent, body=body), state, catalog, Guard(hosts=LOOPBACK))


@pytest.mark.duty("access.owner", "access.rules")
def test_the_ladder_knows_the_caller() -> None:
    access = Access(authentication=LOGIN, rules=RULES)
    caller = caller_of(claims(groups=["g"]), LOGIN)
    assert isinstance(caller, Caller)
    inbound = climbed(claims(groups=["g"]), access, owner=caller.owner)
    assert isinstance(inbound, Inbound)
    assert inbound.caller == caller
    assert list(inbound.view.of(TOOL).owned) == ["a_greet"]
    for refused, status in (
        (climbed({}, access), 401),
        (climbed(claims(), access, owner="another"), 404),
        (climbed(claims(), Access(authentication=LOGIN), owner=""), 404),
        (climbed(claims(groups="g"), access, "/mcp/v", caller.owner), 404),
        (closed := climbed({}, Access(bare=False)), 404),
        (climbed({}, Access(), owner=caller.owner), 404),
        (climbed({"authorization": "Basic x, Bearer y"}, Access()), 400),
    ):
        assert isinstance(refused, Reject)
        assert refused.status == status
    own = climbed(claims(groups=["boss"]), access, "/mcp/v", caller.owner)
    assert isinstance(own, Inbound)
    assert list(own.view.of(TOOL).owned) == ["a_greet"]
    assert isinstance(closed, Reject)
    assert closed.message == "Not found: this gateway serves virtual servers alone, at /mcp/NAMESPACE/NAME"


@pytest.mark.duty("access.policies")
def test_the_policies_of_namespaces() -> None:
    """They close their own namespace and no other; what a document gives counts besides."""
    agents: Any = ((("groups", frozenset({"g"})),),)
    policy = Policy("ns", (Rule(servers=("one",), allow=agents), Rule(virtual_servers=("v",), allow=((),))))

    def seen(access: Access, groups: str = "", virtual: str | None = None, server: str = "ns/one") -> bool:
        rules = rules_of(with_policies(access, (policy,)), {"groups": groups})
        assert rules is not None
        return sees_server(rules, VirtualName(virtual) if virtual else None, ServerName(server))

    assert with_policies(Access(), ()) == Access()
    desired = Desired(source="s", policies=(policy,))
    assert desired.allowed == with_policies(desired.access, (policy,))
    assert seen(Access(), "g")
    assert not seen(Access(), "x")
    assert not seen(Access(), "g", server="ns/other")
    assert seen(Access(), "x", server="other/one"), "another namespace is as open as before"
    assert seen(Access(), "x", "ns/v")
    assert not seen(Access(), "x", "other/v")
    assert seen(Access(rules=()), "x", "ns/v")
    assert not seen(Access(rules=()), "x", "ns/v", server="other/one"), "at its endpoint, too, its own servers alone"
    assert not seen(Access(rules=()), "x", server="other/one"), "a document with rules closes all that it does not give"
    assert seen(Access(rules=(Rule(allow=((("groups", frozenset({"boss"})),),)),)), "boss")
    text = {"ns": rules_document(policy.rules)}
    assert read_policies(text) == (policy,)
    assert decode(json.dumps({"servers": [], "policies": text}), "f").policies == (policy,)
    assert decode(render((), (), (policy,)), "f").policies == (policy,)
    for odd in ([], {"": []}, {"ns": {}}):
        with pytest.raises(ValueError, match="must"):
            read_policies(odd)


@pytest.mark.duty("access.owner")
def test_a_session_id_says_whose_it_is() -> None:
    for owner in ("", "alice"):
        sealed = attrs.evolve(SESSION, owner=owner)
        assert KEYS.verify(KEYS.seal(sealed), 0.0) == sealed


@pytest.mark.duty("access.rules")
def test_envoy_keeps_apart_what_callers_of_other_rules_see() -> None:
    shown = Audience.of(SESSION).shown
    words = {shown(rules) for rules in (None, frozenset(), frozenset(RULES), frozenset(RULES[:1]))}
    assert len(words) == 4
    assert all(word.isalpha() and word.islower() for word in words)
    assert shown(frozenset(reversed(RULES))) == shown(frozenset(RULES))


@pytest.mark.duty("access.explain")
def test_what_a_caller_lacks() -> None:
    allow = ((("groups", frozenset({"b", "a"})), ("sub", frozenset({"s"}))), (("role", frozenset({"r"})),))
    assert missing(allow, {"sub": "s"}) == ["groups has none of a, b", "role has none of r"]
    assert missing(((),), {}) == [""]


@pytest.mark.duty("access.exchange", "config.errors-placed")
def test_the_keys_of_an_exchange() -> None:
    where = "tokenUrl: 'https://idp/token', clientId: gateway, clientSecretFile: s, caFile: c"
    jag = f"profile: id-jag, audience: 'https://as', grant: {{{where}}}, {where}"
    (first, second) = decode(
        f"servers: [{{name: a, url: 'http://h', tokenExchange: {{{where}, resource: 'https://h/mcp'}}}},"
        f"{{name: b, url: 'http://h', tokenExchange: {{{jag}}}}}]",
        "f",
        has_access=True,
    ).servers
    assert first.token_exchange is not None
    assert second.token_exchange is not None
    assert (first.token_exchange.profile, first.token_exchange.subject_type) == ("rfc8693", "access_token")
    assert (second.token_exchange.subject_type, second.token_exchange.grant) == ("id_token", second.token_exchange.client)
    assert second.files == (
        ("credentialFile", None),
        ("caFile", None),
        ("tokenExchange.clientSecretFile", "s"),
        ("tokenExchange.caFile", "c"),
        ("tokenExchange.grant.clientSecretFile", "s"),
        ("tokenExchange.grant.caFile", "c"),
    )
    assert attrs.evolve(first, token_exchange=None).files == second.files[:2]
    assert first.token_exchange.mark != second.token_exchange.mark
    assert [each.sent for each in first.wanted] == ["authorization"]
    for more, remedy in (
        ("tokenExchange: x", "must hold keys and values"),
        ("tokenExchange: {tokenURL: x}", "did you mean 'tokenUrl'"),
        ("tokenExchange: {tokenUrl: ftp://x, clientId: a}", "tokenUrl: 'ftp://x' cannot be used"),
        ("tokenExchange: {tokenUrl: 'http://x'}", "clientId: write the id of this gateway"),
        ("tokenExchange: {tokenUrl: 'http://x', clientId: a, caFile: c}", "caFile is for an https tokenUrl"),
        (f"tokenExchange: {{{where}, profile: x}}", "profile: write one of rfc8693, entra-obo, id-jag"),
        (f"tokenExchange: {{{where}, subjectTokenType: x}}", "subjectTokenType: write one of"),
        (f"tokenExchange: {{{where}, profile: entra-obo}}", "scope: name the server's"),
        (f"tokenExchange: {{{where}, profile: id-jag}}", "grant: .* belongs to profile id-jag"),
        (f"tokenExchange: {{{where}, profile: id-jag, grant: {{{where}}}}}", "audience: name the issuer"),
        (f"tokenExchange: {{{where}, profile: id-jag, audience: a, grant: x}}", "grant must hold keys and values"),
        (f"tokenExchange: {{{where}}}, forwardHeaders: [authorization]", "remove one of them"),
        (f"tokenExchange: {{{where}}}, credential: k, credentialUse: always", "remove one of them"),
    ):
        with pytest.raises(ConfigurationError, match=remedy):
            decode(f"servers: [{{name: a, url: 'http://h', {more}}}]", "f")
    text = f"servers: [{{name: a, url: 'http://h', tokenExchange: {{{where}}}, forwardHeaders: [x-key]}}]"
    decode(text, "f", has_access=True)
    odd = f"servers: [{{name: a, url: 'http://h', tokenExchange: {{{where}}}, forwardHeaders: 7}}]"
    with pytest.raises(ConfigurationError, match="must be a list of header names"):
        decode(odd, "f", has_access=True)


@pytest.mark.duty("access.credentials")
def test_the_keys_of_credentials() -> None:
    (server,) = decode(
        "servers: [{name: a, url: 'http://h', credential: k, credentialHeader: X-Key, credentialUse: ifAbsent}]", "f"
    ).servers
    assert (server.credential_header, server.credential_use, server.gives_credential) == ("x-key", "ifAbsent", True)
    for more, remedy in (
        ("credentialUse: always", "needs a credential or credentialFile"),
        ("credential: k, credentialUse: never", "write one of discovery, ifAbsent, always"),
        ("credential: k, credentialHeader: host", "name of a header that the gateway does not set itself"),
        ("credential: k, credentialHeader: x-mcp-a", "name of a header that the gateway does not set itself"),
    ):
        with pytest.raises(ConfigurationError, match=remedy):
            decode(f"servers: [{{name: a, url: 'http://h', {more}}}]", "f")
    content = secret(ServerName("ns/one"), "value")
    assert content["resources"][0]["generic_secret"] == {"secret": {"inline_string": "value"}}


@pytest.mark.duty("access.istio")
def test_where_istio_verifies_tokens_the_audience_is_looked_at_here() -> None:
    text = "authentication: {verifiedBy: istio, issuers: [{issuer: %s, audiences: [a, b]%s}]}"
    login = decode_access(text % (IDP.issuer, ""), "f").authentication
    assert login is not None
    for audience, is_known in (("a", True), (["x", "b"], True), ("x", False), (["x"], False), (None, False), (7, False)):
        assert isinstance(caller_of(claims(aud=audience), login), Caller) == is_known, audience
    for more, remedy in ((", jwksUri: 'https://i'", "the RequestAuthentication has the keys: remove it"),):
        with pytest.raises(ConfigurationError, match=remedy):
            decode_access(text % (IDP.issuer, more), "f")
    with pytest.raises(ConfigurationError, match="verifiedBy: write one of envoy, istio"):
        decode_access((text % (IDP.issuer, "")).replace("istio", "nobody"), "f")
