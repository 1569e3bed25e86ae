"""k8s/ is what the program prints, and what kustomize reads. `build/manifests` writes it anew."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from mcpgw_sidecar.cli.entry import cli
from mcpgw_sidecar.cli.manifests import GENERATED, SECTIONS

K8S = Path(__file__).parents[2] / "k8s"


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["manifests", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.duty("cli.manifests")
@pytest.mark.parametrize("section", sorted(GENERATED))
def test_what_lies_in_k8s(section: str) -> None:
    assert (K8S / section / f"{section}.yaml").read_text() == printed(section)


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_are_kustomize_bases(section: str) -> None:
    directory = K8S / section
    base = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert set(base["resources"]) == {path.name for path in directory.glob("*.yaml")} - {"kustomization.yaml"}
    documents = [document for document in yaml.safe_load_all(printed(section)) if document]
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in documents]
    assert len(names) == len(set(names))


@pytest.mark.duty("cli.manifests")
def test_options_reach_what_they_are_for() -> None:
    text = printed(
        "rbac", "istio", "envoy", "webhook", "--namespace=ns", "--image=reg/x:1", "--public-host=*.example.com", "--gateway=gw-ns/gw",
        "--label=a=b", "--internal-host=x.internal", "--service-account=gw-ns/sa", "--max-body=1MiB",
    )  # fmt: skip
    documents = list(yaml.safe_load_all(text))
    assert {document["metadata"]["namespace"] for document in documents if "namespace" in document["metadata"]} == {
        "ns",
        "gw-ns",
    }
    (envoy_filter,) = (document for document in documents if document["kind"] == "EnvoyFilter")
    assert envoy_filter["spec"]["workloadSelector"] == {"labels": {"a": "b"}}
    assert "reg/x:1" in text
    assert r"(?i)([^/]+\.example\.com)(:[0-9]+)?" in text
    assert r"x\.internal" in text
    assert "max_request_bytes: 1048576" in text
    subjects = [
        subject for document in documents if document["kind"].endswith("Binding") for subject in document["subjects"]
    ]
    assert {"kind": "ServiceAccount", "namespace": "gw-ns", "name": "sa"} in subjects


@pytest.mark.duty("kube.through-gateway")
def test_the_sidecar_may_go_around_the_router_and_nobody_else() -> None:
    for options in ((), ("--through-gateway=127.0.0.1:8080",)):
        documents = list(yaml.safe_load_all(printed("istio", *options)))
        (envoy_filter,) = (document for document in documents if document["kind"] == "EnvoyFilter")
        names = [each["patch"]["value"].get("name") for each in envoy_filter["spec"]["configPatches"]]
        assert ("mcpgw_own" in names) == bool(options)
        (config_map,) = (document for document in documents if document["kind"] == "ConfigMap")
        assert ("--through-gateway=127.0.0.1:8080" in config_map["data"]["deployment"]) == bool(options)


@pytest.mark.duty("access.istio", "access.configmap")
def test_a_login_in_istio() -> None:
    """The gateway's filters come behind the one that verifies tokens; the document may be read."""
    documents = list(yaml.safe_load_all(printed("rbac", "istio", "--request-authentication", "--access=configmap:gw/rules")))
    (envoy_filter,) = (document for document in documents if document["kind"] == "EnvoyFilter")
    placed = [each for each in envoy_filter["spec"]["configPatches"] if each["patch"]["operation"] == "INSERT_AFTER"]
    assert [each["patch"]["value"]["name"] for each in placed][-1] == "mcpgw_buffer"
    behind = {each["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"] for each in placed}
    assert behind == {"envoy.filters.http.jwt_authn"}
    (role,) = (each for each in documents if each["kind"] == "Role" and each["metadata"]["name"] == "mcpgw-sidecar-access")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["rules"], "verbs": ["list", "watch"]}
    ]
    assert "--access=configmap:gw/rules" in json.dumps(documents)


def test_any_host_may_be_public() -> None:
    documents = list(yaml.safe_load_all(printed("istio", "--public-host=*")))
    (route,) = (document for document in documents if document["kind"] == "HTTPRoute")
    assert "hostnames" not in route["spec"]
    assert "(?i)" not in printed("istio", "--public-host=*", "--internal-host=*")
    assert "image: reg/x:1" in printed("samples", "--image=reg/x:1")
    deployment = next(
        document
        for document in yaml.safe_load_all(printed("envoy", "--envoy-container=proxy"))
        if document["kind"] == "Deployment"
    )
    assert deployment["spec"]["template"]["spec"]["initContainers"]


def test_options_that_cannot_be_used() -> None:
    for wrong in (
        ["--label", "x"],
        ["--gateway", "x"],
        ["--public-host", "a/b"],
        ["--service-account", "x"],
        ["--namespace", "A B"],
        ["--image", ""],
        ["--access", "rules.yaml"],
        ["nothing"],
    ):
        assert CliRunner().invoke(cli, ["manifests", *wrong]).exit_code != 0


def test_no_address_of_a_registry() -> None:
    command = ["git", "grep", "-nE", r"docker\.io|ghcr\.io|gcr\.io|quay\.io|registry\.npmjs|pypi\.org/simple", "--", "k8s"]
    assert subprocess.run(command, cwd=K8S, capture_output=True, text=True, check=False).stdout == ""
