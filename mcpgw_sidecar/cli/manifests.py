"""`mcpgw-sidecar manifests`: what is applied to a cluster, as YAML."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import yaml

from mcpgw_sidecar.envoyfiles.scripts import messages, script
from mcpgw_sidecar.manifests.gateways import Gateway, istio, plain_envoy
from mcpgw_sidecar.manifests.rights import sidecar_rights, webhook_rights
from mcpgw_sidecar.manifests.sidecar import Sidecar
from mcpgw_sidecar.manifests.webhook import webhook

Document = dict[str, Any]
PACKAGED = Path(str(files("mcpgw_sidecar"))) / "k8s"
CHECKOUT = Path(__file__).parents[2] / "k8s"


@attrs.frozen(kw_only=True)
class Wanted:
    """What the options say. `accounts` are the service accounts of gateway pods."""

    gateway: Gateway
    sidecar: Sidecar
    accounts: tuple[tuple[str, str], ...]


def scripts() -> dict[str, str]:
    """The Lua filters; the memo's decisions live for a moment, because the sidecar shares no file with this Envoy."""
    return {"heal": script("heal"), "messages": messages(""), "calls": script("istio")}


def _rights(wanted: Wanted) -> list[Document]:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted.sidecar.namespace}}
    return [namespace, *sidecar_rights(wanted.sidecar.namespace, wanted.accounts)]


GENERATED: dict[str, Callable[[Wanted], list[Document]]] = {
    "rbac": _rights,
    "istio": lambda wanted: istio(wanted.gateway, wanted.sidecar, dump),
    "envoy": lambda wanted: plain_envoy(wanted.gateway, wanted.sidecar),
    "webhook": lambda wanted: [*webhook_rights(wanted.sidecar.namespace), *webhook(wanted.sidecar)],
}
SECTIONS = ("crds", "rbac", "istio", "envoy", "webhook", "samples")


def text_of(section: str, wanted: Wanted) -> str:
    """A section as YAML documents."""
    if section in GENERATED:
        return "---\n".join(dump(document) for document in GENERATED[section](wanted))
    directory = (PACKAGED if PACKAGED.exists() else CHECKOUT) / section
    found = sorted(path for path in directory.glob("*.yaml") if path.name != "kustomization.yaml")
    text = "---\n".join(path.read_text(encoding="utf-8") for path in found)
    return text.replace(f"image: {Sidecar().image}", f"image: {wanted.sidecar.image}")  # the samples' servers are in it


class _Dumper(yaml.SafeDumper):
    """Long texts (Lua) as blocks, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401  # yaml's own signature
        del data
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:  # noqa: ANN401  # any plain value
    """YAML for people: in the order of the value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text
