"""`mcpgw-sidecar inject`: puts the sidecar into the text of manifests; comments and order stay."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import AliasToken
from ruamel.yaml.util import load_yaml_guess_indent

from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.manifests.container import Sidecar
from mcpgw_sidecar.manifests.sidecar import Injected, inject

_DOCUMENTS = re.compile(r"^(?=---(?:\s|$))", re.MULTILINE)


def injected(text: str, source: str, sidecar: Sidecar) -> tuple[str, list[Injected]]:
    """The text with the sidecar in its workloads. Raises ConfigurationError.

    A document without a change stays as it is, byte for byte.
    """
    results: list[Injected] = []
    parts: list[str] = []
    line = 1
    for part in _DOCUMENTS.split(text):
        new_part, part_results = _document(part, source, line, sidecar)
        results += part_results
        parts.append(new_part)
        line += part.count("\n")
    return "".join(parts), results


def _document(text: str, source: str, line: int, sidecar: Sidecar) -> tuple[str, list[Injected]]:
    try:
        yaml = _yaml(text)
        document = yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = line + (mark.line if mark is not None else 0)
        hint = ": a template? Render it first" if "{{" in text else ""
        raise ConfigurationError([f"{source}:{at}: not YAML: {getattr(error, 'problem', None) or error}{hint}"]) from None
    except RecursionError:
        raise ConfigurationError([f"{source}:{line}: nested too deeply"]) from None
    results = inject(document, sidecar) if isinstance(document, CommentedMap) else []
    if not any(result.changed for result in results):
        return text, results
    _check_plain(text, source, line)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue().replace("\n", "\r\n" if "\r\n" in text else "\n"), results


def _check_plain(text: str, source: str, line: int) -> None:
    """Refuse what a change would damage.

    These are templates, which are not YAML yet, and aliases, because a change of the anchored value
    is one of each alias.
    """
    template = text.find("{{")
    if template >= 0:
        at = line + text.count("\n", 0, template)
        raise ConfigurationError([f"{source}:{at}: a template ({{{{ … }}}}): render it first, or inject what it makes"])
    for token in YAML(typ="safe", pure=True).scan(text):
        if isinstance(token, AliasToken):
            at = line + token.start_mark.line
            raise ConfigurationError(
                [f"{source}:{at}: an alias (*{token.value}): a change of one place would be one of others; write it out"]
            )


def result_lines(results: Iterable[Injected]) -> list[str]:
    """The lines on stderr about the results."""
    lines = []
    for result in results:
        if result.problem is not None:
            lines.append(f"{result.name}: not injected: {result.problem}")
        else:
            lines.append(f"{result.name}: {'injected' if result.changed else 'has it already'}")
        if result.remark is not None:
            lines.append(f"{result.name}: {result.remark}")
    return lines


def _yaml(text: str) -> YAML:
    """A YAML reader and writer that keeps the style of a document."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    yaml.explicit_start = text.startswith("---")
    try:
        _, indent, offset = load_yaml_guess_indent(io.StringIO(text))
    except (YAMLError, ValueError, IndexError):
        return yaml
    if indent is not None:
        yaml.indent(mapping=_mapping_indent(text), sequence=indent, offset=offset or 0)
    return yaml


def _mapping_indent(text: str) -> int:
    """The indentation of mappings, taken from the first indented line."""
    match = re.search(r"^[^\s#-][^\n]*:[ \t]*(?:#[^\n]*)?\r?\n( +)\S", text, re.MULTILINE)
    return len(match[1]) if match else 2
