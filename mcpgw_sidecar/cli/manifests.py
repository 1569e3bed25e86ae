"""`mcpgw-sidecar manifests`: the manifests for a cluster, as YAML."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import yaml

from mcpgw_sidecar.envoyfiles.scripts import messages, script
from mcpgw_sidecar.manifests.container import Sidecar
from mcpgw_sidecar.manifests.gateways import Gateway, istio, network, plain_envoy
from mcpgw_sidecar.manifests.rights import sidecar_rights, webhook_rights
from mcpgw_sidecar.manifests.webhook import webhook

Document = dict[str, Any]
PACKAGED = Path(str(files("mcpgw_sidecar"))) / "k8s"
CHECKOUT = Path(__file__).parents[2] / "k8s"


@attrs.frozen(kw_only=True)
class Request:
    """The values of the options. `accounts` are the service accounts of gateway pods."""

    gateway: Gateway
    sidecar: Sidecar
    accounts: tuple[tuple[str, str], ...]


def scripts() -> dict[str, str]:
    """The Lua filters for Istio's Envoy.

    The route memo keeps decisions only for a moment, because the sidecar shares no file with this
    Envoy.
    """
    return {
        "refused": script("refused"),
        "heal": script("heal"),
        "messages": messages(""),
        "calls": script("istio"),
        "passed": script("last"),
    }


def _rights(request: Request) -> list[Document]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": request.sidecar.namespace}}
    sidecar = request.sidecar
    return [namespace, *sidecar_rights(sidecar.namespace, request.accounts, sidecar.secrets_in, sidecar.access)]


GENERATED: dict[str, Callable[[Request], list[Document]]] = {
    "rbac": _rights,
    "istio": lambda request: istio(request.gateway, request.sidecar, dump),
    "envoy": lambda request: plain_envoy(request.gateway, request.sidecar),
    "network": lambda request: network(request.gateway),
    "webhook": lambda request: [*webhook_rights(request.sidecar.namespace), *webhook(request.sidecar)],
}
SECTIONS = ("crds", "rbac", "istio", "envoy", "network", "webhook", "samples")


def text_of(section: str, request: Request) -> str:
    """The YAML documents of a section."""
    if section in GENERATED:
        return "---\n".join(dump(document) for document in GENERATED[section](request))
    directory = (PACKAGED if PACKAGED.exists() else CHECKOUT) / section
    paths = sorted(path for path in directory.glob("*.yaml") if path.name != "kustomization.yaml")
    text = "---\n".join(path.read_text(encoding="utf-8") for path in paths)
    # The image of the sidecar has the servers of the samples, too.
    return text.replace(f"image: {Sidecar().image}", f"image: {request.sidecar.image}")


class _Dumper(yaml.SafeDumper):
    """Writes long texts (Lua) as blocks, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401  # yaml's own signature
        del data
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:  # noqa: ANN401  # any plain value
    """A value as YAML for people, in the order of its keys."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text
