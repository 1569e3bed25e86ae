"""The house as it is described: sizes, the picture of the rooms, files that documents name."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mcpgw_sidecar"
MAX_MODULE, MAX_CLASS = 300, 200  # lines
GENERATED = {"ext_proc_pb2.py"}


def modules() -> Iterator[Path]:
    return (path for path in sorted(PACKAGE.rglob("*.py")) if path.name not in GENERATED)


def test_no_module_and_no_class_is_too_long() -> None:
    for path in modules():
        text = path.read_text()
        assert text.count("\n") <= MAX_MODULE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                assert (node.end_lineno or 0) - node.lineno < MAX_CLASS, f"{path}: {node.name}"


def test_the_picture_of_the_rooms_shows_the_layers_that_are_held() -> None:
    """ARCHITECTURE.md has each layer on a line, the highest first, as import-linter has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = project["tool"]["importlinter"]["contracts"][0]
    layers = [{part.strip() for part in layer.split("|")} for layer in contract["layers"]]
    picture = (ROOT / "ARCHITECTURE.md").read_text().partition("## The rooms")[2].partition("```")[2].partition("```")[0]
    rooms = [line.partition(" — ")[0] for line in picture.splitlines() if " — " in line]
    assert [set(re.findall(r"\w+", room)) for room in rooms] == layers


def test_documents_name_files_that_are_there() -> None:
    for name in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        for path in set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|lua))`", text)):
            assert (ROOT / path).exists() or (PACKAGE / path).exists(), f"{name} names {path}"
