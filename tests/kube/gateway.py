"""A sidecar that watches the API, and a plain Envoy that follows its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.stack import SOURCE, Gateway
from tests.kube.cluster import Cluster
from tests.kube.dns import ClusterDns
from tests.kube.objects import NAMESPACE

RESOLVER = str(Path(__file__).parent / "resolver")
SYSTEM = "mcp-system"


class KubeGateway(Gateway):
    """A gateway with a sidecar in Kubernetes.

    `kubeconfig` has the rights of the sidecar; `source` are the options with the source of its
    configuration. The sidecar is always this checkout: a module on PYTHONPATH resolves the
    cluster's names, and a frozen program does not read it.
    """

    program = tuple(SOURCE)

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        *options: str,
        dns: ClusterDns | None = None,
        source: tuple[str, ...] = ("--kubernetes", f"--namespace={SYSTEM}", f"--secrets-in={NAMESPACE}"),
    ) -> None:
        self.source = source
        self.env = {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": os.pathsep.join([RESOLVER])}
        self.envoy_options = ("--config-yaml", dns.envoy_config) if dns is not None else ()
        super().__init__(directory, [], "--refresh-interval=500ms", *options, envoy=dns is not None)


@contextmanager
def kube_gateway(
    cluster: Cluster,
    directory: Path,
    *options: str,
    envoy: bool = True,
    kubeconfig: Path | None = None,
    **more: tuple[str, ...],
) -> Iterator[KubeGateway]:
    """A sidecar with the rights that are shipped, and an Envoy."""
    directory.mkdir(exist_ok=True)
    with ClusterDns() as dns:
        rights = kubeconfig or cluster.account("gateway-system", "mcp-gateway")
        running = KubeGateway(directory, rights, *options, dns=dns if envoy else None, **more)
        try:
            yield running
        finally:
            running.stop()
