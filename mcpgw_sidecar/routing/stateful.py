"""Decides requests that one server answers, in the stateful era (2025-03-26 … 2025-11-25).

They have passed the ladder of inbound/classify.py. This one follows, and the first failure wins:

1. the key (`TARGETS`) is a string and occurs once   else 200, -32602
2. a server owns the key, or this session has       else 200 and the code of the kind: tools -32601
   called one that may know a URI (links.py)         (the guide's "Tool not found"), prompts
                                                     -32602, resources -32002
3. that server speaks this era, too                  else Carry: the broker translates
4. there is a session with that server               else OpenSession
5. forward: the bytes of the key replaced, nothing else
"""

from __future__ import annotations

import json

import attrs

from mcpgw_sidecar.catalog.aliases import read_alias
from mcpgw_sidecar.catalog.mirrored import headers_of
from mcpgw_sidecar.catalog.offers import CAN_SUBSCRIBE, Offer
from mcpgw_sidecar.catalog.snapshot import Owned, Snapshot
from mcpgw_sidecar.model.decisions import Carry, Decision, FindServer, Forward, OpenSession, Reject, ToBroker
from mcpgw_sidecar.model.kinds import PROMPT, RESOURCE, TOOL, Kind
from mcpgw_sidecar.model.names import NULL, JsonText
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.model.sessions import SessionState, UpstreamSession
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.envelope import NAMED, encode_value
from mcpgw_sidecar.protocol.extensions import UI, declares
from mcpgw_sidecar.protocol.jsonrpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    RESOURCE_NOT_FOUND,
    Request,
    Response,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, only, parse_object
from mcpgw_sidecar.protocol.methods import CALL, COMPLETE, SUBSCRIBE, TARGETS, UNSUBSCRIBE
from mcpgw_sidecar.protocol.owners import ASK, PING, Owner, owner_text, read_call, read_event_owner, read_owner
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.routing.links import candidates

_SUBSCRIPTIONS = frozenset({SUBSCRIBE, UNSUBSCRIBE})
_REFERENCES = {"ref/prompt": (PROMPT, "name"), "ref/resource": (RESOURCE, "uri")}
_NOT_FOUND = {TOOL.name: METHOD_NOT_FOUND, PROMPT.name: INVALID_PARAMS, RESOURCE.name: RESOURCE_NOT_FOUND}


@attrs.frozen
class Target:
    """The target of a request: a kind, and the key as the client wrote it, at `text[start:end]`."""

    kind: Kind
    key: str
    start: int
    end: int

    def exchanged(self, text: str, key: str | None) -> str:
        """The request with another key (JSON), or as it is."""
        return text if key is None else f"{text[: self.start]}{key}{text[self.end :]}"

    def name_header(self, method: str, key: str | None) -> str | None:
        """The value of `Mcp-Name` for the key at the server; None where a method has none."""
        return encode_value(self.key if key is None else json.loads(key)) if method in NAMED else None


def decide_request(request: Request, snapshot: Snapshot, session: SessionState) -> Decision:
    """Decide a request whose method is in ADDRESSED (the ladder above)."""
    target = target_of(request)
    if isinstance(target, Reject):
        return target
    item = snapshot.find(target.kind, target.key)
    if item is None and target.kind is TOOL and declares(session.session, UI):
        item = snapshot.find_bare(target.key)
    if item is None and target.kind is RESOURCE and request.method != COMPLETE:
        linked = _linked(request, target, snapshot, session)
        if linked is not None:
            return linked
    if item is None:
        code, message = _NOT_FOUND[target.kind.name], f"{target.kind.name.capitalize()} not found"
        return refusal(code, message, data={target.kind.key: target.key}, id=request.id)
    if snapshot.offers[item.server.name].is_stateless:
        return _carry(request, target, item, session, snapshot.offers[item.server.name])
    if item.server.name not in session.upstreams:
        tool = target.key if target.kind is TOOL else ""
        return OpenSession(server=item.server, session=session.session, id=request.id, method=request.method, tool=tool)
    key = upstream_key(target, item)
    return _forward(request, target, item.server, session, key)


def _forward(request: Request, target: Target, server: Server, session: SessionState, key: str | None) -> Forward:
    """The decision to send a request on in an open session; `key` replaces the client's."""
    upstream = session.upstreams[server.name]
    return Forward(
        server=server,
        kind=target.kind,
        key=target.key,
        method=request.method,
        id=request.id,
        session=session.session,
        session_id=upstream.id,
        protocol_version=upstream.protocol_version,
        owner=owner_text(server.name, upstream.ticket),
        body=target.exchanged(request.text, key).encode(),
        sent_key=JsonText(key) if key is not None else None,
    )


def _carry(request: Request, target: Target, item: Owned, session: SessionState, offer: Offer) -> Carry | Reject:
    """The decision to translate a request."""
    server, method = item.server, request.method
    if method in _SUBSCRIPTIONS and CAN_SUBSCRIBE not in offer.capabilities:
        fault = f"MCP server {server.name} takes no {method} of clients of this protocol version"
        return refusal(METHOD_NOT_FOUND, fault, id=request.id)
    key = upstream_key(target, item)
    name = target.name_header(method, key)
    headers = {h.MCP_METHOD: method, **({h.MCP_NAME: name} if name is not None else {})}
    if method == CALL:
        try:
            arguments = only(request.params or [], "arguments")
        except JsonTextError as error:
            return refusal(INVALID_REQUEST, f"Invalid Request: {error}", id=request.id)
        if arguments is not None:
            headers |= headers_of(item.text, request.text[arguments.start : arguments.end])
    return Carry(
        server=server,
        kind=target.kind,
        key=target.key,
        method=method,
        id=request.id,
        session=session.session,
        text=target.exchanged(request.text, key),
        headers=headers,
    )


def _linked(request: Request, target: Target, snapshot: Snapshot, session: SessionState) -> Decision | None:
    """Where a URI goes that no list has; None if nobody can know it."""
    servers = candidates(target.key, snapshot, session)
    if len(servers) == 1:
        return _forward(request, target, servers[0], session, None)
    if not servers:
        return None
    return FindServer(servers=servers, uri=target.key, session=session.session, id=request.id, method=request.method)


def upstream_key(target: Target, item: Owned) -> str | None:
    """The key at its server, as JSON; None if the client wrote it so: a URI that is no alias."""
    if target.kind.prefixed:
        return item.upstream_key
    alias = read_alias(target.key)
    if alias is None or alias[0] != item.server.name:
        return None
    return item.upstream_key if item.key == target.key else dumps(alias[1])


def decide_answer(answer: Response, snapshot: Snapshot, session: SessionState) -> Decision:
    """Decide a client's answer to a server's request: the id names the server (protocol/owners.py).

    An answer that no server waits for is refused, never dropped in silence, so that its sender sees
    the error (basic/transports: 4xx). The answer to a ping of the broker (front/stream.py), or to a
    question of a call that it carries (front/carrying.py), is the broker's.
    """
    if isinstance(answer.id_value, str) and answer.id_value.startswith((PING, ASK)):
        return ToBroker(method="", id=answer.id)
    owner = read_owner(answer.id_value)
    origin = find_owner(owner, snapshot, session)
    if owner is None or origin is None:
        message = "No server waits for this answer: its request is unknown, or its server or session has gone"
        return refusal(INVALID_REQUEST, message, id=answer.id)
    body = f"{answer.text[: answer.id_start]}{owner.id}{answer.text[answer.id_end :]}".encode()
    return _back(origin, session, ident=answer.id, body=body)


def _back(
    origin: tuple[Server, UpstreamSession],
    session: SessionState,
    *,
    ident: JsonText = NULL,
    body: bytes = b"",
    last_event_id: str | None = None,
) -> Forward:
    """The decision to send a client's answer, or its resumption of a stream, to the origin."""
    server, upstream = origin
    return Forward(
        server=server,
        kind=None,
        key="",
        method="",
        id=ident,
        session=session.session,
        session_id=upstream.id,
        protocol_version=upstream.protocol_version,
        owner=owner_text(server.name, upstream.ticket),
        body=body,
        last_event_id=last_event_id,
    )


def find_owner(owner: Owner | None, snapshot: Snapshot, session: SessionState) -> tuple[Server, UpstreamSession] | None:
    """The server that an owner names, and the session with it.

    None if one of them does not exist, or no longer.
    """
    server = snapshot.servers.get(owner.server) if owner is not None else None
    upstream = session.opens(server, owner.ticket) if owner is not None and server is not None else None
    return None if server is None or upstream is None else (server, upstream)


def decide_resume(event_id: str, snapshot: Snapshot, session: SessionState) -> Forward | ToBroker:
    """Decide a GET that resumes a stream (basic/transports, Resumability).

    The id of the stream's last event names the server. If no server can resume the stream, the
    request goes to the broker.
    """
    owner = read_event_owner(event_id)
    origin = find_owner(owner, snapshot, session)
    if owner is None or origin is None:
        return ToBroker(method="")
    call, event_id = read_call(owner.id)
    return _back(origin, session, ident=call, last_event_id=event_id)


def target_of(request: Request) -> Target | Reject:
    """What a request asks for, or its refusal: a key may stand there once."""
    try:
        return _reference(request) if request.method == COMPLETE else _target(request)
    except JsonTextError as error:
        return refusal(INVALID_REQUEST, f"Invalid Request: {error}", id=request.id)


def _target(request: Request) -> Target | Reject:
    kind = TARGETS[request.method]
    member = only(request.params or [], kind.key)
    if member is None or not isinstance(member.value, str):
        return _no_target(request, f"no {kind.name} {kind.key} set")
    return Target(kind, member.value, member.start, member.end)


def _reference(request: Request) -> Target | Reject:
    """The target of a completion.

    It is `{"type": "ref/prompt", "name": …}` or `{"type": "ref/resource", "uri": …}`.
    """
    ref = only(request.params or [], "ref")
    if ref is None or not isinstance(ref.value, dict):
        return _no_target(request, "ref must be an object")
    kind, key = _REFERENCES.get(str(ref.value.get("type")), (None, ""))
    member: Member | None = only(parse_object(request.text[ref.start : ref.end]), key) if kind is not None else None
    if kind is None or member is None or not isinstance(member.value, str):
        return _no_target(request, "ref must be a ref/prompt with its name or a ref/resource with its uri")
    return Target(kind, member.value, ref.start + member.start, ref.start + member.end)


def _no_target(request: Request, fault: str) -> Reject:
    return refusal(INVALID_PARAMS, f"Invalid params: {fault}", id=request.id)
