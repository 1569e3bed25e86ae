"""The keys of the configuration file and what each may hold; the words of an error are its remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.config.units import parse_duration
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_HOSTNAME = re.compile(r"[A-Za-z0-9_.\[\]:-]{1,259}")


@attrs.frozen
class Check:
    """What a text has to be, and the words that say so. Whatever cattrs cannot know of a key's content."""

    passes: Callable[[str], bool]
    remedy: str


def _checked(passes: Callable[[str], bool], remedy: str) -> dict[str, Check]:
    return {"check": Check(passes, remedy)}


def _is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and parts.username is None
            and not parts.fragment
            and value.isascii()
            and value.isprintable()
            and " " not in value
        )
    except ValueError:  # a port that is none, a broken IPv6 address
        return False


def _is_duration(value: str) -> bool:
    try:
        parse_duration(value)
    except ValueError:
        return False
    return True


def _is_visible(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable()


@attrs.frozen(kw_only=True)
class ServerEntry:
    """One entry of `servers`. Field names are the file's keys; `CHECKS` says what their texts have to be."""

    name: str = attrs.field(
        metadata=_checked(
            lambda value: bool(_NAME.fullmatch(value)),
            "use letters, digits and . _ - /, starting and ending with a letter or digit, at most 253 characters",
        )
    )
    url: str = attrs.field(
        metadata=_checked(_is_url, "write http://HOST[:PORT]/PATH or https://…, without user, password or fragment")
    )
    hostname: str | None = attrs.field(
        default=None,
        metadata=_checked(lambda value: bool(_HOSTNAME.fullmatch(value)), "write a host name, with :PORT if it needs one"),
    )
    toolPrefix: str = attrs.field(  # noqa: N815  # the file's spelling
        default="",
        metadata=_checked(
            lambda value: value == "" or bool(_PREFIX.fullmatch(value)),
            "start with a letter or digit, then letters, digits and _ . -, at most 32 characters",
        ),
    )
    enabled: bool = True
    credential: str | None = attrs.field(
        default=None,
        repr=False,
        metadata=_checked(_is_visible, "write the whole Authorization value in visible ASCII, such as: Bearer TOKEN"),
    )
    credentialFile: str | None = None  # noqa: N815
    caFile: str | None = None  # noqa: N815
    callTimeout: str | None = attrs.field(  # noqa: N815
        default=None, metadata=_checked(_is_duration, "write it like 250ms, 30s, 5m, or 0 for none")
    )

    def server(self) -> Server:
        """The model's value."""
        return Server(
            name=ServerName(self.name),
            url=self.url,
            hostname=self.hostname or urlsplit(self.url).netloc,
            tool_prefix=self.toolPrefix,
            enabled=self.enabled,
            credential=self.credential,
            credential_file=self.credentialFile,
            ca_file=self.caFile,
            call_timeout=None if self.callTimeout is None else parse_duration(self.callTimeout),
        )


@attrs.frozen(kw_only=True)
class ConfigFile:
    """The whole file."""

    servers: list[ServerEntry]


CHECKS: dict[str, Check] = {
    field.name: field.metadata["check"] for field in attrs.fields(ServerEntry) if "check" in field.metadata
}
SECRET = frozenset({"credential"})
"""Keys whose values are never repeated, not even in an error."""
