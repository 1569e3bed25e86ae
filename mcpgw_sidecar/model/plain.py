"""Reads plain values of YAML. The text of each ValueError names the place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit


def mapping(value: Any, place: str, keys: Collection[str], form: str) -> dict[str, Any]:  # noqa: ANN401  # whatever the file holds
    """Keys and values, of these keys alone; `form` is an example. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{place} must hold keys and values, like {form}")  # noqa: TRY004  # the collector of errors takes one kind
    for key in value:
        if key not in keys:
            match = difflib.get_close_matches(str(key), keys, 1, 0.6)
            hint = f", did you mean {match[0]!r}?" if match else ""
            raise ValueError(f"{place}: unknown key {key!r}{hint} (known: {', '.join(keys)})")
    return value


def texts(value: Any, place: str) -> list[str]:  # noqa: ANN401
    """A list of lines of text that are not empty. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(each, str) and each and each.isprintable() for each in value):
        raise ValueError(f"{place} must be a list of texts")
    return value


def text(value: Any, place: str, remedy: str) -> str:  # noqa: ANN401
    """One line of text. Raises ValueError."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{place}: {remedy}")
    return value


def read_url(value: Any, place: str) -> str:  # noqa: ANN401
    """An http or https URL. Raises ValueError with the remedy."""
    remedy = "write http:// or https:// and a host"
    url = text(value, place, remedy)
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.fragment and parts.port != 0
        is_url = is_url and not any(char in parts.netloc for char in "@%")
    except ValueError:
        is_url = False
    if not is_url or not url.isascii() or any(char in url for char in ' "\\<>'):
        raise ValueError(f"{place}: {url!r:.80} cannot be used: {remedy}")
    return url
