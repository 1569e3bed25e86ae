"""The environment variables of options."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

import click

PREFIX = "MCPGW_"
_MISSPELT = 0.85  # similarity from which a name counts as another one misspelt (0 to 1)


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
