"""How options are declared: flag, environment variable, default and help."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import click

from mcpgw_sidecar.app import Settings
from mcpgw_sidecar.config.units import duration_text, size_text

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
PREFIX = "MCPGW_"
_MISSPELT = 0.85  # similarity from which a name counts as another one misspelt (0 to 1)
_DEFAULTS = {field.name: field.default for field in attrs.fields(Settings)}


def option(flag: str, *names: str, **how: Any) -> Decorator:  # noqa: ANN401  # click's own parameters
    """An option with its environment variable MCPGW_<OPTION>."""
    variable = PREFIX + flag.removeprefix("--").replace("-", "_").upper()
    how.setdefault("envvar", variable)
    if how.get("default") is not None and not how.get("multiple"):
        how.setdefault("show_default", True)
    return click.option(flag, *names, show_envvar=True, **how)


def setting(flag: str, name: str, **how: Any) -> Decorator:  # noqa: ANN401
    """The option of a field of `Settings`, which has the default."""
    return option(flag, default=_text(_DEFAULTS[name]), **how)


def switch(flag: str, on: str, off: str, text: str) -> Decorator:
    """An option with two words, `on` by default; its value is whether it is on."""
    choice = click.Choice([on, off])
    return option(flag, type=choice, default=on, callback=lambda _context, _option, value: value == on, help=text)


def stack(options: list[Decorator]) -> Decorator:
    """Several options, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(options):
            command = decorator(command)
        return command

    return decorate


def misspelt_variable(environment: Iterable[str], commands: Iterable[click.Command]) -> str | None:
    """What is wrong with a variable that looks like that of an option and is none.

    Other variables that begin with MCPGW_ are left alone: Kubernetes sets some for each Service.
    """
    known: set[str] = set()
    for parameter in itertools.chain.from_iterable(command.params for command in commands):
        known.update([parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ())
    for variable in sorted(set(environment) - known):
        name = variable.removeprefix(PREFIX)
        close = difflib.get_close_matches(name, (other.removeprefix(PREFIX) for other in known), 1, _MISSPELT)
        if variable.startswith(PREFIX) and close:
            return f"{variable} in the environment is no option, did you mean {PREFIX}{close[0]}?"
    return None


def _text(default: Any) -> str:  # noqa: ANN401  # of any type
    match default:
        case float():
            return duration_text(default)
        case int():
            return size_text(default)
        case _:
            return str(default)
