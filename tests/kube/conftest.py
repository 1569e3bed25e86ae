from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kubernetes API with all CRDs."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as found:
        found.install()
        yield found
