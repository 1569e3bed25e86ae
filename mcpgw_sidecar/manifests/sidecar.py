"""The injection of the sidecar into pods.

`inject` changes a manifest in place: a Pod, an object with a pod template, or a List of these. It
is idempotent. It takes any kind of mapping, so that the comments and the order of a file survive.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, MutableMapping
from typing import Any

import attrs

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.manifests.container import ADMIN_PORT, BOOTSTRAP, BROKER, HEAP, Sidecar, container, mount, volume

Manifest = MutableMapping[str, Any]

INJECT_LABEL = "mcpgw.dev/inject"
INJECTED = "mcpgw.dev/injected"
ISTIO_CONTAINER, ENVOY_CONTAINER = "istio-proxy", "envoy"
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(|[KMGT]i|[kMGT])")
_UNITS = {"": 1, **{f"{unit}i": 1 << 10 * power for power, unit in enumerate("KMGT", 1)}} | {
    unit: 1000**power for power, unit in enumerate("kMGT", 1)
}
_OF_ENVOY = 0.9
_LEAST_HEAP = 64  # MiB: the program takes no less
_TEMPLATED = frozenset({"Deployment", "DaemonSet", "StatefulSet", "ReplicaSet"})


@attrs.frozen(kw_only=True)
class Injected:
    """The result for one workload.

    `problem` says why it has no sidecar, `remark` what the user still has to do by hand.
    """

    name: str
    problem: str | None = None
    changed: bool = False
    remark: str | None = None


def overlay(sidecar: Sidecar) -> dict[str, Any]:
    """The values that Istio merges into the Deployment that it makes for a Gateway."""
    spec = {
        "initContainers": [container(sidecar, writes_envoy=False)],
        "containers": [{"name": ISTIO_CONTAINER, "volumeMounts": [mount()]}],
        "volumes": [volume()],
    }
    return {"spec": {"template": {"metadata": {"annotations": {INJECTED: __version__}}, "spec": spec}}}


def inject(manifest: Manifest, sidecar: Sidecar) -> list[Injected]:
    """Put the sidecar into every workload of a manifest that runs Envoy.

    Returns a result for each workload; objects of other kinds have none.
    """
    return [_inject(name, pod, sidecar) for name, pod in _pods(manifest)]


def patch(pod: Manifest, sidecar: Sidecar) -> tuple[list[dict[str, Any]], Injected]:
    """The injection into one Pod as a JSON patch (RFC 6902), empty when nothing changes."""
    changed = copy.deepcopy(pod)
    result = _inject(f"Pod {_name(changed)}", changed, sidecar)
    operations: list[dict[str, Any]] = []
    for section in ("metadata", "spec"):
        if section not in pod and section in changed:
            operations.append({"op": "add", "path": f"/{section}", "value": changed[section]})
            continue
        old_fields, new_fields = pod.get(section) or {}, changed.get(section) or {}
        operations += [
            {"op": "replace" if key in old_fields else "add", "path": f"/{section}/{key}", "value": new_fields[key]}
            for key in new_fields
            if key not in old_fields or old_fields[key] != new_fields[key]
        ]
    return operations, result


def _pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    kind = manifest.get("kind")
    items = manifest.get("items")
    if kind == "Pod":
        yield f"Pod {_name(manifest)}", manifest
    elif kind in _TEMPLATED:
        template = _mapping(manifest.get("spec")).get("template")
        if isinstance(template, MutableMapping):
            yield f"{kind} {_name(manifest)}", template
    elif isinstance(kind, str) and kind.endswith("List") and isinstance(items, list):
        for item in items:
            if isinstance(item, MutableMapping):
                yield from _pods(item)


def _inject(name: str, pod: Manifest, sidecar: Sidecar) -> Injected:
    if _mapping(_mapping(pod.get("metadata")).get("labels")).get(INJECT_LABEL) == "disabled":
        return Injected(name=name, problem=f"its label {INJECT_LABEL} says disabled")
    spec = pod.get("spec")
    envoy = _envoy(spec, sidecar) if isinstance(spec, MutableMapping) else None
    if envoy is None or not isinstance(spec, MutableMapping):
        names = sidecar.envoy_container or f"{ISTIO_CONTAINER} or {ENVOY_CONTAINER}"
        return Injected(name=name, problem=f"it has no container {names}: name Envoy's with --envoy-container")
    fault = _form_fault(pod, spec, envoy)
    if fault is not None:
        return Injected(name=name, problem=f"{fault}: correct it first")
    original = copy.deepcopy(pod)
    is_plain = envoy.get("name") != ISTIO_CONTAINER
    old_container = next((item for item in spec.get("initContainers") or () if item.get("name") == PROGRAM), None)
    new_container = container(sidecar, writes_envoy=is_plain, heap=_heap(envoy) if is_plain else None)
    _put(spec, "initContainers", _merged_container(new_container, old_container, sidecar))
    _put(spec, "volumes", volume())
    _put(envoy, "volumeMounts", mount())
    remarks = [_start_with_bootstrap(envoy) if is_plain else None, *_obstacles(spec)]
    for key in ("metadata", "annotations"):
        owner = pod if key == "metadata" else pod["metadata"]
        if owner.get(key) is None:
            owner[key] = {}
    pod["metadata"]["annotations"][INJECTED] = __version__
    remark = "; ".join(filter(None, remarks)) or None
    return Injected(name=name, changed=pod != original, remark=remark)


def _heap(envoy: Manifest) -> str | None:
    """What Envoy may take of its container's memory, for --envoy-heap; None without a limit.

    Its code, stacks and what a shrinking heap has not given back yet need the rest.
    """
    limit = _mapping(_mapping(envoy.get("resources")).get("limits")).get("memory")
    match = _QUANTITY.fullmatch(str(limit))
    size = int(float(match[1]) * _UNITS[match[2]] * _OF_ENVOY) >> 20 if match is not None else 0
    return f"{size}MiB" if size >= _LEAST_HEAP else None


def _obstacles(spec: Manifest) -> Iterator[str]:
    """What in a pod keeps the sidecar from its work, with the remedy."""
    if spec.get("automountServiceAccountToken") is False:
        yield "automountServiceAccountToken is false: without a token the sidecar cannot ask the API server, set it to true"
    used = {ADMIN_PORT: "admin port", BROKER.port: "broker"}
    if spec.get("hostNetwork"):
        numbers = " and ".join(map(str, used))
        yield f"hostNetwork: ports {numbers} of the node have to be free, and others on the node reach them"
    for key in ("containers", "initContainers"):
        for item in spec.get(key) or ():
            ports: object = item.get("ports") if isinstance(item, MutableMapping) and item.get("name") != PROGRAM else None
            for port in ports if isinstance(ports, list) else ():
                number = _mapping(port).get("containerPort")
                if number in used:
                    yield f"container {item.get('name')} has port {number}, which the sidecar's {used[number]} needs: change it"


_FIELDS = {
    "namespace": "--namespace",
    "public_hosts": "--public-host",
    "external_names": "--allow-external-names",
    "secrets_in": "--secrets-in",
    "token_urls": "--allow-token-urls",
    "through": "--through-gateway",
    "access": "--access",
    "max_body": "--max-body",
}


def _merged_container(new_container: dict[str, Any], old_container: Manifest | None, sidecar: Sidecar) -> dict[str, Any]:
    """The new container, with the values of the old one that the user did not ask to change.

    These are options, environment, image and resources.
    """
    if old_container is None:
        return new_container
    new_arguments, new_environment = new_container["args"], new_container["env"]
    old_arguments = [text for text in map(str, old_container.get("args") or ()) if text.startswith("--")]
    our_options = {_option(text) for text in new_arguments} | set(_FIELDS.values())
    free_options = {option for field, option in _FIELDS.items() if field not in sidecar.given}
    arguments: list[str] = []
    for option in dict.fromkeys(map(_option, new_arguments)):
        old_values = [text for text in old_arguments if _option(text) == option] if option in free_options else []
        arguments += old_values or [text for text in new_arguments if _option(text) == option]
    arguments += [
        text
        for text in old_arguments
        if _option(text) not in our_options or (_option(text) in free_options and text not in arguments)
    ]
    had_heap = any(variable.get("name") == HEAP for variable in old_container.get("env") or ())
    new_environment = [variable for variable in new_environment if not (had_heap and variable["name"] == HEAP)]
    our_names = {variable["name"] for variable in new_environment}
    user_variables = (variable for variable in old_container.get("env") or () if variable.get("name") not in our_names)
    return {
        **new_container,
        "image": new_container["image"] if "image" in sidecar.given else old_container.get("image", new_container["image"]),
        "args": arguments,
        "env": [*new_environment, *user_variables],
        "resources": old_container.get("resources", new_container["resources"]),
    }


def _option(argument: str) -> str:
    return argument.partition("=")[0]


def _form_fault(pod: Manifest, spec: Manifest, envoy: Manifest) -> str | None:
    """What in a pod has not the form that it should have; None when `inject` can change the pod.

    Such a value cannot be extended without losing it.
    """
    for what, owner, key in (
        ("initContainers", spec, "initContainers"),
        ("volumes", spec, "volumes"),
        ("volumeMounts", envoy, "volumeMounts"),
    ):
        value = owner.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, MutableMapping) for item in value)):
            return f"its {what} are no list of keys and values"
    meta = pod.get("metadata")
    for what, value in (("metadata", meta), ("annotations", _mapping(meta).get("annotations"))):
        if value is not None and not isinstance(value, MutableMapping):
            return f"its {what} are no keys and values"
    return None


def _mapping(value: object) -> Manifest:
    return value if isinstance(value, MutableMapping) else {}


def _name(manifest: Manifest) -> str:
    meta = _mapping(manifest.get("metadata"))
    return str(meta.get("name") or meta.get("generateName") or "")


def _envoy(spec: Manifest, sidecar: Sidecar) -> Manifest | None:
    names = (sidecar.envoy_container,) if sidecar.envoy_container else (ISTIO_CONTAINER, ENVOY_CONTAINER)
    containers = spec.get("containers")
    mappings = [item for item in (containers if isinstance(containers, list) else ()) if isinstance(item, MutableMapping)]
    return next((item for item in mappings if item.get("name") in names), None)


def _start_with_bootstrap(envoy: Manifest) -> str | None:
    """Have a plain Envoy start with the sidecar's bootstrap.

    A remark when its command is the user's own.
    """
    lists = [envoy[key] for key in ("command", "args") if isinstance(envoy.get(key), list)]
    words = [word for words in lists for word in words]
    if not words:
        envoy["args"] = ["-c", BOOTSTRAP]
        return None
    if any(BOOTSTRAP in str(word) for word in words):
        return None
    return f"start the container {envoy.get('name')} with: envoy -c {BOOTSTRAP}"


def _put(owner: Manifest, key: str, item: dict[str, Any]) -> None:
    """Put an item into a list: in the place of the item of that name, else at the end."""
    items = owner.get(key)
    if items is None:
        owner[key] = [item]
        return
    for index, old_item in enumerate(items):
        if old_item.get("name") == item["name"] and old_item.get("mountPath") == item.get("mountPath"):
            if old_item != item:
                items[index] = item
            return
    items.append(item)
