"""Decodes the YAML of a configuration.

It reports all problems at once, each with file:line, key and remedy.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from typing import Any, TypeVar, get_type_hints

import attrs
import cattrs
import yaml
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

from mcpgw_sidecar.catalog.ruletext import read_allow, read_policies, read_rules
from mcpgw_sidecar.config.limits import read_limits
from mcpgw_sidecar.config.login import read_authentication
from mcpgw_sidecar.config.schema import CHECKS, SECRET, AccessFile, Alternatives, ConfigFile, Policies, Rules
from mcpgw_sidecar.config.tree import Path, Problem, Tree, hazard, yaml_place
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.access import Access, Authentication, Limits, Policy
from mcpgw_sidecar.model.exchanges import TokenExchange
from mcpgw_sidecar.model.exchangetext import read_exchange
from mcpgw_sidecar.model.servers import DISCOVERY, ForwardedHeader, Server, VirtualServer
from mcpgw_sidecar.protocol.passing import read_forwarded

T = TypeVar("T", bound=AccessFile)
_KINDS = {"str": "a text", "bool": "true or false", "list": "a list", "dict": "keys and values"}
MAX_FILE = 8 << 20  # bytes: room for 10,000 servers; a log or a binary is refused before parsing


@attrs.frozen
class Content:
    """The content of a configuration, in the order of the text."""

    servers: tuple[Server, ...]
    virtual_servers: tuple[VirtualServer, ...]
    access: Access | None
    """None if no key of the access document is there."""

    policies: tuple[Policy, ...] = ()


def decode(text: str, source: str, *, has_access: bool = False) -> Content:
    """The content of a configuration file. Raises ConfigurationError with every problem found.

    With `has_access` the access document is elsewhere, and its keys may not stand here.
    """
    config, keys = _decoded(text, source, ConfigFile, "write 'servers: []' for a gateway without servers")
    of_access = sorted(keys & {field.name for field in attrs.fields(AccessFile)})
    if has_access and of_access:
        words = f"{of_access[0]} belongs into the document of --access: move it there, or give no --access"
        raise ConfigurationError([f"{source}: {words}"])
    return Content(
        tuple(entry.server() for entry in config.servers),
        tuple(entry.virtual_server() for entry in config.virtualServers),
        config.access() if of_access else None,
        config.policies,
    )


def decode_access(text: str, source: str) -> Access:
    """The content of an access document. Raises ConfigurationError with every problem found."""
    return _decoded(text, source, AccessFile, "write '{}' for a document that says nothing")[0].access()


def _decoded(text: str, source: str, kind: type[T], remedy: str) -> tuple[T, set[str]]:
    """A file of a kind, and its top-level keys; `remedy` is for an empty one."""
    if len(text) > MAX_FILE:
        raise ConfigurationError([f"{source}: larger than {MAX_FILE >> 20} MiB: is this the right file?"])
    tree = Tree()
    try:
        found = hazard(text)
        if found is not None:
            raise ConfigurationError([f"{source}:{found}"])
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        value = None if node is None else tree.value(node, ())
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{source}:{yaml_place(error)}"]) from None
    if node is None:
        raise ConfigurationError([f"{source}:1: the file is empty: {remedy}"])
    problems = list(tree.problems)
    config = _structure(value, kind, problems)
    for section in CHECKS:
        entries = _entries(value, section)
        problems += _content_problems(section, entries)
        problems += _relation_problems(section, entries)
    if problems or config is None:
        by_path = {problem.path: problem for problem in reversed(problems)}  # one cause, one line
        in_order = sorted(by_path.values(), key=lambda problem: _line(tree.lines, problem.path))
        raise ConfigurationError([_message(problem, tree.lines, source) for problem in in_order])
    return config, set(value or ())


def _entries(value: Any, section: str) -> list[tuple[int, dict[str, Any]]]:  # noqa: ANN401  # whatever the file holds
    """The entries of a section that are mappings.

    Others do not stop the check, because all problems are reported at once.
    """
    entries = value.get(section) if isinstance(value, dict) else None
    return [
        (index, entry) for index, entry in enumerate(entries if isinstance(entries, list) else []) if isinstance(entry, dict)
    ]


def _content_problems(section: str, entries: list[tuple[int, dict[str, Any]]]) -> Iterator[Problem]:
    for index, entry in entries:
        for key, check in CHECKS[section].items():
            value = entry.get(key)
            if isinstance(value, str) and not check.passes(value):
                # A URL may contain a password or a key.
                hidden = key in SECRET or "@" in value or "?" in value
                start = "" if hidden else f"{value!r:.80} cannot be used: "
                yield Problem((section, index, key), start + check.remedy)


def _structure(value: Any, kind: type[T], problems: list[Problem]) -> T | None:  # noqa: ANN401  # whatever the file holds
    try:
        return _converter.structure(value, kind)
    except Exception as error:  # noqa: BLE001  # cattrs raises the errors of the hooks, in groups
        problems += _problems(error, ())
        return None


class _OtherKindError(ValueError):
    """A value that is not of the kind that its key takes."""

    def __init__(self, message: str, value: object, kind: type) -> None:
        super().__init__(message)
        self.value, self.kind = value, kind


def _strict(kind: type) -> Any:  # noqa: ANN401  # a cattrs hook
    def structure(value: Any, _: type) -> Any:  # noqa: ANN401
        if type(value) is not kind:
            value_text = "nothing" if value is None else f"{value!r:.60}"
            raise _OtherKindError(f"must be {_KINDS[kind.__name__]}, not {value_text}", value, kind)
        return value

    return structure


def _strict_list(value: Any, kind: Any) -> Any:  # noqa: ANN401  # a cattrs hook
    if not isinstance(value, list):
        msg = "must be a list: write each entry on a line that starts with '-'"
        raise ValueError(msg)  # noqa: TRY004  # the collector of errors takes one kind
    errors: list[Exception] = []
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_converter.structure(item, kind.__args__[0]))
        except Exception as error:  # noqa: BLE001  # collected with its index
            error.__notes__ = [cattrs.IterableValidationNote("", index, kind)]
            errors.append(error)
    if errors:
        raise IterableValidationError("", errors, kind)
    return items


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(str, _strict(str))
    converter.register_structure_hook(bool, _strict(bool))
    converter.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is list, _strict_list)
    converter.register_structure_hook(Limits, lambda value, _: read_limits(value))
    converter.register_structure_hook_func(
        lambda kind: kind == Authentication | None, lambda value, _: read_authentication(value)
    )
    converter.register_structure_hook_func(lambda kind: kind == TokenExchange | None, lambda value, _: read_exchange(value))
    converter.register_structure_hook_func(lambda kind: kind == Rules | None, lambda value, _: read_rules(value))
    converter.register_structure_hook_func(lambda kind: kind == Policies, lambda value, _: read_policies(value))
    converter.register_structure_hook_func(lambda kind: kind == Alternatives | None, lambda value, _: read_allow(value))
    converter.register_structure_hook_func(
        lambda kind: kind == tuple[ForwardedHeader, ...], lambda value, _: read_forwarded(value)
    )
    return converter


_converter = _make_converter()


def _problems(error: BaseException, path: Path) -> Iterator[Problem]:
    match error:
        case ForbiddenExtraKeysError():
            for key in sorted(error.extra_fields):
                yield Problem((*path, key), _unknown_key(key, error.cl))
        case ClassValidationError() | IterableValidationError():
            for inner in error.exceptions:
                yield from _problems(inner, path + _step(inner))
        case KeyError():
            yield Problem(path[:-1], f"{error.args[0]!r} is missing: add it")
        case _ if isinstance(error, TypeError | AttributeError):
            yield Problem(path, "must hold keys and values, like 'name: …'")
        case _ if path and path[-1] in SECRET:
            yield Problem(path, "must be a text in quotes")
        case _OtherKindError(kind=kind, value=int() | float() as number) if kind is str:
            check = CHECKS.get(str(path[0]), {}).get(str(path[-1]))
            remedy = check.remedy if check and not check.passes(str(number)) else f"write it in quotes: '{number}'"
            yield Problem(path, f"{error}; {remedy}")
        case _:
            yield Problem(path, str(error).removeprefix(f"{path[-1]}: " if path else ""))


def _step(error: BaseException) -> Path:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, cattrs.IterableValidationNote):
            return (note.index,)
        if isinstance(note, cattrs.AttributeValidationNote):
            return (note.name,)
    return ()


def _unknown_key(key: str, kind: type) -> str:
    keys = list(get_type_hints(kind))
    matches = difflib.get_close_matches(key, keys, 1, 0.6)
    return f"unknown key{f', did you mean {matches[0]!r}?' if matches else ''} (known: {', '.join(keys)})"


def _relation_problems(section: str, entries: list[tuple[int, dict[str, Any]]]) -> Iterator[Problem]:
    """The problems between two keys of an entry, or between two entries."""
    first_indices: dict[Any, int] = {}
    for index, entry in entries:
        name = entry.get("name")
        first_index = first_indices.setdefault(name, index) if isinstance(name, str) else index
        if first_index != index:
            yield Problem(
                (section, index, "name"), f"{name!r} is the name of {section}[{first_index}] too: names are unique"
            )
        if entry.get("credential") is not None and entry.get("credentialFile") is not None:
            yield Problem((section, index, "credentialFile"), "give credential or credentialFile, not both")
        has_credential = entry.get("credential") is not None or entry.get("credentialFile") is not None
        if entry.get("credentialUse", DISCOVERY) != DISCOVERY and not has_credential:
            yield Problem((section, index, "credentialUse"), "needs a credential or credentialFile")
        if entry.get("tokenExchange") is not None:
            yield from _same_header(section, index, entry)
        if entry.get("caFile") is not None and not str(entry.get("url", "https:")).startswith("https:"):
            yield Problem((section, index, "caFile"), "is for an https url: remove it or change the url")


def _same_header(section: str, index: int, entry: dict[str, Any]) -> Iterator[Problem]:
    """Another value in the place of the exchanged token."""
    message = "the server gets an exchanged token (tokenExchange) as Authorization: remove one of them"
    with contextlib.suppress(ValueError):
        if any(each.sent == "authorization" for each in read_forwarded(entry.get("forwardHeaders") or [])):
            yield Problem((section, index, "forwardHeaders"), message)
    is_there = str(entry.get("credentialHeader", "authorization")).lower() == "authorization"
    if is_there and entry.get("credentialUse", DISCOVERY) != DISCOVERY:
        yield Problem((section, index, "credentialUse"), message)


def _line(lines: dict[Path, int], path: Path) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _message(problem: Problem, lines: dict[Path, int], source: str) -> str:
    place = ""
    for step in problem.path:
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else step
    return f"{source}:{_line(lines, problem.path)}: {place + ': ' if place else ''}{problem.text}"
