"""`mcpgw-sidecar inject`: manifests in, the same with the sidecar out; comments and order stay."""

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
    if not any(each.changed for each in results):
        return text, results
    _check_plain(text, source, line)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue().replace("\n", "\r\n" if "\r\n" in text else "\n"), results


def _check_plain(text: str, source: str, line: int) -> None:
    """What would not come out as what it was: templates, which are no YAML yet, and aliases, by which one change becomes several."""
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
        yaml.indent(mapping=_mapping_indent(text), sequence=indent, offset=offset or 0)
    return yaml


def _mapping_indent(text: str) -> int:
    """How far the file indents: by the first line that is."""
    found = re.search(r"^[^\s#-][^\n]*:[ \t]*(?:#[^\n]*)?\r?\n( +)\S", text, re.MULTILINE)
    return len(found[1]) if found else 2
