"""The Kubernetes adapters when the API refuses, is silent, is slow, or sends odd answers.

They run on Trio's own clock.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from mcpgw_sidecar.catalog.federation import federate
from mcpgw_sidecar.catalog.snapshot import EMPTY
from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.configmap import ConfigMapWriter
from mcpgw_sidecar.kube.follower import ACCESS, ConfigMapSource, configuration
from mcpgw_sidecar.kube.keys import SecretKeys
from mcpgw_sidecar.kube.lease import LET_GO, LeaseHolder
from mcpgw_sidecar.kube.source import KubernetesSource, _KindSink
from mcpgw_sidecar.kube.writer import Writer
from mcpgw_sidecar.model.names import ServerName, VirtualName
from mcpgw_sidecar.model.servers import Desired, Server, VirtualServer
from mcpgw_sidecar.resources.kinds import HTTP_ROUTE, MCP_SERVER, VIRTUAL_SERVER, WATCHED
from mcpgw_sidecar.resources.leases import DURATION
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched
from tests.core.test_resources import meta

Answer = Callable[[str, str, Any], Any]


class FakeApi:
    """`answer` gives what a request is answered; a watch is never answered."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[float, str, str, Any]] = []

    async def wait_json(self, method: str, path: str, *, params: Any = None, body: Any = None) -> Any:
        del params
        self.asked.append((trio.current_time(), method, path, body))
        await trio.lowlevel.checkpoint()
        response = self.answer(method, path, body)
        if response is None:
            await trio.sleep_forever()
        return response

    def of(self, method: str) -> list[tuple[float, str, str, Any]]:
        return [each for each in self.asked if each[1] == method]


def refused(status: int) -> Any:
    raise ApiError(f"HTTP {status}", status=status)


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def lease(version: str, holder: str) -> Mapping[str, Any]:
    return {"metadata": {"name": "l", "resourceVersion": version}, "spec": {"holderIdentity": holder}}


@pytest.mark.duty("kube.one-writer")
async def test_a_lease_is_let_go_before_anybody_else_may_take_it(clock: MockClock) -> None:
    """The holder stops writing before another sidecar may take the Lease.

    The API falls silent right after a renewal: the holder stops `LET_GO` later, others begin
    `DURATION` later.
    """
    del clock
    silent = False
    api = FakeApi(lambda _method, _path, _body: None if silent else lease("1", "me"))
    holder = LeaseHolder(api, Ref("ns", "l"), "me")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.wait_holding)
        version = await holder.held.wait_after(0)
        assert holder.held.value
        silent, at = True, trio.current_time()
        await holder.held.wait_after(version)
        assert not holder.held.value
        assert trio.current_time() - at <= LET_GO < DURATION
        nursery.cancel_scope.cancel()


async def test_what_the_lease_says_ends_nothing(clock: MockClock) -> None:
    del clock
    answers = iter(
        [
            lambda: refused(500),
            lambda: refused(404),
            lambda: lease("2", "other"),
            lambda: refused(409),
            lambda: lease("3", "me"),
        ]
    )
    api = FakeApi(lambda _method, _path, _body: next(answers, lambda: lease("9", "me"))())
    holder = LeaseHolder(api, Ref("ns", "l"), "me")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.wait_holding)
        await holder.held.wait_after(0)
        assert holder.error is None
        nursery.cancel_scope.cancel()


def test_two_pods_of_one_name_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcpgw_sidecar.app.cluster import _lease  # noqa: PLC0415

    monkeypatch.setenv("POD_NAME", "gateway-0")
    identities = set()
    for namespace in ("a", "b"):
        monkeypatch.setenv("POD_NAMESPACE", namespace)
        identities.add(_lease(FakeApi(lambda *_: None), "shared").identity)  # type: ignore[arg-type]
    assert len(identities) == 2
    assert all(identity.partition("/")[2].startswith("gateway-0_") for identity in identities)


def secret(version: str = "1", **values: str) -> Mapping[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"metadata": {"name": "k", "namespace": "ns", "resourceVersion": version}, "data": data}


async def test_keys_are_kept_however_often_that_fails(clock: MockClock) -> None:
    del clock
    answers = iter([lambda: refused(503), lambda: refused(0), secret])
    api = FakeApi(lambda method, _path, _body: None if method == "GET" else next(answers)())
    keys = SecretKeys(api, "ns")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.wait_following)
        keys.apply(secret("7"))  # as it is shipped: empty
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    sent = api.of("PATCH")
    assert len(sent) == 3
    assert all(body["metadata"]["resourceVersion"] == "7" for _, _, _, body in sent)
    assert not keys.loaded.is_set()  # the watch says when they count
    own = base64.b64decode(sent[-1][3]["data"]["keys"]).decode()
    before = keys.keys
    keys.apply(secret("8", keys=own))
    assert keys.loaded.is_set()
    assert keys.keys == before  # sessions of the meantime live on


async def test_keys_that_were_deleted_while_nobody_watched_are_made_anew(clock: MockClock) -> None:
    del clock
    api = FakeApi(lambda method, _path, _body: None if method == "GET" else secret("9"))
    keys = SecretKeys(api, "ns")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.wait_following)
        keys.apply(secret("7", keys="x" * 40))
        keys.reset([])
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert (len(api.of("PATCH")), len(api.of("POST"))) == (0, 1)
    assert base64.b64decode(api.of("POST")[0][3]["data"]["keys"]).decode().strip() == "x" * 40


async def test_keys_that_may_not_be_kept_or_cannot_be_used(clock: MockClock) -> None:
    del clock
    api = FakeApi(lambda method, _path, _body: None if method == "GET" else refused(403))
    keys = SecretKeys(api, "ns")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.wait_following)
        keys.reset([])
        await trio.sleep(300)
        assert keys.loaded.is_set()  # on its own, and said so
        assert len(api.of("POST")) == 1
        nursery.cancel_scope.cancel()
    bad = SecretKeys(api, "ns")  # type: ignore[arg-type]
    bad.apply(secret(keys="short"))
    assert bad.loaded.is_set()
    good = bad.keys
    bad.apply(secret(keys="x" * 40))
    assert bad.keys != good


@pytest.mark.duty("kube.follower")
def test_a_configmap_names_no_files() -> None:
    desired = Watched(Desired(source="x"))
    api: Any = FakeApi(lambda *_: None)
    source = ConfigMapSource(api, Ref("ns", "c"), configuration(has_access=True), desired, desired.publish)
    exchange = "tokenExchange: {tokenUrl: 'https://evil.example', clientId: x, clientSecretFile: /var/run/secrets/token}"
    for key in ("credentialFile: /var/run/secrets/token", "caFile: /var/run/secrets/token", exchange):
        text = f"servers: [{{name: a, url: 'https://evil.example/mcp', {key}}}]"
        source.apply({"metadata": {"name": "c", "namespace": "ns"}, "data": {"config.yaml": text}})
        assert not desired.value.servers
        assert "for configuration files alone" in (desired.value.error or "")
    source.apply({"metadata": {}, "data": {"config.yaml": "servers: []\nauthorization: [{allow: [{}]}]"}})
    assert "authorization belongs into the document of --access" in (desired.value.error or ""), "it would open everything"
    assert desired.value.access.rules is None
    source.trouble("away")
    assert desired.value.error == "away"
    source.trouble(None)
    assert desired.value.error is None


@pytest.mark.duty("access.configmap")
def test_an_access_document_in_a_configmap() -> None:
    """Nothing is served before there is one; after that the last good one stays."""
    desired = Watched(Desired(source="x"))
    api: Any = FakeApi(lambda *_: None)
    source = ConfigMapSource(api, Ref("ns", "c"), ACCESS, desired, desired.publish)

    def said(text: str | None) -> str:
        source.apply({"metadata": {"name": "c", "namespace": "ns"}, "data": {} if text is None else {"access.yaml": text}})
        return desired.value.access_error or ""

    source.reset([])
    assert desired.value.access_error == "ConfigMap ns/c not found: make it, with the key access.yaml"
    issuer = "authentication: {issuers: [{issuer: i, audiences: [a], %s}]}"
    for text, words in (
        (None, "configmap:ns/c: has no key access.yaml"),
        ("authorisation: []", "configmap:ns/c:1: authorisation: unknown key"),
        (issuer % "jwksFile: /var/run/secrets/token", "jwksFile and caFile are for --access FILE alone"),
        (issuer % "jwksUri: 'https://i', caFile: /x", "jwksFile and caFile are for --access FILE alone"),
        ("limits: {service: {url: 'https://l:1', caFile: /x}}", "jwksFile and caFile are for --access FILE alone"),
    ):
        assert words in said(text)
    assert not source.loaded.is_set()
    assert said(issuer % "jwksUri: 'https://i/keys'") == ""
    assert source.loaded.is_set()
    assert desired.value.access.authentication is not None
    generation = desired.value.generation
    assert said(issuer % "jwksUri: 'https://i/keys'") == ""
    assert desired.value.generation == generation
    assert said("x") != ""
    source.delete({})
    assert desired.value.access_error == "ConfigMap ns/c was deleted: the last good configuration stays"
    assert desired.value.access.authentication is not None
    assert desired.value.error is None


@attrs.define
class Written:
    """A writer over a fake API, with one MCPServer that has no route."""

    api: FakeApi
    source: KubernetesSource
    writer: Writer
    live: Watched[Any]


def written(answer: Answer, count: int = 1) -> Written:
    api = FakeApi(answer)
    desired = Watched(Desired(source="kubernetes"))
    source = KubernetesSource(api, desired, desired.publish)  # type: ignore[arg-type]
    live: Watched[Any] = Watched(EMPTY)
    writer = Writer(api=api, source=source, identity="me", leading=Watched(True), statuses=Watched(()), live=live)  # type: ignore[arg-type]
    source.loaded.set()
    sink = _KindSink(source, MCP_SERVER)
    sink.reset([raw(f"s{number}") for number in range(count)])
    return Written(api, source, writer, live)


def raw(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": meta(name), "spec": {"targetRef": {"name": "nowhere"}}, **more}


@pytest.mark.duty("kube.write-changes")
async def test_what_is_refused_for_good_is_no_hot_loop(clock: MockClock) -> None:
    del clock
    setup = written(lambda _method, _path, _body: refused(422), count=20)
    with trio.move_on_after(600):
        await setup.writer.wait_writing()
    assert len(setup.api.of("PATCH")) <= 20 * 20  # once a minute in the end


@pytest.mark.duty("kube.write-changes")
async def test_an_object_is_written_at_most_once_a_second(clock: MockClock) -> None:
    """Somebody else puts it back each time: we say it again, at our own pace."""
    del clock
    setup = written(lambda _method, _path, _body: raw("s0"))
    sink = _KindSink(setup.source, MCP_SERVER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.writer.wait_writing)
        for _ in range(1000):
            await trio.sleep(0.01)
            sink.apply(raw("s0"))
        nursery.cancel_scope.cancel()
    assert 5 <= len(setup.api.of("PATCH")) <= 12
    assert len([each for each in setup.api.of("POST") if "events" in each[2]]) == 1  # and one Event a minute


async def test_a_late_answer_brings_nothing_back(clock: MockClock) -> None:
    """The MCPServer is deleted while its status is being written."""
    del clock
    holder: list[Written] = []

    def answer(method: str, _path: str, _body: Any) -> Any:
        if method == "PATCH":
            _KindSink(holder[0].source, MCP_SERVER).delete(raw("s0"))
        return raw("s0")

    setup = written(answer)
    holder.append(setup)
    with trio.move_on_after(10):
        await setup.writer.wait_writing()
    assert setup.source.index.objects[MCP_SERVER.name] == {}


async def test_tools_that_nobody_has_listed_yet_are_not_missing(clock: MockClock) -> None:
    del clock
    setup = written(lambda _method, _path, _body: raw("s0"), count=0)
    virtual = {"metadata": meta("v"), "spec": {"tools": ["a"]}}
    _KindSink(setup.source, VIRTUAL_SERVER).reset([virtual])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.writer.wait_writing)
        await trio.sleep(10)
        assert setup.api.of("PATCH") == []
        few = VirtualServer(name=VirtualName("mcp-test/v"), tools=("a",))
        setup.live.publish(federate((), {}, (few,)).snapshot)
        await trio.sleep(10)
        (patched,) = {body["status"]["conditions"][0]["reason"] for _, _, _, body in setup.api.of("PATCH")}
        assert patched == "ToolsNotFound"
        nursery.cancel_scope.cancel()


async def test_the_configmap_against_somebody_who_puts_it_back(clock: MockClock) -> None:
    del clock
    writer: list[ConfigMapWriter] = []

    def answer(method: str, _path: str, body: Any) -> Any:
        if method == "GET":
            return None
        assert body["data"]["config.yaml"] == "servers: []\n"
        writer[0].apply({"metadata": {"name": "c"}, "data": {"config.yaml": f"theirs {trio.current_time()}"}})
        return {"metadata": {}}

    api, loaded = FakeApi(answer), trio.Event()
    loaded.set()
    desired, leading = Watched(Desired(source="kubernetes")), Watched(True)
    writer.append(ConfigMapWriter(api=api, namespace="ns", desired=desired, loaded=loaded, leading=leading))  # type: ignore[arg-type]
    writer[0].reset([])
    with trio.move_on_after(60):
        await writer[0].wait_writing()
    assert 30 <= len([each for each in api.asked if each[1] != "GET"]) <= 61


async def test_a_configuration_that_no_configmap_takes(clock: MockClock) -> None:
    """The ConfigMap says why it is old, and the sidecar's status, too."""
    del clock
    bodies: list[Any] = []

    def answer(method: str, _path: str, body: Any) -> Any:
        if method == "GET":
            return None
        bodies.append(body)
        old = stored["metadata"]["annotations"] | body["metadata"]["annotations"]
        stored["metadata"] = {**stored["metadata"], **body["metadata"], "annotations": {k: v for k, v in old.items() if v}}
        stored["data"] |= body["data"]
        writer.apply({**stored})
        return {"metadata": {}}

    stored: dict[str, Any] = {
        "metadata": {"name": "c", "annotations": {"own": "1"}},
        "data": {"config.yaml": "servers: []\n"},
    }
    api, loaded = FakeApi(answer), trio.Event()
    loaded.set()
    many = tuple(Server(name=ServerName(f"ns/{n}"), url=f"http://h/{'x' * 900}", hostname="h") for n in range(1100))
    desired, leading = Watched(Desired(source="kubernetes", servers=many)), Watched(True)
    writer = ConfigMapWriter(api=api, namespace="ns", desired=desired, loaded=loaded, leading=leading)  # type: ignore[arg-type]
    writer.apply(stored)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.wait_writing)
        await trio.sleep(10)
        assert "a ConfigMap takes 1000000: it stays as it is" in (writer.error or "")
        assert [each["data"] for each in bodies] == [{}]
        assert stored["metadata"]["annotations"] == {"own": "1", "mcpgw.dev/stale": writer.error}
        desired.publish(Desired(source="kubernetes", servers=many[:1]))
        await trio.sleep(10)
        assert writer.error is None
        assert stored["metadata"]["annotations"] == {"own": "1"}
        assert stored["data"]["config.yaml"].startswith("servers:\n  - name: ns/0")
        assert len(bodies) == 2
        nursery.cancel_scope.cancel()


def test_objects_of_others_change_nothing() -> None:
    """Services and routes that no MCPServer looks at: no configuration is made."""
    setup = written(lambda *_: None)
    setup.source._dirty = trio.Event()
    route = {"metadata": meta("r"), "spec": {"hostnames": ["h"]}}
    _KindSink(setup.source, HTTP_ROUTE).apply(route)
    assert not setup.source._dirty.is_set()
    _KindSink(setup.source, HTTP_ROUTE).apply(
        {"metadata": {"name": "broken", "namespace": "ns"}}
    )  # left out, nothing raised
    assert Ref("ns", "broken") not in setup.source.index.objects[HTTP_ROUTE.name]


@pytest.mark.duty("ready.watches")
def test_a_kind_that_was_never_listed_makes_the_configuration_incomplete() -> None:
    """Readiness says which; a kind that the API does not have is nothing to wait for."""
    source = KubernetesSource(None, Watched(Desired(source="kubernetes")), lambda _desired: None)  # type: ignore[arg-type]
    sinks = {kind.name: _KindSink(source, kind) for kind in WATCHED}
    assert all(name in (source.incomplete() or "") for name in sinks)
    missing, refused, *others = sorted(sinks)
    for name in others:
        sinks[name].reset([])
    sinks[missing].trouble("the API has no such kind", 404)
    sinks[refused].trouble("may not list it", 403)
    assert source.incomplete() == f"a first list of {refused}"
    sinks[refused].reset([])
    assert source.incomplete() is None
