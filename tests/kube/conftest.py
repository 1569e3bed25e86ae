from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.stack import PROGRAM, environment
from tests.kube.cluster import Cluster
from tests.kube.objects import NAMESPACE


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kubernetes API with all CRDs, the rights as they are shipped, and the guide's namespaces."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as found:
        found.install()
        for namespace in (NAMESPACE, "gateway-system"):
            found.kubectl("create", "namespace", namespace)
        found.apply(shipped("rbac"))
        yield found


def shipped(*sections: str) -> str:
    """What `mcpgw-sidecar manifests` prints."""
    command = [*PROGRAM, "manifests", *sections]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
