"""Option types: each says what it wants when it gets something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mcpgw_sidecar.config.units import parse_duration, parse_size
from mcpgw_sidecar.runtime.listeners import Address, parse_address


class Parsed(click.ParamType[Any]):
    """A text that a function turns into a value, or refuses with ValueError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401  # click's
        """Turn a text into the value; values (defaults) pass."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _unix_or_tcp(text: str) -> Address:
    return parse_address(text, unix=True)


DURATION = Parsed("DURATION", parse_duration)
SIZE = Parsed("SIZE", parse_size)
ADDRESS = Parsed("HOST:PORT", parse_address)
UNIX_OR_ADDRESS = Parsed("HOST:PORT|unix:PATH", _unix_or_tcp)
