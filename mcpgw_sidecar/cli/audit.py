"""`mcpgw-sidecar audit`: who called what since when, from the lines of Envoy's access log."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcpgw_sidecar.admin.envoystats import outcome_of
from mcpgw_sidecar.cli.types import DURATION
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.reasons import OUTCOMES

_COLUMNS = ("time", "subject", "client", "method", "tool", "server", "outcome", "reason", "duration_ms", "request_id")
_OUTCOMES = sorted({"ok", "rejected", *OUTCOMES.values()})
_PIPED = 240  # columns


@click.command("audit")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="[FILE]...")
@click.option("--since", type=DURATION, help="Only what is not older, like 30m or 24h.")
@click.option("--subject", help="Only calls of this caller.")
@click.option("--issuer", help="Only calls of callers of this issuer.")
@click.option("--tool", help="Only calls of this tool, prompt or resource.")
@click.option("--server", help="Only calls to this server.")
@click.option("--outcome", type=click.Choice(_OUTCOMES), help="Only calls with this outcome.")
@click.option("--all", "everything", is_flag=True, help="Also lists, pings and streams, not calls alone.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def audit_command(paths: tuple[Path, ...], since: float | None, **values: Any) -> None:  # noqa: ANN401  # the options, by name
    """Answer "who called what since when" from FILEs with Envoy's lines, or from stdin.

    Other lines are skipped, so a journal or a pod's log will do.

    \b
      journalctl -o cat -u mcpgw-envoy --since today | mcpgw-sidecar audit --subject alice
      kubectl logs -n gateway-system deploy/mcp-gateway -c envoy | mcpgw-sidecar audit --tool weather_forecast --json
    """
    everything, as_json, wanted = values.pop("everything"), values.pop("as_json"), values
    after = None if since is None else datetime.now(UTC) - timedelta(seconds=since)
    rows = [row for row in read_rows(_lines(paths)) if _is_wanted(row, after, wanted, everything=everything)]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    many = len({row.get("issuer") for row in rows} - {None}) > 1  # one name may be two people then
    columns = ("time", "issuer", *_COLUMNS[1:]) if many else _COLUMNS
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(row.get(column))) for column in columns))
    console = Console()
    (console if console.is_terminal else Console(width=_PIPED)).print(table)


def read_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The requests in lines of Envoy's access log, each with its outcome."""
    for line in lines:
        start = line.find("{")
        try:
            row = json.loads(line[start:]) if start >= 0 else None
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and {"time", "status", "request_id", "bytes_in"} <= row.keys():
            answer = f"{row['status']} {row.get('flags') or '-'} {row.get('reason') or '-'}"
            asked = row.get("tool") or row.get("prompt") or row.get("resource")
            item = {"tool": unquote(str(asked)) if asked else None}
            said = str(row.get("outcome"))  # of what was refused, or made an error of
            yield dict.fromkeys(_COLUMNS) | row | item | {"outcome": said if said in _OUTCOMES else outcome_of(answer)}


def _is_wanted(row: dict[str, Any], after: datetime | None, wanted: dict[str, str | None], *, everything: bool) -> bool:
    if not everything and not row["tool"]:
        return False
    if after is not None and _time(row["time"]) < after:
        return False
    return all(value is None or row.get(key) == value for key, value in wanted.items())


def _shown(value: object) -> str:
    """A value as one line without control characters: a caller may have chosen it."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _time(text: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _lines(paths: tuple[Path, ...]) -> Iterator[str]:
    for path in paths or (Path("-"),):
        if path == Path("-"):
            yield from sys.stdin
            continue
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from file
        except OSError as error:
            raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from None
