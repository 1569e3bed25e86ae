"""The configuration of the operator: MCP servers, in the order that decides conflicts."""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

import attrs

from mcpgw_sidecar.model.access import OPEN, Access, Allowed, Policy, with_policies
from mcpgw_sidecar.model.exchanges import TokenExchange
from mcpgw_sidecar.model.names import ServerName, VirtualName


@attrs.frozen
class ForwardedHeader:
    """A header of clients that a server gets, in lower case; the server gets it as `sent`.

    Without a `required` one a client is refused.
    """

    name: str
    sent: str
    required: bool = False


EXCHANGED = "x-mcp-token-"
"""How the names of headers with exchanged tokens begin; Envoy removes a client's."""

DISCOVERY, IF_ABSENT, ALWAYS = "discovery", "ifAbsent", "always"
"""Uses of a server's credential.

For the gateway's own requests alone, also for clients' that bring no such header, or for all.
"""


@attrs.frozen(kw_only=True)
class Server:
    """One MCP server behind the gateway.

    Times are in seconds, None for the gateway's own. A `call_timeout` of 0 means none;
    `discovery_timeout` is that of one of the gateway's own requests. `credential_use` says which
    requests get the credential, in `credential_header`. `forwarded` are the headers of
    clients that the server gets besides those that all servers get (protocol/passing.py). Nobody
    looks at the answers of a `trusted` one. `addresses` are those of the URL's host where they were
    judged (resources/external.py): nobody resolves it again. With a `token_exchange` the server
    gets a token of its own in place of the caller's.
    """

    name: ServerName
    url: str
    hostname: str
    tool_prefix: str = ""
    enabled: bool = True
    credential: str | None = attrs.field(default=None, repr=False)
    credential_file: str | None = None
    credential_header: str = "authorization"
    credential_use: str = DISCOVERY
    ca_file: str | None = None
    call_timeout: float | None = None
    discovery_timeout: float | None = None
    forwarded: tuple[ForwardedHeader, ...] = ()
    trusted: bool = False
    addresses: tuple[str, ...] = ()
    token_exchange: TokenExchange | None = None

    def moved_from(self, other: Server) -> bool:
        """Whether a session with `other` is not valid here: the URL differs, or the CA file."""
        return (self.url, self.ca_file) != (other.url, other.ca_file)

    @property
    def files(self) -> tuple[tuple[str, str | None], ...]:
        """The files that the server's entry names, each with its key."""
        named = [("credentialFile", self.credential_file), ("caFile", self.ca_file)]
        if self.token_exchange is not None:
            named += [(f"tokenExchange.{key}", path) for key, path in self.token_exchange.files]
        return tuple(named)

    @property
    def exchanged_header(self) -> str:
        """The header in which the gateway keeps a caller's token for this server.

        A server that moved, or wants other tokens, has another: it never gets the one of before.
        """
        mark = self.token_exchange.mark if self.token_exchange is not None else ""
        text = repr((self.name, self.url, self.ca_file, mark))
        return f"{EXCHANGED}{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def given_as(self) -> str:
        """The header in which the server gets what Envoy is given for it."""
        return "authorization" if self.token_exchange is not None else self.credential_header

    @property
    def wanted(self) -> tuple[ForwardedHeader, ...]:
        """`forwarded`, and the caller's token for this server, which goes as Authorization."""
        if self.token_exchange is None:
            return self.forwarded
        return (*self.forwarded, ForwardedHeader(self.exchanged_header, "authorization"))

    @property
    def gives_credential(self) -> bool:
        """Whether clients' requests get the server's credential."""
        return self.credential_use != DISCOVERY and (self.credential is not None or self.credential_file is not None)

    @property
    def shown_url(self) -> str:
        """The URL for logs and status, without its query, because that may hold a key."""
        parts = urlsplit(self.url)
        return self.url if not parts.query else f"{self.url.partition('?')[0]}?..."

    @property
    def path(self) -> str:
        """Path and query of the URL, for the request line of a call."""
        parts = urlsplit(self.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


@attrs.frozen(kw_only=True)
class VirtualServer:
    """A choice of tools under a name of its own; `tools` are their names, with prefixes.

    With `allow` it exists for these callers alone.
    """

    name: VirtualName
    tools: tuple[str, ...]
    allow: Allowed | None = None


@attrs.frozen(kw_only=True)
class Refused:
    """An entry of the configuration that is refused, in whole or in part, and why."""

    name: str
    reason: str
    message: str


@attrs.frozen(kw_only=True)
class Desired:
    """A whole configuration: the published value of the configuration source.

    `generation` counts the loads that took effect; `error` is the reason why a later load was
    refused, if one was, `access_error` the same of the access document. `loaded_at` is in seconds
    since the epoch.
    """

    source: str
    servers: tuple[Server, ...] = ()
    virtual_servers: tuple[VirtualServer, ...] = ()
    refused: tuple[Refused, ...] = ()
    generation: int = 0
    loaded_at: float = 0.0
    error: str | None = None
    failed_loads: int = 0
    access: Access = OPEN
    access_error: str | None = None
    policies: tuple[Policy, ...] = ()

    @property
    def allowed(self) -> Access:
        """The access document with the policies of namespaces."""
        return with_policies(self.access, self.policies)

    @property
    def errors(self) -> tuple[str | None, str | None]:
        """Why the last load of the configuration was refused, and that of the access document."""
        return self.error, self.access_error

    @property
    def enabled(self) -> tuple[Server, ...]:
        """The servers that are enabled."""
        return tuple(server for server in self.servers if server.enabled)
