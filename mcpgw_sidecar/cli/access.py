"""`mcpgw-sidecar access explain`: which rules hold for a caller, what it sees, and why not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mcpgw_sidecar.catalog.rights import allows, any_of, is_about, missing
from mcpgw_sidecar.config.source import load, load_access
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.inbound.callers import is_for, is_subject, scopes_of
from mcpgw_sidecar.model.access import Access, Authentication, Rule
from mcpgw_sidecar.model.names import ServerName, VirtualName
from mcpgw_sidecar.model.servers import Desired

_NO_RULE = "no rule that holds gives it"
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("access")
def access_command() -> None:
    """Who may call what."""


@access_command.command("explain")
@click.option("--config", type=_FILE, help="The configuration: its servers, and its rules if --access is not given.")
@click.option("--access", type=_FILE, help="The access document.")
@click.option("--token", type=_FILE, help="File with a token; its claims are read, its signature is not verified.")
@click.option("--claims", help="Claims as JSON, in place of a token.")
@click.option("--virtual-server", help="At this virtual server; default: at the bare endpoint.")
@click.option("--server", help="With --tool: which rule allows it, or why none does.")
@click.option("--tool", help="Name of a tool as its server has it.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def explain(config: Path | None, access: Path | None, as_json: bool, **values: Any) -> None:  # noqa: ANN401, FBT001  # click's
    """Say which rules hold for a caller, what it sees, and which rule allows or why none does.

    \b
      mcpgw-sidecar access explain --config config.yaml --claims '{"groups": ["agents"]}'
      mcpgw-sidecar access explain --access access.yaml --token token.jwt --server team-a/one --tool get_it
    """
    if config is None and access is None:
        raise click.UsageError("Where are the rules? Give --access FILE or --config FILE")
    desired = None if config is None else load(config, has_access=access is not None)
    document = load_access(access) if access is not None else desired.allowed if desired is not None else Access()
    claims = _claims(values["token"], values["claims"])
    virtual = None if values["virtual_server"] is None else VirtualName(values["virtual_server"])
    if (values["server"] is None) != (values["tool"] is None):
        raise click.UsageError("Which tool of which server? Give --server and --tool")
    asked = None if values["server"] is None else (ServerName(values["server"]), values["tool"])
    refused = _refused(document.authentication, claims) if values["token"] is not None else None
    answer = explained(document, claims, virtual, desired, asked, refused)
    click.echo(json.dumps(answer, indent=2) if as_json else _words(answer))


def explained(
    access: Access,
    claims: Mapping[str, Any],
    virtual: VirtualName | None,
    desired: Desired | None,
    asked: tuple[ServerName, str] | None,
    refused: str | None = None,
) -> dict[str, Any]:
    """The answer as plain values; without a configuration servers are not known.

    `refused` says why the token itself is refused.
    """
    servers = [server.name for server in desired.enabled] if desired is not None else []
    closed = refused or _closed(access, claims, virtual, desired)
    rules = [
        {"rule": index, "holds": allows(rule.allow, claims), "gives": _gives(rule), "missing": missing(rule.allow, claims)}
        for index, rule in enumerate(access.rules or ())
    ]
    held = [(index, rule) for index, rule in enumerate(access.rules or ()) if allows(rule.allow, claims)]
    sees = {name: [] if closed else _seen(name, access, [rule for _, rule in held], virtual) for name in servers}
    answer: dict[str, Any] = {"claims": dict(claims), "rules": rules, "sees": sees}
    if access.rules is None:
        answer["note"] = "there is no authorization: whoever is authenticated may use everything"
    if asked is not None:
        server, tool = asked
        by = [
            index for index, rule in held if is_about(rule, virtual, server) and (not rule.tools or any_of(rule.tools, tool))
        ]
        if desired is not None and server not in servers:
            closed = closed or f"the configuration has no server {server}"
        allowed = not closed and (access.rules is None or bool(by))
        answer["tool"] = {"server": server, "tool": tool, "allowed": allowed, "by": by if allowed else []}
    return answer | ({"closed": closed} if closed else {})


def _refused(login: Authentication | None, claims: Mapping[str, Any]) -> str | None:
    """Why a token is refused (401) whatever its signature; None if it is not."""
    if login is None:
        return None
    issuer = next((each for each in login.issuers if each.issuer == claims.get("iss")), None)
    if issuer is None:
        names = ", ".join(each.issuer for each in login.issuers)
        return f"the token is refused: its iss is {claims.get('iss')!r}, and the issuers are {names} (compared exactly)"
    audience, now = claims.get("aud"), time.time()
    if not is_for(audience, issuer):
        return f"the token is refused: its aud is {audience!r}, and one of {', '.join(issuer.audiences)} has to be in it"
    expires, begins, subject = (claims.get(name) for name in ("exp", "nbf", issuer.subject))
    if not isinstance(expires, int | float) or expires + issuer.skew < now:
        return f"the token is refused: {'it has ended' if isinstance(expires, int | float) else 'it has no exp'}"
    if isinstance(begins, int | float) and begins - issuer.skew > now:
        return "the token is refused: it does not count yet (nbf)"
    if not is_subject(subject):
        return f"the token is refused: its {issuer.subject} is no line of text"
    return None


def _closed(access: Access, claims: Mapping[str, Any], virtual: VirtualName | None, desired: Desired | None) -> str | None:
    """Why the caller sees nothing at all; None if it may see something."""
    lacking = set(access.authentication.scopes if access.authentication is not None else ()) - scopes_of(claims)
    if lacking:
        return f"the token lacks the scope {min(lacking)}"
    if virtual is None:
        return None if access.bare else "the bare endpoint is closed (endpoint: {bare: false})"
    definitions = {each.name: each for each in desired.virtual_servers} if desired is not None else {}
    if desired is not None and virtual not in definitions:
        return f"the configuration has no virtual server {virtual}"
    allow = definitions[virtual].allow if virtual in definitions else None
    return None if allow is None or allows(allow, claims) else f"virtual server {virtual} is not for this caller"


def _claims(token: Path | None, text: str | None) -> Mapping[str, Any]:
    if (token is None) == (text is None):
        raise click.UsageError("Who calls? Give --token FILE or --claims JSON")
    try:
        if token is not None:
            parts = token.read_text(encoding="utf-8").strip().removeprefix("Bearer ").split(".")
            if len(parts) != 3:  # noqa: PLR2004  # RFC 7515, section 3.1
                raise ConfigurationError([f"{token}: is no JWT: it has {len(parts)} parts, and a JWT three"])
            payload = parts[1]
            text = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
        claims = json.loads(text or "")
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise ConfigurationError([f"{token or '--claims'}: holds no claims: {error}"]) from None
    if not isinstance(claims, dict):
        raise ConfigurationError([f"{token or '--claims'}: holds no claims: write an object"])
    return claims


def _gives(rule: Rule) -> dict[str, list[str]]:
    parts = {"servers": rule.servers, "virtualServers": rule.virtual_servers, "tools": rule.tools}
    return {key: list(globs) for key, globs in parts.items() if globs}


def _seen(server: ServerName, access: Access, held: list[Rule], virtual: VirtualName | None) -> list[str]:
    """`*` for all of a server, else globs of tools; nothing for nothing."""
    if access.rules is None:
        return ["*"]
    about = [rule for rule in held if is_about(rule, virtual, server)]
    return ["*"] if any(not rule.tools for rule in about) else sorted({glob for rule in about for glob in rule.tools})


def _words(answer: dict[str, Any]) -> str:
    lines = [answer[key] for key in ("note", "closed") if key in answer]
    for rule in answer["rules"]:
        gives = "; ".join(f"{key} {', '.join(globs)}" for key, globs in rule["gives"].items()) or "everything"
        why = "" if rule["holds"] else f": {' or '.join(rule['missing']) or 'it allows nobody'}"
        lines.append(f"rule {rule['rule']} ({gives}) {'holds' if rule['holds'] else 'does not hold'}{why}")
    for server, seen in answer["sees"].items():
        what = "nothing" if not seen else "everything" if seen == ["*"] else f"tools {', '.join(seen)}"
        lines.append(f"{server}: {what}")
    if "tool" in answer:
        tool = answer["tool"]
        by = f" by rule {', '.join(map(str, tool['by']))}" if tool["by"] else ""
        verdict = f"is allowed{by}" if tool["allowed"] else f"is not allowed: {answer.get('closed', _NO_RULE)}"
        lines.append(f"tool {tool['tool']} of {tool['server']} {verdict}")
    return "\n".join(lines)
