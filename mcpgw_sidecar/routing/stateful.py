"""tools/call in the stateful era (2025-03-26 … 2025-11-25): a ladder, first failure wins.

1. a session that this gateway issued and that lives      else 400 / 404         (basic/transports, Session Management)
2. `params.name` is a string and stands once              else 200, -32602
3. a server owns the name                                  else 200, -32601      (the guide's "Tool not found")
4. a session with that server                              else OpenSession
5. forward: the bytes of the name exchanged, nothing else
"""

from __future__ import annotations

from mcpgw_sidecar.catalog.snapshot import OwnedTool, Snapshot
from mcpgw_sidecar.model.decisions import Decision, Forward, OpenSession, Reject
from mcpgw_sidecar.model.names import ToolName
from mcpgw_sidecar.model.sessions import SessionFault, SessionState
from mcpgw_sidecar.protocol.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, SERVER_ERROR, Request, Response
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, only
from mcpgw_sidecar.protocol.owners import read_owner


def decide_call(request: Request, snapshot: Snapshot, session: SessionState | SessionFault) -> Decision:
    """Decide one call (the ladder above)."""
    if isinstance(session, SessionFault):
        return Reject(status=session.status, code=SERVER_ERROR, message=session.message, id=request.id)
    name = _name(request)
    if isinstance(name, Reject):
        return name
    tool = snapshot.tools.get(ToolName(name.value))
    if tool is None:
        return Reject(status=200, code=METHOD_NOT_FOUND, message="Tool not found", data={"name": name.value}, id=request.id)
    upstream = session.upstreams.get(tool.server.name)
    if upstream is None:
        return OpenSession(server=tool.server, session=session.session, id=request.id)
    return Forward(
        server=tool.server,
        tool=tool.name,
        method=request.method,
        id=request.id,
        session_key=session.session.key,
        session_id=upstream.id,
        protocol_version=upstream.protocol_version,
        body=_with_name(request.text, name, tool),
    )


def decide_answer(answer: Response, snapshot: Snapshot, session: SessionState | SessionFault) -> Decision:
    """Decide a client's answer to a server's request: the id names the server (protocol/owners.py).

    An answer that nobody waits for is refused, never swallowed: whoever sent it can see that (basic/transports: 4xx).
    """
    if isinstance(session, SessionFault):
        return Reject(status=session.status, code=SERVER_ERROR, message=session.message, id=answer.id)
    owner = read_owner(answer.id_value)
    server = snapshot.servers.get(owner.server) if owner is not None else None
    upstream = session.upstreams.get(server.name) if server is not None else None
    if owner is None or server is None or upstream is None:
        message = "No server waits for this answer: its request is unknown, or its server or session has gone"
        return Reject(status=400, code=INVALID_REQUEST, message=message, id=answer.id)
    return Forward(
        server=server,
        tool=None,
        method="",
        id=answer.id,
        session_key=session.session.key,
        session_id=upstream.id,
        protocol_version=upstream.protocol_version,
        body=f"{answer.text[: answer.id_start]}{owner.id}{answer.text[answer.id_end :]}".encode(),
    )


def _name(request: Request) -> Member | Reject:
    try:
        name = only(request.params or [], "name")
    except JsonTextError as twice:
        return Reject(status=400, code=INVALID_REQUEST, message=f"Invalid Request: {twice}", id=request.id)
    if name is None or not isinstance(name.value, str):
        return Reject(status=200, code=INVALID_PARAMS, message="Invalid params: no tool name set", id=request.id)
    return name


def _with_name(text: str, name: Member, tool: OwnedTool) -> bytes:
    if text[name.start : name.end] == tool.upstream_name:
        return text.encode()
    return f"{text[: name.start]}{tool.upstream_name}{text[name.end :]}".encode()
