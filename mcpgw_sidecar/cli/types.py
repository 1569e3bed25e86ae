"""The types of the options. The error for a wrong value says what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from mcpgw_sidecar.config.units import MAX_DURATION, parse_duration, parse_size
from mcpgw_sidecar.model.plain import read_url
from mcpgw_sidecar.resources.kinds import EVERYWHERE
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.listeners import Address, parse_address


class Parsed(click.ParamType[Any]):
    """A text that a function turns into a value, or refuses with ValueError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401  # click's
        """Parse a text; a value that is not text (a default) stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _unix_or_tcp(text: str) -> Address:
    return parse_address(text, unix=True)


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < LEAST:
        raise ValueError(f"{text!r} is too short: at least {LEAST:g}s")
    return seconds


def _limit(text: str) -> float:
    seconds = parse_duration(text)
    if seconds > MAX_DURATION:
        raise ValueError(f"{text!r} is too long: at most 24h, or 0 for none")
    return seconds


def _body_size(text: str) -> int:
    size = parse_size(text)
    if not LEAST_BODY <= size <= MOST_BODY:
        raise ValueError(f"{text!r} is out of range: 1KiB to 1GiB")
    return size


def _heap(text: str) -> int:
    size = parse_size(text)
    if size < LEAST_HEAP:
        raise ValueError(f"{text!r} is too little for Envoy: at least {LEAST_HEAP >> 20}MiB")
    return size


def _origin(text: str) -> str:
    if text == "*":
        return text
    parts = urlsplit(text.rstrip("/"))
    if not parts.scheme or not parts.hostname or parts.path or parts.query:
        raise ValueError(f"{text!r} is not an origin: write it like https://app.example.com")
    return text.rstrip("/").lower()


def _collector(text: str) -> str:
    parts = urlsplit(read_url(text.rstrip("/"), "--log-collector"))
    if parts.path or parts.query or not parts.port or "*" in parts.netloc:
        raise ValueError(f"{text!r} is no collector: write it like http://collector.example.com:4317")
    return text.rstrip("/")


def _listener(text: str) -> Address:
    address = parse_address(text)
    if address.host not in {"127.0.0.1", "::1"} or not address.port:
        raise ValueError(f"{text!r} is no listener of the gateway beside the sidecar: write it like 127.0.0.1:8080")
    return address


def _config(text: str) -> Path | Ref:
    if not text.startswith(_CONFIG_MAP):
        if text.lower().startswith("configmap") and not Path(text).exists():
            raise ValueError(f"{text!r} is no file; a ConfigMap is written like configmap:mcp-system/mcp-gateway-config")
        return Path(text)
    return _config_map(text)


def _config_map(text: str) -> Ref:
    if not text.startswith(_CONFIG_MAP):
        raise ValueError(f"{text!r} is no ConfigMap: write it like configmap:mcp-system/mcp-gateway-access")
    return Ref(*_namespaced_name(text.removeprefix(_CONFIG_MAP)))


def _namespaced_name(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not namespace or not slash or not name or "/" in name:
        raise ValueError(f"{text!r} is not NAMESPACE/NAME")
    return namespace, name


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise ValueError(f"{text!r} is no name of a namespace: use lower-case letters, digits and -")
    return text


def _namespace_or_all(text: str) -> str:
    return text if text == EVERYWHERE else _namespace(text)


def _image(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f"{text!r} is no image: write it like registry.example.com/mcpgw-sidecar:1.0")
    return text


def _host(text: str) -> str:
    if text != "*" and (not text or any(char in text for char in "/ @?#")):
        raise ValueError(f"{text!r} is not a host name: write it like gw.example.com or *.example.com")
    return text.lower()


_CONFIG_MAP = "configmap:"
LEAST = 0.1  # seconds
LEAST_HEAP = 64 << 20  # bytes
LEAST_BODY, MOST_BODY = 1 << 10, 1 << 30  # bytes; Envoy counts in 32 bits
LIMIT = Parsed("DURATION", _limit)
INTERVAL = Parsed("DURATION", _positive_duration)
BODY_SIZE = Parsed("SIZE", _body_size)
HEAP = Parsed("SIZE", _heap)
ORIGIN = Parsed("ORIGIN", _origin)
COLLECTOR, TOKEN_URL = Parsed("URL", _collector), Parsed("URL", partial(read_url, place="--allow-token-urls"))
CONFIG = Parsed("FILE|configmap:NS/NAME", _config)
CONFIG_MAP = Parsed("configmap:NS/NAME", _config_map)
NAMED = Parsed("NAMESPACE/NAME", _namespaced_name)
HOST = Parsed("HOST", _host)
NAMESPACE = Parsed("NAMESPACE", _namespace)
NAMESPACE_OR_ALL = Parsed("NAMESPACE|*", _namespace_or_all)
IMAGE = Parsed("IMAGE", _image)
DURATION = Parsed("DURATION", parse_duration)
ADDRESS = Parsed("HOST:PORT", parse_address)
LISTENER = Parsed("127.0.0.1:PORT", _listener)
UNIX_OR_ADDRESS = Parsed("HOST:PORT|unix:PATH", _unix_or_tcp)
