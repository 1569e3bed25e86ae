"""The keys of the configuration file and the values that each may have.

The text of an error is its remedy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.config.units import MAX_DURATION, parse_duration
from mcpgw_sidecar.model.access import USUAL_LIMITS, Access, Allowed, Authentication, Limits, Policy, Rule
from mcpgw_sidecar.model.exchanges import TokenExchange
from mcpgw_sidecar.model.names import BROKER, ServerName, VirtualName
from mcpgw_sidecar.model.patterns import NAME, TOOL_PREFIX, has_valid_labels
from mcpgw_sidecar.model.servers import ALWAYS, DISCOVERY, IF_ABSENT, ForwardedHeader, Server, VirtualServer
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.protocol.passing import is_credential_header

_USES = (DISCOVERY, IF_ABSENT, ALWAYS)
Rules = tuple[Rule, ...]
Policies = tuple[Policy, ...]
Alternatives = Allowed
_HOSTNAME = re.compile(r"[A-Za-z0-9_.\[\]:-]{1,259}")


@attrs.frozen
class Check:
    """A condition for the text of a key, and the remedy for a text that does not meet it.

    cattrs cannot check the content of a text.
    """

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
            and has_valid_labels((parts.hostname or "").rstrip("."))
        )
    except ValueError:  # an invalid port, a broken IPv6 address
        return False


def _is_duration(value: str) -> bool:
    try:
        return parse_duration(value) <= MAX_DURATION
    except ValueError:
        return False


def _is_interval(value: str) -> bool:
    return _is_duration(value) and parse_duration(value) > 0


def _is_path(value: str) -> bool:
    return bool(value) and "\0" not in value


@attrs.frozen(kw_only=True)
class ServerEntry:
    """One entry of `servers`. The fields have the names of the keys.

    `CHECKS` has the conditions for their texts.
    """

    name: str = attrs.field(
        metadata=_checked(
            lambda value: bool(NAME.fullmatch(value)) and value != BROKER,
            "use letters, digits and . _ - /, starting and ending with a letter or digit, at most 253 characters; "
            f"{BROKER} is the gateway's own",
        )
    )
    url: str = attrs.field(
        metadata=_checked(_is_url, "write http://HOST[:PORT]/PATH or https://…, without user, password or fragment")
    )
    hostname: str | None = attrs.field(
        default=None,
        metadata=_checked(lambda value: bool(_HOSTNAME.fullmatch(value)), "write a host name, with :PORT if it needs one"),
    )
    toolPrefix: str = attrs.field(  # noqa: N815  # as in the file
        default="",
        metadata=_checked(
            lambda value: bool(TOOL_PREFIX.fullmatch(value)),
            "start with a letter or digit, then letters, digits and _ . -, at most 32 characters",
        ),
    )
    enabled: bool = True
    credential: str | None = attrs.field(
        default=None,
        repr=False,
        metadata=_checked(is_header_value, "write the whole Authorization value in visible ASCII, such as: Bearer TOKEN"),
    )
    credentialFile: str | None = attrs.field(default=None, metadata=_checked(_is_path, "write the path of a file"))  # noqa: N815
    credentialHeader: str = attrs.field(  # noqa: N815
        default="authorization",
        metadata=_checked(is_credential_header, "write the name of a header that the gateway does not set itself"),
    )
    credentialUse: str = attrs.field(  # noqa: N815
        default=DISCOVERY,
        metadata=_checked(lambda value: value in _USES, f"write one of {', '.join(_USES)}"),
    )
    caFile: str | None = attrs.field(default=None, metadata=_checked(_is_path, "write the path of a file"))  # noqa: N815
    callTimeout: str | None = attrs.field(  # noqa: N815
        default=None, metadata=_checked(_is_duration, "write it like 250ms, 30s, 5m, or 0 for none; at most 24h")
    )
    discoveryTimeout: str | None = attrs.field(  # noqa: N815
        default=None, metadata=_checked(_is_interval, "write it like 250ms, 30s, 5m; at most 24h")
    )

    trusted: bool = False
    forwardHeaders: tuple[ForwardedHeader, ...] = ()  # noqa: N815  # read_forwarded reads it
    tokenExchange: TokenExchange | None = None  # noqa: N815  # config/exchange.py reads it

    def server(self) -> Server:
        """The entry as a value of the model."""
        return Server(
            name=ServerName(self.name),
            url=self.url,
            hostname=self.hostname or urlsplit(self.url).netloc,
            tool_prefix=self.toolPrefix,
            enabled=self.enabled,
            credential=self.credential,
            credential_file=self.credentialFile,
            credential_header=self.credentialHeader.lower(),
            credential_use=self.credentialUse,
            ca_file=self.caFile,
            call_timeout=None if self.callTimeout is None else parse_duration(self.callTimeout),
            discovery_timeout=None if self.discoveryTimeout is None else parse_duration(self.discoveryTimeout),
            forwarded=self.forwardHeaders,
            token_exchange=self.tokenExchange,
            trusted=self.trusted,
        )


@attrs.frozen(kw_only=True)
class VirtualServerEntry:
    """One entry of `virtualServers`.

    Its clients get only the tools in `tools`, which have the names that clients see.
    """

    name: str = attrs.field(metadata=_checked(lambda value: bool(NAME.fullmatch(value)), "write it like NAMESPACE/NAME"))
    tools: list[str]
    allow: Alternatives | None = None  # catalog/ruletext.py reads it

    def virtual_server(self) -> VirtualServer:
        """The entry as a value of the model."""
        tools = tuple(dict.fromkeys(self.tools))
        return VirtualServer(name=VirtualName(self.name), tools=tools, allow=self.allow)


@attrs.frozen(kw_only=True)
class EndpointEntry:
    """What is served at the endpoint itself."""

    bare: bool = True


@attrs.frozen(kw_only=True)
class AccessFile:
    """The access document."""

    limits: Limits = USUAL_LIMITS  # config/limits.py reads it
    authentication: Authentication | None = None  # config/login.py reads it
    authorization: Rules | None = None  # catalog/ruletext.py reads it
    endpoint: EndpointEntry = EndpointEntry()

    def access(self) -> Access:
        """The document as a value of the model."""
        return Access(
            limits=self.limits,
            authentication=self.authentication,
            rules=self.authorization,
            bare=self.endpoint.bare,
        )


@attrs.frozen(kw_only=True)
class ConfigFile(AccessFile):
    """The whole configuration file, which may hold the keys of the access document, too."""

    servers: list[ServerEntry]
    virtualServers: list[VirtualServerEntry] = attrs.field(factory=list)  # noqa: N815
    policies: Policies = ()  # catalog/ruletext.py reads it


CHECKS: dict[str, dict[str, Check]] = {
    section: {field.name: field.metadata["check"] for field in attrs.fields(kind) if "check" in field.metadata}
    for section, kind in (("servers", ServerEntry), ("virtualServers", VirtualServerEntry))
}
SECRET = frozenset({"credential"})
"""Keys whose values are never shown, not even in an error."""
