"""What the broker tells others.

Servers get a client's words and the broker's credential, clients the failure of a server.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import attrs

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model import reasons
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.servers import IF_ABSENT, Server
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol.headers import LISTING, is_header_value
from mcpgw_sidecar.protocol.statuses import failure

_WORDS = {
    reasons.UNREACHABLE: "is unreachable: try again, and tell its operator if that lasts",
    "Busy": "was not asked: the gateway is at the limit of its open connections; try again",
    reasons.REDIRECT: "redirects instead of answering: tell the operator of this gateway",
    reasons.UNAUTHORIZED: "refused this client's credentials: send the Authorization that it asks for, if its forwardHeaders names it",
}
_AGENT = f"{PROGRAM}/{__version__} {LISTING}{secrets.token_hex(8)})"
_LIKE = {"Busy": reasons.UNREACHABLE}


@attrs.frozen(kw_only=True)
class ClientWords:
    """What initialize says of a client: `info` and `capabilities` are JSON."""

    protocol_version: str
    info: str
    capabilities: str

    @classmethod
    def of(cls, session: Session) -> ClientWords:
        """The words of a session's client."""
        return cls(protocol_version=session.protocol_version, info=session.client_info, capabilities=session.capabilities)

    def params(self, version: str) -> str:
        """The params of initialize, with this version."""
        return f'{{"protocolVersion":"{version}","capabilities":{self.capabilities},"clientInfo":{self.info}}}'


def own_headers(server: Server) -> dict[str, str]:
    """The headers of the gateway's own requests to a server, with the server's credential.

    Raises UpstreamError when the credential cannot be read.
    """
    return {"user-agent": _AGENT, **_credential_headers(server)}


def is_own(agent: str) -> bool:
    """Whether this process has sent a request itself, by the User-Agent: it is its own server."""
    return agent == _AGENT


def _credential_headers(server: Server) -> dict[str, str]:
    credential = credential_of(server)
    return {server.credential_header: credential} if credential else {}


def with_credential(server: Server, headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of a client's request, with the server's credential where that is wanted.

    Raises UpstreamError when the credential cannot be read.
    """
    credential = credential_for(server, headers)
    return headers if credential is None else {**headers, server.credential_header: credential}


def credential_for(server: Server, headers: Mapping[str, str]) -> str | None:
    """What a client's request, with these headers for the server, gets; None for nothing.

    Raises UpstreamError when the credential cannot be read.
    """
    if not server.gives_credential or (server.credential_use == IF_ABSENT and headers.get(server.credential_header)):
        return None
    return credential_of(server)


def credential_of(server: Server) -> str | None:
    """The credential of a server, from its file if it has one. Raises UpstreamError."""
    credential = server.credential
    if server.credential_file is not None:
        try:
            credential = Path(server.credential_file).read_text(encoding="utf-8-sig").strip()
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that cannot be one
            reason = f"credentialFile {server.credential_file} cannot be read: {type(error).__name__}"
            raise UpstreamError("BadCredential", reason) from None
        if not is_header_value(credential):
            reason = f"credentialFile {server.credential_file} holds no single line of visible ASCII"
            raise UpstreamError("BadCredential", reason)
    return credential


def rejection(server: Server, error: UpstreamError) -> Reject:
    """The answer to a client after a failure of a server.

    The message has no address: where a server lives is its operator's business.
    """
    reason = error.reason if error.reason in reasons.OUTCOMES else _LIKE.get(error.reason, reasons.BAD_ANSWER)
    words = _WORDS.get(error.reason, str(error))
    if error.reason == reasons.UNAUTHORIZED and server.token_exchange is not None:
        words = "refused the token that it was given for this caller: try again, and tell its operator if that lasts"
    message = f"MCP server {server.name} {words}"
    reject = failure(server.name, reason, message)
    return reject if error.status is None else attrs.evolve(reject, data={**reject.data, "status": error.status})
