"""A real Kubernetes API: kube-apiserver and etcd on loopback, and kubectl.

build/kube made or found them.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.stack import ROOT, WAIT, Process, environment, free_ports, wait_until

CACHE = Path(
    os.environ.get("MCPGW_TEST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcpgw-sidecar"
)
_BIN = Path(sys.executable).parent


def program(name: str) -> Path:
    """The path of kube-apiserver, etcd or kubectl, from KUBEBUILDER_ASSETS, the cache or PyPI."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(assets) / name if assets else (CACHE / name if name == "kube-apiserver" else _BIN / name)
    if not path.exists():
        pytest.fail(f"{path} is missing: run build/kube, or name a directory with {name} in KUBEBUILDER_ASSETS")
    return path


class Cluster:
    """etcd and kube-apiserver. `kubeconfig` is the administrator's."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.etcd_port, peer, self.port = free_ports(3)
        self._etcd = [
            str(program("etcd")),
            f"--data-dir={directory / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self.etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        ]
        self.token = secrets.token_hex(16)
        (directory / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        (directory / "sa.key").write_bytes(pem)
        self._api = [
            str(program("kube-apiserver")),
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={directory / 'certs'}",
            f"--service-account-key-file={directory / 'sa.key'}",
            f"--service-account-signing-key-file={directory / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount",
            *options,
        ]
        self.kubeconfig = directory / "kubeconfig"
        self.url = f"https://127.0.0.1:{self.port}"
        self.etcd = Process(self._etcd, directory / "etcd.log")
        self.start_api()

    def start_api(self) -> None:
        self.api = Process(self._api, self.directory / "kube-apiserver.log")
        self.kubeconfig = self.kubeconfig_of(self.token, "kubeconfig")

        def ready() -> bool:
            assert self.api.popen.poll() is None, self.api.text[-3000:]
            headers = {"authorization": f"Bearer {self.token}"}
            return httpx2.get(f"{self.url}/readyz", headers=headers, verify=False, trust_env=False).status_code == 200

        wait_until(ready, "kube-apiserver")

    def stop_api(self) -> None:
        self.api.signal(signal.SIGKILL)
        self.api.stop()

    def stop_all(self) -> None:
        """Stop the API server and etcd, whose files are then at rest."""
        self.stop_api()
        self.etcd.stop()

    def start_all(self) -> None:
        self.etcd = Process(self._etcd, self.directory / "etcd.log")
        self.start_api()

    def kubeconfig_of(self, token: str, name: str, namespace: str = "default") -> Path:
        """A kubeconfig for the bearer of a token."""
        authority = str(self.directory / "certs" / "apiserver.crt")
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": authority}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "current-context": "x",
        }
        path = self.directory / name
        path.write_text(yaml.safe_dump(document))
        return path

    def account(self, namespace: str, name: str) -> Path:
        """A kubeconfig for a service account, made if it is missing."""
        self.kubectl("create", "namespace", namespace, check=False)
        self.kubectl("create", "serviceaccount", name, "-n", namespace, check=False)
        token = self.kubectl("create", "token", name, "-n", namespace).strip()
        return self.kubeconfig_of(token, f"kubeconfig-{namespace}-{name}", namespace)

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """The output of kubectl.

        With `check` a failure is one of the test; without it the output contains the errors.
        """
        command = [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", *args]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=WAIT * 3, env=environment(), check=False
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, *documents: Any, check: bool = True) -> str:
        """Apply documents (or YAML texts)."""
        texts = [each if isinstance(each, str) else yaml.safe_dump(each) for each in documents]
        return self.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-", stdin="\n---\n".join(texts), check=check
        )

    def get(self, kind: str, name: str, namespace: str | None = None) -> Any:
        """An object, {} when there is none."""
        where = ["-n", namespace] if namespace else []
        text = self.kubectl("get", kind, name, *where, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else {}

    def delete(self, kind: str, name: str, namespace: str | None = None) -> None:
        where = ["-n", namespace] if namespace else []
        self.kubectl("delete", kind, name, *where, "--ignore-not-found", "--wait=false")

    def ready(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """The Ready condition of an object."""
        conditions = self.get(kind, name, namespace).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == "Ready"), {})

    def install(self) -> None:
        """The CRDs: the Gateway API's and ours."""
        for path in sorted((CACHE / "crds").glob("gateway.networking.k8s.io_*.yaml")):
            if "vap" not in path.name:
                self.kubectl("apply", "--server-side", "-f", str(path))
        self.kubectl("apply", "--server-side", "-k", str(ROOT / "k8s/crds"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")

    def stop(self) -> None:
        self.stop_api()  # before etcd: the other way round its end takes minutes
        self.etcd.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def secret(namespace: str, name: str, **values: str) -> dict[str, Any]:
    """A labelled Secret."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    meta = {"namespace": namespace, "name": name, "labels": {"mcpgw.dev/credential": "true"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}
