"""`mcpgw-sidecar check`: every problem of a configuration, before it is used."""

from __future__ import annotations

import ssl
from pathlib import Path

import click

from mcpgw_sidecar.catalog.rights import fits
from mcpgw_sidecar.config.source import load, load_access
from mcpgw_sidecar.errors import ConfigurationError
from mcpgw_sidecar.model.patterns import long_name


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--access", type=click.Path(path_type=Path), help="The access document that belongs to it.")
def check_command(file: Path, access: Path | None) -> None:
    """Validate a configuration FILE and print every problem with its place; exit 64 if there is one."""
    desired = load(file, has_access=access is not None)
    document = desired.access if access is None else load_access(access)
    limits, issuers = document.limits, document.authentication.issuers if document.authentication is not None else ()
    problems = [
        f"{file}: server {server.name}: {key} {path}: no such file"
        for server in desired.servers
        for key, path in server.files
        if path is not None and not Path(path).exists()
    ]
    problems += [
        f"{file}: server {server.name}: caFile {server.ca_file}: holds no PEM certificate"
        for server in desired.servers
        if server.ca_file is not None and Path(server.ca_file).exists() and not _is_pem(server.ca_file)
    ]
    ca_file = limits.service.ca_file if limits.service is not None else None
    if ca_file is not None and not (Path(ca_file).exists() and _is_pem(ca_file)):
        problems.append(f"{access or file}: limits.service.caFile {ca_file}: no file with a PEM certificate")
    problems += [
        f"{access or file}: issuer {issuer.issuer}: {key} {path}: no such file"
        for issuer in issuers
        for key, path in (("jwksFile", issuer.jwks_file), ("caFile", issuer.ca_file))
        if path is not None and not Path(path).exists()
    ]
    if problems:
        raise ConfigurationError(problems)
    for virtual in desired.virtual_servers:
        for tool in filter(long_name, virtual.tools):
            click.echo(f"{file}: virtual server {virtual.name}: tool {tool}: {long_name(tool)}", err=True)
    names = [server.name for server in desired.servers]
    virtuals = [virtual.name for virtual in desired.virtual_servers]
    for index, rule in enumerate(document.rules or ()):
        for key, globs, known in (("servers", rule.servers, names), ("virtualServers", rule.virtual_servers, virtuals)):
            for glob in globs:
                if not any(fits(glob, name) for name in known):
                    click.echo(
                        f"{access or file}: authorization[{index}].{key}: {glob} matches none that is there", err=True
                    )
    click.echo(f"{file}: ok, {len(desired.servers)} servers, {len(desired.enabled)} enabled")


def _is_pem(path: str) -> bool:
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError):
        return False
    return True
