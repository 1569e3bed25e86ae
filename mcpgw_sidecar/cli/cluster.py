"""The commands for Kubernetes: manifests, inject, webhook."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from mcpgw_sidecar.cli import manifests, options
from mcpgw_sidecar.cli.declaring import option
from mcpgw_sidecar.cli.types import ADDRESS, HOST, NAMED
from mcpgw_sidecar.errors import ConfigurationError, RefusedError
from mcpgw_sidecar.manifests.container import Sidecar
from mcpgw_sidecar.manifests.gateways import Gateway
from mcpgw_sidecar.manifests.sidecar import Injected
from mcpgw_sidecar.manifests.webhook import PORT as WEBHOOK_PORT
from mcpgw_sidecar.observability import logs
from mcpgw_sidecar.runtime.files import replace_text


@click.command("manifests")
@click.argument("sections", nargs=-1, type=click.Choice(manifests.SECTIONS), metavar="[SECTION]...")
@options.sidecar_options
@option("--gateway", default="gateway-system/mcp-gateway", type=NAMED, help="The Gateway.")
@option(
    "--label",
    "labels",
    multiple=True,
    default=("istio=ingressgateway",),
    show_default=True,
    metavar="K=V",
    help="Labels of the gateway's pods, for the EnvoyFilter. Repeatable.",
)
@option(
    "--internal-host",
    "internal_hosts",
    multiple=True,
    default=("*.mcp.local",),
    show_default=True,
    type=HOST,
    help="Host names of servers' HTTPRoutes, which only the router may lead to (istio). Repeatable.",
)
@option(
    "--service-account",
    "accounts",
    multiple=True,
    default=("gateway-system/mcp-gateway-istio", "gateway-system/mcp-gateway"),
    show_default=True,
    type=NAMED,
    help="Service accounts of gateway pods, for rbac. Repeatable.",
)
@option(
    "--request-authentication",
    is_flag=True,
    help="A RequestAuthentication verifies callers' tokens (istio; verifiedBy: istio in the document of --access).",
)
def manifests_command(sections: tuple[str, ...], **values: Any) -> None:  # noqa: ANN401  # the options, by name
    """Print what is applied to a cluster.

    \b
      mcpgw-sidecar manifests | kubectl apply --server-side -f -

    \b
    Sections (without any: crds, rbac and istio):
      crds     MCPServer and MCPVirtualServer
      rbac     the namespace of the sidecars, and the least rights of gateway pods
      istio    EnvoyFilter, the clients' route, and the sidecar for gateways that Istio deploys
      envoy    a gateway of a plain Envoy, with the sidecar
      network  NetworkPolicy: the admin port for namespaces labelled mcpgw.dev/scrapes: "true"
      webhook  the admission webhook that injects the sidecar
      samples  the guide's Gateway, HTTPRoutes, MCPServers and test servers
    """
    namespace, name = values["gateway"]
    gateway = Gateway(
        namespace=namespace,
        name=name,
        labels=dict(_label_pair(label) for label in values["labels"]),
        public_hosts=values["public_hosts"],
        internal_hosts=values["internal_hosts"],
        scripts=manifests.scripts(),
        login=values["request_authentication"],
    )
    request = manifests.Request(gateway=gateway, sidecar=_sidecar(values), accounts=values["accounts"])
    texts = [manifests.text_of(section, request) for section in sections or ("crds", "rbac", "istio")]
    click.echo("---\n".join(texts), nl=False)


@click.command("inject")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, dir_okay=False), metavar="[FILE]...")
@options.sidecar_options
@click.option("--in-place", "-i", is_flag=True, help="Write the files themselves instead of stdout.")
def inject_command(paths: tuple[Path, ...], in_place: bool, **values: Any) -> None:  # noqa: ANN401, FBT001  # click's
    """Put the sidecar into Kubernetes manifests: FILEs, or stdin without any or for -.

    Pods, Deployments, DaemonSets, StatefulSets and Lists of them, wherever a container of Envoy
    runs; everything else passes as it is. What has the sidecar gets it as it is now, and keeps the
    options, environment and image that are not given here. What was done is said on stderr; exit 1
    when nothing has the sidecar.

    \b
      mcpgw-sidecar inject gateway.yaml | kubectl apply -f -
    """
    if in_place and (not paths or Path("-") in paths):
        raise click.UsageError("--in-place needs FILEs")
    from mcpgw_sidecar.cli.inject import injected, result_lines  # noqa: PLC0415  # the only user of this YAML library

    results: list[Injected] = []
    texts: list[tuple[Path, str]] = []
    for path in paths or (Path("-"),):
        text, file_results = injected(_read_text(path), "stdin" if path == Path("-") else str(path), _sidecar(values))
        results += file_results
        texts.append((path, text))
    for path, text in texts:  # only after all files were good: so none is half-done
        if in_place:
            replace_text(path, text)
    if not in_place:
        click.echo(_document_stream([text for _, text in texts]), nl=False)
    for line in result_lines(results):
        click.echo(line, err=True)
    if all(result.problem is not None for result in results):
        raise RefusedError(
            "nothing has the sidecar: there is no Pod, Deployment, DaemonSet, StatefulSet or ReplicaSet with a container of Envoy"
        )


@click.command("webhook")
@options.sidecar_options
@option("--webhook-address", default=f"0.0.0.0:{WEBHOOK_PORT}", type=ADDRESS, help="Where the API server asks (HTTPS).")
@options.log_options
def webhook_command(webhook_address: Any, log_level: str, log_format: str, **values: Any) -> None:  # noqa: ANN401  # click's
    """Serve the injection as an admission webhook, with certificates of its own.

    Install it with: mcpgw-sidecar manifests webhook. Pods get the sidecar by the label
    mcpgw.dev/inject: enabled, theirs or their namespace's.
    """
    logs.set_up(logs.LEVELS[log_level], log_format)
    from mcpgw_sidecar.app.webhook import WebhookSettings, wait_webhook  # noqa: PLC0415  # no other command needs it

    settings = WebhookSettings(sidecar=_sidecar(values), address=webhook_address)
    trio.run(partial(wait_webhook, settings), strict_exception_groups=True)


def _read_text(path: Path) -> str:
    if path == Path("-"):
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None


def _document_stream(texts: list[str]) -> str:
    """The texts of several files as one stream of YAML documents."""
    stream = ""
    for text in texts:
        stream += "---\n" if stream and not text.lstrip().startswith("---") else ""
        stream += text if text.endswith("\n") else text + "\n"
    return stream


def _sidecar(values: Mapping[str, Any]) -> Sidecar:
    return Sidecar(
        image=values["image"],
        namespace=values["namespace"],
        public_hosts=values["public_hosts"],
        external_names=values["external_names"],
        secrets_in=values["secrets_in"],
        token_urls=values["token_urls"],
        through=str(values["through"]) if values["through"] is not None else None,
        envoy_container=values["envoy_container"],
        max_body=values["max_body"],
        access=values["access"],
        given=frozenset(name for name in values if _is_given(name)),
    )


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source not in {None, click.core.ParameterSource.DEFAULT}


def _label_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--label {text!r} is not KEY=VALUE")
    return key, value
