"""The Debian package: what it installs and asks for, and what systemd says of its units."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

# What `systemd-analyze security` calls OK; docs/vm.md has the verdicts. They are those of a file:
# no unit is started.
EXPOSURE = 20  # tenths
UNITS = ("mcpgw-sidecar.service", "mcpgw-envoy.service")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deb(dist: Path) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here to look into the package")
    return next(dist.glob("*.deb"))


@pytest.fixture(scope="module")
def root(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deb")
    run("dpkg-deb", "-x", str(deb), str(folder))
    return folder


def test_what_it_asks_for(deb: Path, facts: dict[str, str]) -> None:
    control = run("dpkg-deb", "-I", str(deb))
    assert re.search(rf"Depends: libc6 \(>= {re.escape(facts['glibc'])}\), zlib1g, systemd\n", control)
    assert "/etc/mcpgw-sidecar/config.yaml" in run("dpkg-deb", "-I", str(deb), "conffiles")


def test_what_it_installs(root: Path, folder: Path, facts: dict[str, str]) -> None:
    assert facts.get("commit", "") in run(str(root / "usr/bin/mcpgw-sidecar"), "--version")
    assert "0 servers" in run(str(root / "usr/bin/mcpgw-sidecar"), "check", str(root / "etc/mcpgw-sidecar/config.yaml"))
    assert (root / "etc/mcpgw-sidecar/config.yaml").stat().st_mode & 0o777 == 0o640, "it may hold credentials"
    installed = root / "usr/lib/mcpgw-sidecar"
    names = {path.relative_to(folder) for path in folder.rglob("*")}
    assert {path.relative_to(installed) for path in installed.rglob("*")} == names
    assert (root / "usr/share/doc/mcpgw-sidecar/vm.md").read_text().startswith("# ")


def test_every_variable_of_the_units_is_an_option(root: Path) -> None:
    output = run(str(root / "usr/bin/mcpgw-sidecar"), "run", "--help")
    unit = (root / "usr/lib/systemd/system/mcpgw-sidecar.service").read_text()
    environment = (root / "etc/mcpgw-sidecar/environment").read_text()
    used = set(re.findall(r"MCPGW_\w+", unit + environment))
    assert len(used) > 6
    assert used <= set(re.findall(r"MCPGW_\w+", output))


@pytest.mark.parametrize("unit", UNITS)
def test_what_systemd_says(root: Path, unit: str) -> None:
    if shutil.which("systemd-analyze") is None or "--threshold" not in run("systemd-analyze", "--help"):
        pytest.skip("no systemd-analyze of systemd 250 or later here")
    path = root / "usr/lib/systemd/system" / unit
    threshold = f"--threshold={EXPOSURE}"
    assert re.search(
        r"Overall exposure level for \S+: [01]\.\d OK",
        run("systemd-analyze", "security", "--offline=true", threshold, str(path)),
    )
