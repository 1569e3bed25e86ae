"""Everything that we print or ship runs in a namespace of the Pod Security level `restricted`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.stack import ROOT
from tests.kube.cluster import Cluster
from tests.kube.conftest import shipped


def _templates(text: str, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in yaml.safe_load_all(text):
        template = (document or {}).get("spec", {}).get("template") if document else None
        if template and "containers" in template.get("spec", {}):
            yield f"{source}: {document['metadata']['name']}", template["spec"]


@pytest.mark.duty("kube.restricted")
def test_each_pod_is_admitted(cluster: Cluster) -> None:
    """The real admission of the API server judges each pod template; an ordinary pod is refused."""
    sources = {name: shipped(name) for name in ("envoy", "webhook")}
    sources |= {path.name: path.read_text() for path in sorted(Path(ROOT / "k8s" / "samples").glob("*.yaml"))}
    templates = [each for source, text in sources.items() for each in _templates(text, source)]
    assert len(templates) >= 3
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}})

    def created(name: str, spec: dict[str, Any]) -> str:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "strict"}, "spec": spec}
        return cluster.apply(pod, check=False)

    for number, (name, spec) in enumerate(templates):
        assert "serverside-applied" in created(f"pod-{number}", spec), name
    assert "violates PodSecurity" in created("plain", {"containers": [{"name": "x", "image": "x"}]})
