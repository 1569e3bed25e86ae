"""The container image, written as an OCI archive without a daemon.

`python build/packaging/image.py FOLDER ARCHIVE`.

Two layers: the base (what the frozen program asks the system for: the loader and glibc of the build
machine, Mozilla's certificates, names for users and hosts), and the program's folder. No shell, no
package manager, no Python besides the program's own. Everything belongs to root and is read-only
for the program's user; every time stamp is SOURCE_DATE_EPOCH, so that the same program gives the
same image.

Formats: https://github.com/opencontainers/image-spec (image-layout.md, layer.md, config.md).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certifi
from bill import of_the_system

PROGRAM = "mcpgw-sidecar"
HOME = f"opt/{PROGRAM}"
USER = 65532  # "nonroot", as in other images without a distribution; the pods' manifests name it too
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FILES = {
    "etc/passwd": f"root:x:0:0:root:/:/sbin/nologin\n{PROGRAM}:x:{USER}:{USER}:{PROGRAM}:/:/sbin/nologin\n",
    "etc/group": f"root:x:0:\n{PROGRAM}:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": f'ID={PROGRAM}\nPRETTY_NAME="{PROGRAM}"\n',
}


class Layer:
    """A layer in the making: files in the order in which they are added."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # closed by packed
        self._made: set[str] = set()

    def add(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file, and the directories above it."""
        self._above(name)
        self._put(name, tarfile.REGTYPE, mode, content)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._above(name)
        self._put(name, tarfile.SYMTYPE, 0o777, target=target)

    def directory(self, name: str, mode: int = 0o755) -> None:
        """A directory, once."""
        if name not in self._made:
            self._above(name)
            self._made.add(name)
            self._put(name, tarfile.DIRTYPE, mode)

    def plain(self) -> bytes:
        """The archive; nothing is added after that."""
        self._tar.close()
        return self._bytes.getvalue()

    def packed(self) -> tuple[bytes, str]:
        """The compressed layer, and the digest of what is in it (diff_id)."""
        plain = self.plain()
        return gzip.compress(plain, mtime=0), digest(plain)

    def _above(self, name: str) -> None:
        if parent := name.rpartition("/")[0]:
            self.directory(parent)

    def _put(self, name: str, kind: bytes, mode: int, content: bytes = b"", target: str = "") -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.size, info.linkname = kind, mode, EPOCH, len(content), target
        self._tar.addfile(info, io.BytesIO(content))


def digest(content: bytes) -> str:
    """As OCI writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def base(folder: Path) -> Layer:
    """The layer below the program."""
    layer = Layer()
    for name in ("etc", "lib", "lib64", "opt", "usr/bin", "proc", "sys", "dev", "run"):
        layer.directory(name)
    layer.directory("tmp", 0o1777)
    for name, text in _FILES.items():
        layer.add(name, text.encode())
    layer.add("etc/ssl/certs/ca-certificates.crt", Path(certifi.where()).read_bytes())
    libraries = _libraries(folder)
    for name, source in sorted(libraries.items()):
        layer.add(name, source.read_bytes(), 0o755)
    beside = {component["bom-ref"]: (component, texts) for component, texts in map(of_the_system, libraries.values())}
    layer.add(f"usr/share/sbom/{PROGRAM}.cdx.json", _json(_bill(folder, [component for component, _ in beside.values()])))
    for component, texts in beside.values():
        for text in texts:
            layer.add(f"usr/share/licenses/{component['name']}/{text.name}", text.read_bytes())
    return layer


def _bill(folder: Path, beside: list[dict[str, Any]]) -> dict[str, Any]:
    """The program's bill of materials, and what is in the image beside the program."""
    bill: dict[str, Any] = json.loads((folder / "bill.cdx.json").read_text(encoding="utf-8"))
    return {**bill, "components": [*bill["components"], *beside]}


def program(folder: Path) -> Layer:
    """The layer with the frozen program, nothing left out."""
    layer = Layer()
    for path in sorted(folder.rglob("*")):
        name = f"{HOME}/{path.relative_to(folder)}"
        if path.is_symlink():
            layer.link(name, os.readlink(path))
        elif path.is_dir():
            layer.directory(name)
        else:
            layer.add(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
    layer.link(f"usr/bin/{PROGRAM}", f"/{HOME}/{PROGRAM}")
    return layer


def _libraries(folder: Path) -> dict[str, Path]:
    """Where in the image each library of the system lies that the program asks for, by ldd."""
    found: dict[str, Path] = {}
    files = [folder / PROGRAM, *(path for path in folder.rglob("*.so*") if not path.is_symlink())]
    for file in files:
        # The program itself is loaded before it can say where its own libraries are.
        environment = {**os.environ, "LD_LIBRARY_PATH": "" if file.name == PROGRAM else str(folder / "_internal")}
        said = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=True, env=environment).stdout
        if missing := re.search(r"(\S+) => not found", said):
            raise SystemExit(f"{file} needs {missing[1]}, which is not on this machine")
        for path in re.findall(r"(/\S+) \(0x", said):
            if not Path(path).is_relative_to(folder):
                found[path.removeprefix("/").removeprefix("usr/")] = Path(path).resolve()
    return found


def archive(folder: Path) -> bytes:
    """The whole archive: oci-layout, index.json and the blobs."""
    about = _bill(folder, [])["metadata"]["component"]
    facts = {fact["name"]: fact["value"] for fact in about["properties"]}
    layers = [layer.packed() for layer in (base(folder), program(folder))]
    created = datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {
        "org.opencontainers.image.title": PROGRAM,
        "org.opencontainers.image.description": "One MCP endpoint for all your MCP servers, next to the Envoy that you already run",
        "org.opencontainers.image.version": about["version"],
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": created,
        **({"org.opencontainers.image.revision": facts["mcpgw:commit"]} if "mcpgw:commit" in facts else {}),
    }
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": created,
        "config": {
            "User": f"{USER}:{USER}",
            "Entrypoint": [f"/{HOME}/{PROGRAM}"],
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        "history": [{"created": created, "created_by": f"build/packaging/image.py: {what}"} for what in ("base", "program")],
    }
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, kind: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
        blobs[digest(content)] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(content), "size": len(content), **more}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(_json(config), "config.v1+json"),
        "layers": [blob(content, "layer.v1.tar+gzip") for content, _ in layers],
        "annotations": labels,
    }
    name = {
        "org.opencontainers.image.ref.name": about["version"],
        "io.containerd.image.name": f"{PROGRAM}:{about['version']}",
    }
    platform_ = {"architecture": config["architecture"], "os": "linux"}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [blob(_json(manifest), "manifest.v1+json", platform=platform_, annotations=name)],
    }
    out = Layer()
    out.add("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    out.add("index.json", _json(index))
    for name_, content in sorted(blobs.items()):
        out.add(f"blobs/{name_.replace(':', '/')}", content)
    return out.plain()


def _json(value: Any) -> bytes:  # noqa: ANN401  # JSON
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(archive(Path(sys.argv[1]).resolve()))
