"""The parts of this program, as a text and as a bill of materials.

The bill has the format CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/). A frozen program
contains the bill from its build (build/packaging/bill.py uses these functions); an installed one
lists the installed packages.
"""

from __future__ import annotations

import json
import platform
import re
import ssl
from collections.abc import Iterable
from importlib import metadata
from importlib.resources import files
from typing import Any

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.runtime.frozen import BILL, COMMIT, FROZEN

GLIBC = "mcpgw:glibc"
_SHORT = 60  # characters; some packages have the text of their licence in place of its name
_LINE = 110  # columns
Bill = dict[str, Any]
Component = dict[str, Any]


def bill_of_materials() -> Bill:
    """The bill of this program."""
    if FROZEN:
        build_bill: Bill = json.loads((files("mcpgw_sidecar") / BILL).read_text(encoding="utf-8"))
        return build_bill
    return bill([*runtime(), *(library(package) for package in _dependencies(PROGRAM))])


def bill(components: Iterable[Component], **properties: str) -> Bill:
    """A bill of components; `properties` are facts of the program, without the prefix `mcpgw:`."""
    facts = [{"name": f"mcpgw:{name}", "value": value} for name, value in properties.items()]
    program = {
        "type": "application",
        "bom-ref": f"pkg:pypi/{PROGRAM}@{__version__}",
        "name": PROGRAM,
        "version": __version__,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "properties": [*facts, {"name": "mcpgw:machine", "value": platform.machine()}],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": program},
        "components": list(components),
    }


def runtime() -> list[Component]:
    """Python and its OpenSSL, as components."""
    python, openssl = platform.python_version(), ssl.OPENSSL_VERSION.split()[1]
    return [
        {
            "type": "platform",
            "bom-ref": f"pkg:generic/python@{python}",
            "name": "Python",
            "version": python,
            "purl": f"pkg:generic/python@{python}",
            "licenses": [{"license": {"id": "PSF-2.0"}}],
        },
        {
            "type": "library",
            "bom-ref": f"pkg:generic/openssl@{openssl}",
            "name": "OpenSSL",
            "version": openssl,
            "purl": f"pkg:generic/openssl@{openssl}",
            "licenses": [{"license": {"id": "Apache-2.0"}}],
        },
    ]


def library(package: metadata.Distribution) -> Component:
    """A Python package, as a component."""
    name, version = package.metadata["Name"], package.version
    purl = f"pkg:pypi/{_normal(name)}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": _licences(package),
    }


def words(materials: Bill) -> str:
    """The bill for people: version and commit, platform, libraries."""
    facts = {fact["name"]: fact["value"] for fact in materials["metadata"]["component"]["properties"]}
    versions = {component["name"]: component["version"] for component in materials["components"]}
    commit = f" (commit {facts[COMMIT]})" if COMMIT in facts else ""
    glibc = f", for glibc {facts[GLIBC]} or later" if GLIBC in facts else ""
    platform_line = f"Python {versions.pop('Python')}, OpenSSL {versions.pop('OpenSSL')}, {facts['mcpgw:machine']}{glibc}"
    libraries = sorted((f"{name} {version}" for name, version in versions.items()), key=str.lower)
    return "\n".join([f"{PROGRAM} {__version__}{commit}", platform_line, *_wrapped_lines(libraries)])


def _wrapped_lines(texts: list[str]) -> list[str]:
    lines = [""]
    for text in texts:
        if len(lines[-1]) + len(text) + 2 > _LINE:
            lines.append("")
        lines[-1] += f"{', ' if lines[-1] else ''}{text}"
    return lines


def _dependencies(name: str) -> list[metadata.Distribution]:
    """The installed packages that a package needs, directly or through others.

    The package's own extras count when they are installed. The package itself is left out.
    """
    packages: dict[str, metadata.Distribution] = {}
    queue = [name]
    while queue:
        key = _normal(queue.pop())
        try:
            package = packages.get(key) or metadata.distribution(key)
        except metadata.PackageNotFoundError:
            continue
        if key not in packages:
            packages[key] = package
            queue += [
                re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
                for line in package.requires or ()
                if key == name or "extra ==" not in line
            ]
    return [package for key, package in sorted(packages.items()) if key != name]


def _licences(package: metadata.Distribution) -> list[dict[str, Any]]:
    fields = package.metadata.json
    if expression := fields.get("license_expression"):
        return [{"expression": expression}]
    licence = fields.get("license", "")
    if 0 < len(licence) < _SHORT:
        return [{"license": {"name": licence}}]
    names = [line.rpartition(" :: ")[2] for line in fields.get("classifier", ()) if line.startswith("License ::")]
    return [{"license": {"name": name}} for name in names]


def _normal(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
