"""`mcpgw-sidecar inject`: manifests in, the same with the sidecar out; comments and order stay."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.manifests.sidecar import Injected, Sidecar, inject

_DOCUMENTS = re.compile(r"^(?=---(?:\s|$))", re.MULTILINE)


def injected(text: str, source: str, sidecar: Sidecar) -> tuple[str, list[Injected]]:
    """The text with the sidecar in it; a document in which nothing changes stays byte for byte. Raises ConfigurationError."""
    results: list[Injected] = []
    parts: list[str] = []
    line = 1
    for part in _DOCUMENTS.split(text):
        changed, found = _document(part, source, line, sidecar)
        results += found
        parts.append(changed)
        line += part.count("\n")
    return "".join(parts), results


def _document(text: str, source: str, line: int, sidecar: Sidecar) -> tuple[str, list[Injected]]:
    yaml = _yaml(text)
    try:
        document = yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = line + (mark.line if mark is not None else 0)
        raise ConfigurationError([f"{source}:{at}: not YAML: {getattr(error, 'problem', None) or error}"]) from None
    except RecursionError:
        raise ConfigurationError([f"{source}:{line}: nested too deeply"]) from None
    results = inject(document, sidecar) if isinstance(document, CommentedMap) else []
    if not any(each.changed for each in results):
        return text, results
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue(), results


def told(results: Iterable[Injected]) -> list[str]:
    """What is said of them on stderr."""
    lines = []
    for each in results:
        if each.problem is not None:
            lines.append(f"{each.name}: not injected: {each.problem}")
        else:
            lines.append(f"{each.name}: {'injected' if each.changed else 'has it already'}")
        if each.remark is not None:
            lines.append(f"{each.name}: {each.remark}")
    return lines


def _yaml(text: str) -> YAML:
    """A reader and writer that keeps a document's own ways."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    yaml.explicit_start = text.startswith("---")
    try:
        _, indent, offset = load_yaml_guess_indent(io.StringIO(text))
    except (YAMLError, ValueError, IndexError):
        return yaml
    if indent is not None:
        yaml.indent(mapping=2, sequence=indent, offset=offset or 0)
    return yaml
