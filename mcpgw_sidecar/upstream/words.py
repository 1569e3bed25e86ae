"""What the broker tells others: its credential to a server, a failure of a server to a client."""

from __future__ import annotations

from pathlib import Path

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.protocol.headers import is_header_value
from mcpgw_sidecar.protocol.jsonrpc import SERVER_ERROR

_STATUS = {"Unreachable": 503, "Timeout": 504}
_BAD_GATEWAY = 502
_WORDS = {
    "Unreachable": "is unreachable: try again, and tell its operator if that lasts",
    "Redirected": "redirects instead of answering: tell the operator of this gateway",
    "Unauthorized": "refused this client's credentials: send the Authorization that it asks for",
}


def own_headers(server: Server) -> dict[str, str]:
    """The headers of the gateway's own requests to a server, with the server's credential.

    Raises UpstreamError when the credential cannot be read.
    """
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
    return {"authorization": credential} if credential else {}


def rejection(server: Server, error: UpstreamError) -> Reject:
    """The answer to a client after a failure of a server.

    The message has no address: where a server lives is its operator's business.
    """
    status = _STATUS.get(error.reason) or (error.status if error.reason == "Unauthorized" else None) or _BAD_GATEWAY
    message = f"MCP server {server.name} {_WORDS.get(error.reason, str(error))}"
    data = {"server": server.name, "reason": error.reason}
    return Reject(status=status, code=SERVER_ERROR, message=message, data=data, server=server.name)
