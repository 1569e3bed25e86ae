"""The values of a YAML document with their lines, and what may not be read at all."""

from __future__ import annotations

from typing import Any

import attrs
import yaml

Path = tuple[str | int, ...]
MAX_DEPTH = 20  # the file needs five


@attrs.frozen
class Problem:
    """A fault at a place."""

    path: Path
    text: str


class Tree:
    """The plain values of a YAML document, and the line of each."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401  # whatever the file holds
        """The value of a node, at a path."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            case _:
                try:
                    return self._constructor.construct_object(node)
                except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
                    # 2024-02-30, 0x_, !!int x: YAML takes these for a date or a number, which they
                    # are not.
                    self.problems.append(Problem(path, "cannot be read: write it in quotes"))
                    return ""

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(path, "a key must be a text"))
                continue
            key = str(key_node.value)
            inner = (*path, key)
            self.lines[inner] = key_node.start_mark.line + 1
            if key in mapping:
                self.problems.append(Problem(inner, "stands there twice: remove one"))
            mapping[key] = self.value(value_node, inner)
        return mapping


def hazard(text: str) -> str | None:
    """What in a text would exhaust the process: deep nesting, or aliases. None for a text without.

    The parser's events show it without recursion.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            return f"{line}: nested too deeply"
        # An alias within its own value has no end; ten levels of ten aliases are ten thousand
        # million values.
        if isinstance(event, yaml.AliasEvent):
            return f"{line}: aliases (*{event.anchor}) are not supported: write the value out"
    return None


def yaml_place(error: yaml.YAMLError) -> str:
    """The line of a fault, and what it is."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"{mark.line + 1 if mark else 1}: not YAML: {what}"
