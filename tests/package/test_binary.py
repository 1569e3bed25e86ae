"""The frozen program, as a folder and as a file: its contents and its needs.

Programs that it starts find their own libraries.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from tests.e2e.stack import PROGRAM, WAIT, Client, Process, environment, free_ports, text_of, wait_until

MB = 1_000_000


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT * 2, env=environment() | env, check=False)


def elf_files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if path.open("rb").read(4) == b"\x7fELF"]


def test_sizes(folder: Path, single: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if not path.is_symlink()) <= 50 * MB
    assert single.stat().st_size <= 25 * MB


def test_version(folder: Path, single: Path, facts: dict[str, str]) -> None:
    for program in (folder / "mcpgw-sidecar", single):
        output = run(str(program), "--version").stdout
        assert re.match(
            r"mcpgw-sidecar \d+\.\d+\.\d+( \(commit [0-9a-f]{12}(\+changes)?\))?\nPython 3\.\d+\.\d+, OpenSSL \d", output
        )
        assert f"for glibc {facts['glibc']} or later" in output
        assert re.search(r"\btrio \d", output)
        assert re.search(r"\bcryptography \d", output)


def test_bill_of_materials(folder: Path, bill: Any) -> None:
    printed = run(str(folder / "mcpgw-sidecar"), "--version", "--json").stdout
    assert json.loads(printed) == bill
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(printed) is None
    components = {component["name"].lower(): component for component in bill["components"]}
    names = {"python", "openssl", "trio", "hypercorn", "grpclib", "kubernetes", "mcp", "attrs", "cattrs", "cryptography"}
    assert names <= set(components)
    inside = {part["name"] for part in components["cryptography"]["components"]}
    assert "openssl" in inside, "what a wheel says is linked into it"
    assert "pytest" not in components


def test_everybodys_licence_is_there(folder: Path, bill: Any) -> None:
    text = (folder / "LICENSES.txt").read_text()
    for component in bill["components"]:
        assert re.search(rf"\n=+\n{re.escape(component['name'])} {re.escape(component['version'])}: ", text), component[
            "name"
        ]


def test_no_file_is_of_nobody(folder: Path, bill: Any) -> None:
    """The bill has a component, by its module's name, for each folder and library."""
    modules = {re.sub(r"[-.]", "_", component["name"]).lower() for component in bill["components"]}
    aliases = {"attrs": "attr", "pyyaml": "yaml", "rpds_py": "rpds", "protobuf": "google", "cffi": "_cffi_backend"}
    modules |= {aliases[name] for name in modules if name in aliases} | {"mcpgw_sidecar", "base_library"}
    for path in (folder / "_internal").iterdir():
        name = re.split(r"[.-]", path.name.lower())[0]
        library = name.startswith(("lib", "python3")) or "__mypyc" in name
        assert library or name in modules, path


def test_the_glibc_that_is_stated_is_the_one_that_is_needed(folder: Path, facts: dict[str, str]) -> None:
    needed = {(2, 0)}  # of what lies there, which is more than the build looked at: the program itself, and what strip left
    for path in elf_files(folder):
        with path.open("rb") as stream:
            for section in ELFFile(stream).iter_sections():
                if isinstance(section, GNUVerNeedSection):
                    names = [each.name for _, versions in section.iter_versions() for each in versions]
                    needed |= {
                        tuple(map(int, name[6:].split("."))) for name in names if re.fullmatch(r"GLIBC_[0-9.]+", name)
                    }
    assert ".".join(map(str, max(needed))) == facts["glibc"]


def test_no_library_is_looked_for_where_it_was_on_the_build_machine(folder: Path) -> None:
    for path in elf_files(folder):
        with path.open("rb") as stream:
            dynamic = ELFFile(stream).get_section_by_name(".dynamic")
            for tag in dynamic.iter_tags() if dynamic else ():
                where = getattr(tag, "rpath", None) or getattr(tag, "runpath", "")
                assert not where.startswith("/"), (path, where)


def test_checksums(dist: Path) -> None:
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


PLUGIN = """#!/bin/sh
env > {seen}
echo '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"x"}}}}'
"""


@pytest.mark.parametrize("given", [None, "/opt/lib"])
def test_a_credential_plugin_finds_its_own_libraries(tmp_path: Path, folder: Path, given: str | None) -> None:
    """The frozen program's own library path would lead another program to the wrong OpenSSL."""
    del folder
    environment_file, plugin, config = tmp_path / "seen", tmp_path / "plugin", tmp_path / "kubeconfig"
    plugin.write_text(PLUGIN.format(seen=environment_file))
    plugin.chmod(0o755)
    execute = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{free_ports(1)[0]}"}}],
                "users": [{"name": "u", "user": {"exec": execute}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    addresses = [
        f"--{name}-address=127.0.0.1:{port}" for name, port in zip(("router", "broker", "admin"), free_ports(3), strict=True)
    ]
    env = {"KUBECONFIG": str(config)} | ({"LD_LIBRARY_PATH": given} if given else {})
    process = Process([*PROGRAM, "run", "--kubernetes", "--namespace=x", *addresses], tmp_path / "log", **env)
    try:
        wait_until(lambda: environment_file.exists() and environment_file.read_text(), process.text)
        variables = dict(line.split("=", 1) for line in environment_file.read_text().splitlines() if "=" in line)
        assert variables.get("LD_LIBRARY_PATH") == given
    finally:
        process.stop()


@pytest.mark.duty("cli.demo")
def test_the_single_file_runs_the_demo(single: Path, tmp_path: Path) -> None:
    """It starts itself twice more, and Envoy, which it finds on PATH; nothing stays behind."""
    ports = dict(zip(("gateway", "broker", "router", "admin"), free_ports(4), strict=True))
    options = [f"--{name}-address=127.0.0.1:{port}" for name, port in ports.items()]
    # A short one: Envoy's socket is in it, and the path of a socket has 107 bytes at the most.
    temporary = tempfile.mkdtemp(prefix="d")
    demo = Process([str(single), "demo", *options], tmp_path / "log", TMPDIR=temporary)
    try:
        wait_until(lambda: "Ctrl-C ends everything" in demo.text, "the demo's words")
        assert f"{single} tools --url" in demo.text
        with Client(f"http://127.0.0.1:{ports['gateway']}/mcp") as client:
            assert text_of(client.call("test_greet", name="Ada")) == "Hi Ada"
        demo.signal(signal.SIGTERM)
        assert demo.wait() == 0, demo.text
        assert os.listdir(temporary) == []
    finally:
        demo.stop()
        shutil.rmtree(temporary)
