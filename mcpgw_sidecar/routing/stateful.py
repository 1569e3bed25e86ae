"""Requests that one server answers, in the stateful era (2025-03-26 … 2025-11-25): a ladder, first failure wins.

1. a session that this gateway issued and that lives      else 400 / 404         (basic/transports, Session Management)
2. the key (`TARGETS`) is a string and stands once        else 200, -32602
3. a server owns it                                        else 200 and the code of the kind: tools -32601 (the guide's
                                                           "Tool not found"), prompts -32602, resources -32002
4. a session with that server                              else OpenSession
5. forward: the bytes of the key exchanged, nothing else
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.catalog.aliases import read_alias
from mcpgw_sidecar.catalog.snapshot import Owned, Snapshot
from mcpgw_sidecar.model.decisions import Decision, Forward, OpenSession, Reject, ToBroker
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TOOL, Kind
from mcpgw_sidecar.model.names import NULL, JsonText
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import SessionFault, SessionState, UpstreamSession
from mcpgw_sidecar.protocol.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    RESOURCE_NOT_FOUND,
    SERVER_ERROR,
    Request,
    Response,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, only, parse_object
from mcpgw_sidecar.protocol.owners import Owner, owner_text, read_event_owner, read_owner
from mcpgw_sidecar.protocol.versions import BATCHED

SUBSCRIBE, UNSUBSCRIBE = "resources/subscribe", "resources/unsubscribe"
TARGETS = {
    "tools/call": TOOL,
    "prompts/get": PROMPT,
    "resources/read": RESOURCE,
    SUBSCRIBE: RESOURCE,
    UNSUBSCRIBE: RESOURCE,
}
"""Methods whose `params` name what they are for, by the key of its kind."""

COMPLETE = "completion/complete"
"""Names its prompt or resource template in `params.ref` (server/utilities/completion)."""

_REFERENCES = {"ref/prompt": (PROMPT, "name"), "ref/resource": (RESOURCE, "uri")}
_NOT_FOUND = {TOOL.name: METHOD_NOT_FOUND, PROMPT.name: INVALID_PARAMS, RESOURCE.name: RESOURCE_NOT_FOUND}


@attrs.frozen
class _Named:
    """What a request is for: a kind, the key as the client wrote it, and where that stands in the message."""

    kind: Kind
    key: str
    start: int
    end: int


def is_addressed(method: str) -> bool:
    """Whether one server answers this method."""
    return method in TARGETS or method == COMPLETE


def takes_batches(session: SessionState | SessionFault) -> bool:
    """Whether this client's version has batches."""
    return isinstance(session, SessionState) and session.session.protocol_version == BATCHED


def decide_request(request: Request, snapshot: Snapshot, session: SessionState | SessionFault) -> Decision:
    """Decide a request for which `is_addressed` (the ladder above)."""
    if isinstance(session, SessionFault):
        return Reject(status=session.status, code=SERVER_ERROR, message=session.message, id=request.id)
    try:
        named = _reference(request) if request.method == COMPLETE else _target(request)
    except JsonTextError as twice:
        return Reject(status=400, code=INVALID_REQUEST, message=f"Invalid Request: {twice}", id=request.id)
    if isinstance(named, Reject):
        return named
    owned = snapshot.find(named.kind, named.key)
    if owned is None:
        code, message = _NOT_FOUND[named.kind.name], f"{named.kind.name.capitalize()} not found"
        return Reject(status=200, code=code, message=message, data={named.kind.key: named.key}, id=request.id)
    upstream = session.upstreams.get(owned.server.name)
    if upstream is None:
        return OpenSession(server=owned.server, session=session.session, id=request.id)
    text = request.text
    key = _upstream_key(named, owned)
    if key is not None:
        text = f"{text[: named.start]}{key}{text[named.end :]}"
    return Forward(
        server=owned.server,
        kind=named.kind,
        key=named.key,
        method=request.method,
        id=request.id,
        session_key=session.session.key,
        expires=session.session.expires,
        session_id=upstream.id,
        protocol_version=upstream.protocol_version,
        owner=owner_text(owned.server.name, upstream.ticket),
        body=text.encode(),
        sent_key=JsonText(key) if key is not None else None,
    )


def _upstream_key(named: _Named, owned: Owned) -> str | None:
    """The key as its server has it, as JSON; None where it is what the client wrote: a URI that is no alias."""
    if named.kind.prefixed:
        return owned.upstream_key
    alias = read_alias(named.key)
    if alias is None:
        return None
    return owned.upstream_key if owned.key == named.key else dumps(alias[1])


def decide_answer(answer: Response, snapshot: Snapshot, session: SessionState | SessionFault) -> Decision:
    """Decide a client's answer to a server's request: the id names the server (protocol/owners.py).

    An answer that nobody waits for is refused, never swallowed: whoever sent it can see that (basic/transports: 4xx).
    """
    if isinstance(session, SessionFault):
        return Reject(status=session.status, code=SERVER_ERROR, message=session.message, id=answer.id)
    owner = read_owner(answer.id_value)
    found = find_owner(owner, snapshot, session)
    if owner is None or found is None:
        message = "No server waits for this answer: its request is unknown, or its server or session has gone"
        return Reject(status=400, code=INVALID_REQUEST, message=message, id=answer.id)
    body = f"{answer.text[: answer.id_start]}{owner.id}{answer.text[answer.id_end :]}".encode()
    return _back(found, session, ident=answer.id, body=body)


def _back(
    found: tuple[Server, UpstreamSession],
    session: SessionState,
    *,
    ident: JsonText = NULL,
    body: bytes = b"",
    last_event_id: str | None = None,
) -> Forward:
    """Something that a client gives back goes where it came from."""
    server, upstream = found
    return Forward(
        server=server,
        kind=None,
        key="",
        method="",
        id=ident,
        session_key=session.session.key,
        expires=session.session.expires,
        session_id=upstream.id,
        protocol_version=upstream.protocol_version,
        owner=owner_text(server.name, upstream.ticket),
        body=body,
        last_event_id=last_event_id,
    )


def find_owner(owner: Owner | None, snapshot: Snapshot, session: SessionState) -> tuple[Server, UpstreamSession] | None:
    """The server, and the session with it, that an owner names; None when there is none (any more)."""
    server = snapshot.servers.get(owner.server) if owner is not None else None
    upstream = session.opens(server, owner.ticket) if owner is not None and server is not None else None
    return None if server is None or upstream is None else (server, upstream)


def decide_resume(event_id: str, snapshot: Snapshot, session: SessionState | SessionFault) -> Forward | ToBroker:
    """Decide a GET that resumes a stream (basic/transports, Resumability): the id of its last event names the server.

    What no server can resume is a stream of the broker's, or the broker says what is wrong with the session.
    """
    owner = read_event_owner(event_id)
    found = find_owner(owner, snapshot, session) if isinstance(session, SessionState) else None
    if owner is None or found is None or isinstance(session, SessionFault):
        return ToBroker(method="")
    return _back(found, session, last_event_id=owner.id)


def _target(request: Request) -> _Named | Reject:
    kind = TARGETS[request.method]
    member = only(request.params or [], kind.key)
    if member is None or not isinstance(member.value, str):
        return _unnamed(request, f"no {kind.name} {kind.key} set")
    return _Named(kind, member.value, member.start, member.end)


def _reference(request: Request) -> _Named | Reject:
    """What a completion is for: `{"type": "ref/prompt", "name": …}` or `{"type": "ref/resource", "uri": …}`."""
    ref = only(request.params or [], "ref")
    if ref is None or not isinstance(ref.value, dict):
        return _unnamed(request, "ref must be an object")
    kind, key = _REFERENCES.get(str(ref.value.get("type")), (None, ""))
    member: Member | None = only(parse_object(request.text[ref.start : ref.end]), key) if kind is not None else None
    if kind is None or member is None or not isinstance(member.value, str):
        return _unnamed(request, "ref must be a ref/prompt with its name or a ref/resource with its uri")
    return _Named(kind, member.value, ref.start + member.start, ref.start + member.end)


def _unnamed(request: Request, fault: str) -> Reject:
    return Reject(status=200, code=INVALID_PARAMS, message=f"Invalid params: {fault}", id=request.id)
