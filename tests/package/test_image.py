"""The container image, unpacked as a runtime would do it.

It runs without any other file, as the user that it names.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Gateway, entry, text_of
from tests.servers.scripted import ScriptedServer, tool

USER = 65532


class Image:
    """The one image of an archive; what is read is compared with its digest."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            self._files = {
                member.name: extracted.read() for member in archive if (extracted := archive.extractfile(member)) is not None
            }
        assert json.loads(self._files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        self.index = json.loads(self._files["index.json"])
        self.manifest: Any = json.loads(self.blob(self.index["manifests"][0]))
        self.config: Any = json.loads(self.blob(self.manifest["config"]))
        plain = [io.BytesIO(gzip.decompress(self.blob(layer))) for layer in self.manifest["layers"]]
        self.diff_ids = [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}" for layer in plain]
        self.layers = [tarfile.TarFile(fileobj=layer) for layer in plain]

    def blob(self, descriptor: Any) -> bytes:
        kind, _, digest = descriptor["digest"].partition(":")
        content = self._files[f"blobs/{kind}/{digest}"]
        assert len(content) == descriptor["size"]
        assert hashlib.sha256(content).hexdigest() == digest
        return content


@pytest.fixture(scope="module")
def image(dist: Path) -> Image:
    return Image(next(dist.glob("*.oci.tar")))


@pytest.fixture(scope="module")
def root(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    for layer in image.layers:
        layer.extractall(folder, filter="fully_trusted")  # noqa: S202  # our own, with its owners and modes
    folder.chmod(0o755)
    return folder


def test_what_it_says_of_itself(image: Image, facts: dict[str, str]) -> None:
    config, labels = image.config["config"], image.config["config"]["Labels"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["/opt/mcpgw-sidecar/mcpgw-sidecar"]
    assert labels.get("org.opencontainers.image.revision") == facts.get("commit")
    assert (
        labels["org.opencontainers.image.version"] in image.index["manifests"][0]["annotations"]["io.containerd.image.name"]
    )
    assert {
        "org.opencontainers.image.title",
        "org.opencontainers.image.licenses",
        "org.opencontainers.image.created",
    } <= set(labels)


def test_its_layers_are_what_its_configuration_says(image: Image) -> None:
    assert image.diff_ids == image.config["rootfs"]["diff_ids"]


def test_nothing_in_it_may_be_changed_by_its_user(image: Image) -> None:
    for layer in image.layers:
        for member in layer:
            assert (member.uid, member.gid) == (0, 0)
            writable = member.mode & 0o022 and not member.issym()
            assert not writable or member.name == "tmp", member.name
            assert not member.mode & 0o6000, member.name


def test_there_is_no_shell_and_no_other_program(root: Path) -> None:
    programs = [path for path in root.rglob("*") if path.is_file() and os.access(path, os.X_OK) and ".so" not in path.name]
    assert {path.resolve().relative_to(root) if not path.is_symlink() else path for path in programs} == {
        Path("opt/mcpgw-sidecar/mcpgw-sidecar")
    }


def test_its_bill_of_materials_knows_what_is_beside_the_program(root: Path, bill: Any) -> None:
    document = json.loads((root / "usr/share/sbom/mcpgw-sidecar.cdx.json").read_text())
    beside = document["components"][len(bill["components"]) :]
    assert document["components"][: len(bill["components"])] == bill["components"]
    if shutil.which("dpkg-query") is not None:
        assert [component["name"] for component in beside] == ["libc6", "zlib1g"]
        assert (root / "usr/share/licenses/libc6/copyright").exists()


# A container runtime in small: own mounts and process ids, the image read-only, one writable
# directory (a volume), no capabilities.
RUNTIME = """
set -e
root="$1" volume="$2"; shift 2
mkdir -p "$root$volume"
mount --bind "$root" "$root"
mount --bind "$volume" "$root$volume"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
cd /
# No exec: this shell stays the first process of its namespace, and its end is the end of all in it.
if [ "$NAMESPACE" = user ]; then chroot "$root" "$@"; exit $?; fi
setpriv --no-new-privs chroot --userspec=65532:65532 "$root" "$@"
exit $?
"""


def contained(root: Path, volume: Path) -> tuple[str, ...]:
    namespace = [] if os.geteuid() == 0 else ["--map-root-user"]
    return (
        "env",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        f"NAMESPACE={'root' if os.geteuid() == 0 else 'user'}",
        "unshare",
        *namespace,
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        RUNTIME,
        "sh",
        str(root),
        str(volume),
    )


@pytest.fixture
def volume(tmp_path: Path, root: Path) -> Path:
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [*contained(root, tmp_path), "/opt/mcpgw-sidecar/mcpgw-sidecar", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    if re.match(r"(unshare|mount): ", done.stderr):
        pytest.skip(f"this machine allows no namespaces: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.fixture
def one() -> Iterator[ScriptedServer]:
    with ScriptedServer(tool("one")) as server:
        yield server


class Contained(Gateway):
    """A gateway with the image's sidecar; Envoy is outside and reads its files in the volume."""

    program = ("/opt/mcpgw-sidecar/mcpgw-sidecar",)


@pytest.fixture
def running(root: Path, volume: Path, one: ScriptedServer) -> Iterator[Contained]:
    Contained.launcher = contained(root, volume)
    new_gateway = Contained(volume, [entry("ns/one", one.url, "a_")])
    yield new_gateway
    new_gateway.stop()


def test_a_call_through_it(running: Contained) -> None:
    with running.client() as client:
        assert text_of(client.call("a_one"))
    if os.geteuid() == 0:
        assert os.stat(running.directory / "envoy" / "bootstrap.yaml").st_uid == USER
