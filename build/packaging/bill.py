"""What is in the frozen program: the bill of materials that it carries, and everybody's licence.

Each file that PyInstaller took belongs to a Python package, to Python itself, to a package of the
system, or to us; a file of nobody ends the build.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from mcpgw_sidecar import __version__
from mcpgw_sidecar.cli import version

ORIGINS: dict[str, str] = {}
"""Files that were changed on their way into the program, and what they were made of."""

Component = dict[str, Any]
_ROOT = Path(__file__).parents[2]
_TEXT = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS|copyright)", re.IGNORECASE)
_CARRIED = ("name", "version", "type", "purl", "licenses", "hashes")
_PACKAGERS = ("pyinstaller",)  # its loader starts the program


def components(found: Any) -> list[tuple[Component, list[Path]]]:  # noqa: ANN401  # PyInstaller's Analysis
    """Every component with the texts of its licence, by name."""
    owners = {str(one.locate_file(file).resolve()): one for one in metadata.distributions() for file in one.files or ()}
    packages = {name: metadata.distribution(name) for name in _PACKAGERS}
    foreign: dict[str, tuple[Component, list[Path]]] = {}
    for _, source, _ in [*found.pure, *found.binaries, *found.datas]:
        if source == "-":  # a namespace, which has no file
            continue
        path = Path(ORIGINS.get(source, source)).resolve()
        if _is_pythons(path) or any(path.is_relative_to(_ROOT / ours) for ours in ("mcpgw_sidecar", "k8s")):
            continue
        if (owner := owners.get(str(path))) is not None:
            packages[owner.metadata["Name"]] = owner
        else:
            one = of_the_system(path)
            foreign[one[0]["bom-ref"]] = one
    python, openssl = version.runtime()
    linked = next((texts for one, texts in foreign.values() if one["name"].startswith("libssl")), [])
    return [
        (python, [_python_licence()]),
        (openssl, linked),
        *((_library(one), _texts(one)) for _, one in sorted(packages.items(), key=lambda each: each[0].lower())),
        *(foreign[name] for name in sorted(foreign)),
    ]


def write(directory: Path, found: list[tuple[Component, list[Path]]], glibc: str) -> Path:
    """Write bill.json, which goes into the program, and LICENSES.txt, which goes beside it.

    Gives the path of the first.
    """
    facts = {"glibc": glibc}
    if commit := os.environ.get("MCPGW_COMMIT"):
        facts["commit"] = commit
    bill = directory / version.BILL
    bill.write_text(json.dumps(version.bill((one for one, _ in found), **facts), indent=1), encoding="utf-8")
    (directory / "LICENSES.txt").write_text(_licences(found), encoding="utf-8")
    return bill


def newest_glibc(files: Iterable[str]) -> str:
    """The newest version of glibc's symbols that these ELF files ask for, as `2.35`."""
    needed = {(2, 0)}
    for file in files:
        with open(file, "rb") as stream:
            for section in ELFFile(stream).iter_sections():
                if isinstance(section, GNUVerNeedSection):
                    for _, versions in section.iter_versions():
                        names = [each.name for each in versions]
                        needed |= {_number(name) for name in names if re.fullmatch(r"GLIBC_[0-9.]+", name)}
    return ".".join(map(str, max(needed)))


def _number(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.removeprefix("GLIBC_").split(".")))


def _library(one: metadata.Distribution) -> Component:
    """A Python package and what its wheel says is linked into it (PEP 770)."""
    component = version.library(one)
    inside = [
        {key: each[key] for key in _CARRIED if key in each}
        for file in one.files or ()
        if file.parent.name == "sboms" and file.suffix == ".json"
        for each in json.loads(file.read_text()).get("components", ())
    ]
    if component["name"] in _PACKAGERS:  # its description names the licence without what makes it possible to use it here
        component["licenses"] = [{"expression": "GPL-2.0-or-later WITH Bootloader-exception"}]
    return component | ({"components": inside} if inside else {})


def _texts(one: metadata.Distribution) -> list[Path]:
    files = [
        file for file in one.files or () if ".dist-info" in str(file) and _TEXT.search(str(file).partition(".dist-info")[2])
    ]
    return sorted(Path(str(one.locate_file(file))) for file in files if file.suffix != ".py")


def _is_pythons(path: Path) -> bool:
    if path.name == "base_library.zip":  # the standard library's part that is needed before anything can be imported
        return True
    library = Path(sysconfig.get_path("stdlib"))
    return path.is_relative_to(Path(sys.base_prefix).resolve() / "lib" / library.name) or path.name.startswith("libpython")


def _python_licence() -> Path:
    return Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"


def of_the_system(path: Path) -> tuple[Component, list[Path]]:
    """The package of the system that a library came with; without dpkg the library's own name."""
    if shutil.which("dpkg-query") is not None:
        for known in (str(path), str(path).removeprefix("/usr")):
            done = subprocess.run(["dpkg-query", "-S", known], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                package = done.stdout.partition(":")[0]
                show = ["dpkg-query", "-W", "-f=${source:Package} ${Version}", package]
                source, number = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split()
                purl = f"pkg:deb/{_distribution()}/{package}@{number.replace('+', '%2B')}"
                text = Path("/usr/share/doc") / package / "copyright"
                component = {"type": "library", "bom-ref": purl, "name": package, "version": number, "purl": purl}
                component["description"] = f"of the source package {source}"
                return component, [text] if text.exists() else []
        raise SystemExit(f"{path} belongs to no package: whose is it, under which licence?")
    name = path.name
    return {"type": "library", "bom-ref": f"file:{name}", "name": name, "version": "of the build machine"}, []


def _distribution() -> str:
    return platform.freedesktop_os_release()["ID"]


def _licences(found: list[tuple[Component, list[Path]]]) -> str:
    ours = (
        {"name": "mcpgw-sidecar", "version": __version__, "licenses": [{"license": {"id": "Apache-2.0"}}]},
        [_ROOT / "LICENSE"],
    )
    found = [ours, *found]
    parts = ["mcpgw-sidecar is made of what is listed here; each part is under its own licence.\n"]
    parts += [f"{one['name']} {one['version']}: {_names(one)}" for one, _ in found]
    for one, texts in found:
        for text in texts:
            parts.append(f"\n{'=' * 100}\n{one['name']} {one['version']}: {text.name}\n{'=' * 100}\n")
            parts.append(text.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(parts)


def _names(one: Component) -> str:
    said = [
        each.get("expression") or each["license"].get("id") or each["license"]["name"] for each in one.get("licenses", ())
    ]
    inside = len(one.get("components", ()))
    more = f", with {inside} parts inside that --version --json lists" if inside else ""
    return (" or ".join(said) or "see its text below") + more
