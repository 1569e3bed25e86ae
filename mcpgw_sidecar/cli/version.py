"""What this program is made of: in words, and as a bill of materials (CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/).

A frozen program carries the bill that was written when it was built (build/packaging/bill.py, with these functions); an installed one looks at
the packages around it.
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
from mcpgw_sidecar.runtime.frozen import FROZEN

BILL = "bill.json"
"""The file beside the package that a frozen program carries."""
COMMIT, GLIBC = "mcpgw:commit", "mcpgw:glibc"
_SHORT = 60  # characters; some packages have the whole text of their licence where its name belongs
_LINE = 110  # columns
Bill = dict[str, Any]
Component = dict[str, Any]


def bill_of_materials() -> Bill:
    """The bill of this program."""
    if FROZEN:
        carried: Bill = json.loads((files("mcpgw_sidecar") / BILL).read_text(encoding="utf-8"))
        return carried
    return bill([*runtime(), *(library(found) for found in _required(PROGRAM))])


def bill(components: Iterable[Component], **properties: str) -> Bill:
    """A bill of these components; `properties` are facts of the program, by name without their `mcpgw:`."""
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
    """Python, and the OpenSSL that it speaks TLS with."""
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


def library(found: metadata.Distribution) -> Component:
    """A Python package, as a component."""
    name, version = found.metadata["Name"], found.version
    purl = f"pkg:pypi/{_normal(name)}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": _licences(found),
    }


def words(of: Bill) -> str:
    """The bill for a human: version and commit, what it runs on, its libraries."""
    facts = {fact["name"]: fact["value"] for fact in of["metadata"]["component"]["properties"]}
    known = {each["name"]: each["version"] for each in of["components"]}
    commit = f" (commit {facts[COMMIT]})" if COMMIT in facts else ""
    glibc = f", for glibc {facts[GLIBC]} or later" if GLIBC in facts else ""
    below = f"Python {known.pop('Python')}, OpenSSL {known.pop('OpenSSL')}, {facts['mcpgw:machine']}{glibc}"
    libraries = sorted((f"{name} {version}" for name, version in known.items()), key=str.lower)
    return "\n".join([f"{PROGRAM} {__version__}{commit}", below, *_wrapped(libraries)])


def _wrapped(texts: list[str]) -> list[str]:
    lines = [""]
    for text in texts:
        if len(lines[-1]) + len(text) + 2 > _LINE:
            lines.append("")
        lines[-1] += f"{', ' if lines[-1] else ''}{text}"
    return lines


def _required(name: str) -> list[metadata.Distribution]:
    """The installed packages that a package needs, and what these need, without itself; its own extras count where they are installed."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        wanted = _normal(waiting.pop())
        try:
            one = found.get(wanted) or metadata.distribution(wanted)
        except metadata.PackageNotFoundError:
            continue
        if wanted not in found:
            found[wanted] = one
            waiting += [
                re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
                for line in one.requires or ()
                if wanted == name or "extra ==" not in line
            ]
    return [one for wanted, one in sorted(found.items()) if wanted != name]


def _licences(found: metadata.Distribution) -> list[dict[str, Any]]:
    said = found.metadata.json
    if expression := said.get("license_expression"):
        return [{"expression": expression}]
    named = said.get("license", "")
    if 0 < len(named) < _SHORT:
        return [{"license": {"name": named}}]
    classified = [line.rpartition(" :: ")[2] for line in said.get("classifier", ()) if line.startswith("License ::")]
    return [{"license": {"name": name}} for name in classified]


def _normal(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
