"""`mcpgw-sidecar status`: shows /status to an operator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import httpx2
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mcpgw_sidecar.errors import UnavailableError

REFRESH = 1.0  # seconds
_PIPED = 240  # columns
_FORBIDDEN = 403

_KEYS = {
    True: "its keys are here",
    False: "NO KEYS, no token of it can be verified",
    None: "its tokens are verified by Istio",
}


def follow_status(admin: str, *, token: str = "", watch: bool, as_json: bool) -> None:
    """Print the status once, or keep it on the screen. `token` is for a sidecar elsewhere.

    Raises UnavailableError when there is no sidecar.
    """
    fetch = partial(_fetch, admin, token)
    if not watch:
        document = fetch()
        if as_json:
            click.echo(json.dumps(document, indent=2))
        else:
            _console().print(render(document))
        return
    if as_json:
        while True:
            click.echo(json.dumps(fetch()))
            time.sleep(REFRESH)
    console = _console()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            view = _view(fetch)
            if console.is_terminal:
                live.update(view, refresh=True)
            else:
                console.print(view)
            time.sleep(REFRESH)


def _console() -> Console:
    """The terminal with its width; lines into a file or a pipe do not wrap."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPED)


def _view(fetch: Callable[[], dict[str, Any]]) -> RenderableType:
    try:
        return render(fetch())
    except UnavailableError as error:  # the sidecar may come back, and --watch has to show that
        return Text(str(error), style="red")


def render(document: dict[str, Any]) -> RenderableType:
    """The document as a table and a few lines."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("SERVER", "READY", "PREFIX", "TOOLS", "PROTOCOL", "WHAT TO KNOW"):
        table.add_column(column, overflow="fold")
    for server in document["servers"]:
        table.add_row(
            Text(server["name"]),
            _ready(server),
            server["toolPrefix"] or "-",
            str(server["tools"]),
            server["protocolVersion"] or "-",
            Text("\n".join(_remarks(server))),
        )
    return Group(table, Text(""), *(Text(line) for line in _lines(document)))


def _ready(server: dict[str, Any]) -> Text:
    if not server["enabled"]:
        return Text("off", style="dim")
    return Text("yes", style="green") if server["ready"] else Text("no", style="red")


def _remarks(server: dict[str, Any]) -> list[str]:
    remarks = [] if server["ready"] else [f"{server['reason']}: {server['message']} ({server['url']})"]
    remarks += [f"{conflict['kind']} {conflict['name']} belongs to {conflict['owner']}" for conflict in server["conflicts"]]
    remarks += [f"{bad['kind']} {bad['name'] or '-'} left out: {bad['reason']}" for bad in server["invalid"]]
    remarks += [f"{warned['kind']} {warned['name']}: {warned['reason']}" for warned in server["warnings"]]
    return remarks or ["-"]


def _lines(document: dict[str, Any]) -> list[str]:
    config, sessions, envoy = document["config"], document["sessions"], document["envoy"]
    dropped = sessions["droppedMessages"]
    enabled = [server for server in document["servers"] if server["enabled"]]
    ready = sum(server["ready"] for server in enabled)
    tools = sum(server["tools"] for server in document["servers"])
    lines = [
        f"{ready} of {len(enabled)} servers ready, {tools} tools",
        f"{sessions['gateway']} sessions with clients, {sessions['upstream']} with servers",
        *([f"{dropped} messages of servers dropped: too many waited for clients"] if dropped else ()),
        f"configuration {config['source']}, generation {config['generation']}, loaded {config['loadedAt'] or 'not yet'}",
    ]
    lines += _eras(document["eras"], sessions["heldCalls"])
    lines += [f"REFUSED MCPServer {bad['name']}: {bad['reason']}: {bad['message']}" for bad in document.get("refused", ())]
    for virtual in document.get("virtualServers", ()):
        missing_tools = f"; no server offers {', '.join(virtual['missing'])}" if virtual["missing"] else ""
        lines.append(f"virtual server {virtual['name']}: {virtual['tools']} tools{missing_tools}")
    for issuer in document.get("authentication", {}).get("issuers", ()):
        keys = _KEYS[issuer["keys"]]
        lines.append(f"issuer {issuer['issuer']}: {keys}" + (f" ({issuer['error']})" if issuer["error"] else ""))
    kubernetes = document.get("kubernetes")
    if kubernetes is not None:
        writes = "this sidecar" if kubernetes["writesStatus"] else "another sidecar"
        error = kubernetes["error"]
        lines.append(f"status and ConfigMap are written by {writes}" if error is None else f"NOT WRITING STATUS: {error}")
    if config["error"]:
        what = "INCOMPLETE" if config["source"] == "kubernetes" else "LAST RELOAD REFUSED"
        lines.append(f"{what}: {config['error']}")
    verdict = {True: "accepted", False: "REFUSED", None: "not seen"}[envoy["accepted"]]
    store = document.get("sessionStore")
    if store is not None:
        lines.append(f"session store {store['url']}: " + (f"LOST ({store['error']})" if store["error"] else "answers"))
    limits = document.get("limitService")
    if limits is not None:
        lines.append(
            f"rate limit service {limits['url']}: " + (f"LOST ({limits['error']})" if limits["error"] else "answers")
        )
    lines.append(f"Envoy's verdict on its files: {verdict}" + (f" ({envoy['error']})" if envoy["error"] else ""))
    return lines


def _eras(eras: dict[str, Any], held: int) -> list[str]:
    """Where clients are led that know both eras, if a server speaks 2026-07-28; and the calls that are held."""
    servers, lines = eras["servers"], []
    if servers["both"] or servers["stateless"]:
        to = "2026-07-28" if eras["offered"] == "stateless" else "sessions"
        if eras["prefer"] == "stateful":
            to = "sessions, and 2026-07-28 is refused"
        kinds = {"both": "both", "stateful": "sessions alone", "stateless": "2026-07-28 alone", "unknown": "not known yet"}
        spoken = ", ".join(f"{words} {servers[key]}" for key, words in kinds.items() if servers[key])
        lines.append(f"clients that know both are led to {to} (--prefer-era {eras['prefer']}); servers: {spoken}")
    return lines + ([f"calls that wait for what a user answers: {held}"] if held else [])


def _fetch(admin: str, token: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        # Plain HTTP: there is no certificate to verify.
        answer = httpx2.get(f"http://{admin}/status", headers=headers, timeout=5.0, trust_env=False, verify=False)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
    except (httpx2.HTTPError, ValueError) as error:
        why = f"HTTP {error.response.status_code}" if isinstance(error, httpx2.HTTPStatusError) else type(error).__name__
        msg = f"no sidecar answers at {admin} ({why}); is it running? name its admin port with --admin-address"
        if isinstance(error, httpx2.HTTPStatusError) and error.response.status_code == _FORBIDDEN:
            msg = f"the sidecar at {admin} tells its status to its own machine alone: go there, or give --admin-token-file"
        raise UnavailableError(msg) from None
    return document
