from __future__ import annotations

import copy
from typing import Any

import pytest

from mcpgw_sidecar.manifests.container import BOOTSTRAP, Sidecar, container
from mcpgw_sidecar.manifests.sidecar import INJECTED, inject, patch

SIDECAR = Sidecar(image="x:1", public_hosts=("gw.example.com",))


def pod(name: str = "istio-proxy", **spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "other"}, {"name": name}], **spec}}


def of(kind: str, inner: dict[str, Any]) -> dict[str, Any]:
    template = {"metadata": inner["metadata"], "spec": inner["spec"]}
    return {"kind": kind, "metadata": {"name": "w"}, "spec": {"template": template}}


@pytest.mark.duty("cli.inject")
def test_a_pod() -> None:
    document = pod()
    (done,) = inject(document, SIDECAR)
    assert (done.name, done.problem, done.changed, done.remark) == ("Pod p", None, True, None)
    assert document["spec"]["initContainers"] == [container(SIDECAR, writes_envoy=False)]
    assert "volumeMounts" not in document["spec"]["containers"][0]
    assert document["spec"]["containers"][1]["volumeMounts"] == [{"name": "mcpgw-run", "mountPath": "/run/mcpgw"}]
    assert INJECTED in document["metadata"]["annotations"]


@pytest.mark.duty("cli.inject")
def test_it_is_idempotent_and_follows_its_options() -> None:
    document = pod(initContainers=[{"name": "first"}], volumes=[{"name": "v"}])
    inject(document, SIDECAR)
    once = copy.deepcopy(document)
    (again,) = inject(document, SIDECAR)
    assert not again.changed
    assert document == once
    (other,) = inject(document, Sidecar(image="x:2", given=frozenset({"image"})))
    assert other.changed
    assert [each["name"] for each in document["spec"]["initContainers"]] == ["first", "mcpgw-sidecar"]
    assert document["spec"]["initContainers"][1]["image"] == "x:2"
    assert len(document["spec"]["volumes"]) == 2


@pytest.mark.duty("cli.inject")
def test_what_is_not_given_stays_as_it_was() -> None:
    """Options, environment, image and resources that somebody set by hand or before."""
    document = pod()
    inject(document, Sidecar(image="x:1", public_hosts=("a.example", "b.example"), namespace="own", max_body=1 << 20))
    sidecar = document["spec"]["initContainers"][0]
    sidecar["env"].append({"name": "MCPGW_SESSION_STORE", "value": "valkey://x"})
    sidecar["args"].append("--call-timeout=9s")
    sidecar["resources"] = {"limits": {"memory": "1Gi"}}
    before = copy.deepcopy(document)
    (again,) = inject(document, Sidecar(public_hosts=("default.example",)))
    assert not again.changed
    assert document == before
    changed = Sidecar(image="x:2", public_hosts=("c.example",), given=frozenset({"image", "public_hosts", "max_body"}))
    inject(document, changed)
    sidecar = document["spec"]["initContainers"][0]
    assert [
        each for each in sidecar["args"] if each.startswith(("--public-host", "--namespace", "--max-body", "--call"))
    ] == [
        "--namespace=own",
        "--public-host=c.example",
        "--call-timeout=9s",
    ]
    assert (sidecar["image"], sidecar["env"][-1]["value"]) == ("x:2", "valkey://x")


@pytest.mark.parametrize(
    "odd",
    [
        {"spec": "hi"}, {"spec": {"containers": 5}}, {"metadata": "hi"}, {"metadata": {"labels": "foo"}},
        {"metadata": {"annotations": "x"}}, {"spec": {"containers": [7, {"name": "envoy"}], "initContainers": ["x"]}},
        {"spec": {"containers": [{"name": "envoy"}], "volumes": {"a": "b"}}},
        {"spec": {"containers": [{"name": "envoy", "volumeMounts": "x"}]}},
        {"spec": {"containers": [{"name": ["a"]}]}},
    ],
)  # fmt: skip
def test_what_is_not_what_it_should_be_is_left_alone(odd: dict[str, Any]) -> None:
    document = {
        "kind": "Pod",
        **copy.deepcopy({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "envoy"}]}}),
        **odd,
    }
    before = copy.deepcopy(document)
    (done,) = inject(document, SIDECAR)
    if "labels" in str(odd):
        assert done.changed  # labels that are none say nothing
    else:
        assert done.problem
        assert document == before


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "StatefulSet", "ReplicaSet"])
def test_templates(kind: str) -> None:
    document = of(kind, pod())
    (done,) = inject(document, SIDECAR)
    assert done.name == f"{kind} w"
    assert document["spec"]["template"]["spec"]["initContainers"]


def test_lists_and_what_is_none_of_ours() -> None:
    listed = {"kind": "List", "items": [pod(), {"kind": "Service"}, of("Deployment", pod()), "nonsense"]}
    assert [done.changed for done in inject(listed, SIDECAR)] == [True, True]
    assert len(inject({"kind": "PodList", "items": [pod()]}, SIDECAR)) == 1
    for odd in (
        {},
        {"kind": "Deployment"},
        {"kind": "Deployment", "spec": {"template": 7}},
        {"kind": "List"},
        {"kind": "XList"},
    ):
        assert inject(odd, SIDECAR) == []


def test_what_is_not_injected_says_why() -> None:
    (none,) = inject(pod("app"), SIDECAR)
    assert none.problem == "it has no container istio-proxy or envoy: name Envoy's with --envoy-container"
    (named,) = inject(pod("istio-proxy"), Sidecar(envoy_container="proxy"))
    assert "it has no container proxy" in (named.problem or "")
    refusing = pod()
    refusing["metadata"]["labels"] = {"mcpgw.dev/inject": "disabled"}
    (refused,) = inject(refusing, SIDECAR)
    assert "says disabled" in (refused.problem or "")
    (empty,) = inject({"kind": "Pod", "spec": None}, SIDECAR)
    assert empty.problem is not None


def test_a_plain_envoy_is_started_with_our_bootstrap() -> None:
    document = pod("envoy")
    (done,) = inject(document, SIDECAR)
    assert done.remark is None
    assert document["spec"]["containers"][1]["args"] == ["-c", BOOTSTRAP]
    assert "--envoy-dir=/run/mcpgw/envoy" in document["spec"]["initContainers"][0]["args"]
    (again,) = inject(document, SIDECAR)
    assert (again.changed, again.remark) == (False, None)
    own = pod("proxy")
    own["spec"]["containers"][1]["command"] = ["envoy", "-c", "/etc/envoy.yaml"]
    (remarked,) = inject(own, Sidecar(envoy_container="proxy"))
    assert remarked.remark == f"start the container proxy with: envoy -c {BOOTSTRAP}"


@pytest.mark.duty("cli.inject", "limits.heap")
@pytest.mark.parametrize(
    ("limit", "heap"),
    [
        ("1Gi", "921MiB"),
        ("500M", "429MiB"),
        (1 << 30, "921MiB"),
        ("0.5Gi", "460MiB"),
        ("64Mi", None),
        ("1Ei", None),
        (None, None),
    ],
)
def test_envoys_heap_is_below_its_containers_memory(limit: Any, heap: str | None) -> None:
    """Else the kernel ends Envoy, with everybody's connections."""
    for name, expected in (("envoy", heap), ("istio-proxy", None)):
        document = pod(name)
        document["spec"]["containers"][1]["resources"] = {"limits": {"memory": limit}}
        inject(document, SIDECAR)
        environment = {each["name"]: each.get("value") for each in document["spec"]["initContainers"][0]["env"]}
        assert environment.get("MCPGW_ENVOY_HEAP") == expected
        if expected is not None:  # what somebody wrote there stays
            document["spec"]["initContainers"][0]["env"][-1]["value"] = "300MiB"
            (again,) = inject(document, SIDECAR)
            assert not again.changed


@pytest.mark.duty("cli.inject")
def test_pods_in_which_the_sidecar_cannot_work() -> None:
    """It said "injected", and the container could not start."""
    (plain,) = inject(pod(), SIDECAR)
    assert plain.remark is None
    (token,) = inject(pod(automountServiceAccountToken=False), SIDECAR)
    assert "set it to true" in (token.remark or "")
    (host,) = inject(pod(hostNetwork=True), SIDECAR)
    assert "ports 9090 and 9091 of the node" in (host.remark or "")
    used = pod(initContainers=[{"name": "prom", "ports": [{"containerPort": 9090}, {"containerPort": 1}]}])
    (taken,) = inject(used, SIDECAR)
    assert taken.remark == "container prom has port 9090, which the sidecar's admin port needs: change it"
    (again,) = inject(used, SIDECAR)
    assert again.remark == taken.remark
    operations, result = patch(pod(hostNetwork=True), SIDECAR)
    assert operations
    assert result.remark == host.remark


def test_a_pod_without_metadata() -> None:
    document = {"kind": "Pod", "spec": pod()["spec"]}
    (done,) = inject(document, SIDECAR)
    assert done.changed
    assert document["metadata"]["annotations"]


def applied(document: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for operation in operations:
        *parents, last = operation["path"].strip("/").split("/")
        at = result
        for step in parents:
            at = at[step]
        assert (operation["op"] == "replace") == (last in at)
        at[last] = operation["value"]
    return result


def test_a_patch_does_the_same() -> None:
    for before in (pod(), pod(initContainers=[{"name": "a"}]), {"kind": "Pod", "spec": pod()["spec"]}):
        untouched, after = copy.deepcopy(before), copy.deepcopy(before)
        inject(after, SIDECAR)
        operations, done = patch(before, SIDECAR)
        assert before == untouched
        assert done.changed
        assert applied(before, operations) == after
        assert patch(after, SIDECAR)[0] == []
    assert patch(pod("app"), SIDECAR)[0] == []
