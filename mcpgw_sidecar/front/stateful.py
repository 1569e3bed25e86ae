"""The answers of the broker in the stateful era, as values.

A member of params has to occur exactly once (`only`): of two members, two readers could each take a
different one.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.catalog.offers import CAN_SUBSCRIBE
from mcpgw_sidecar.catalog.snapshot import Listing, Snapshot
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.envoy.entries import Audience
from mcpgw_sidecar.front.answers import Result
from mcpgw_sidecar.inbound.classify import Batch, Inbound
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.kinds import KINDS, TOOL
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol.extensions import KNOWN
from mcpgw_sidecar.protocol.gzipped import WORTH
from mcpgw_sidecar.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Notification,
    Request,
    Response,
)
from mcpgw_sidecar.protocol.jsontext import JsonTextError, Member, dumps, only
from mcpgw_sidecar.protocol.methods import ADDRESSED, CALL, CANCELLED, INITIALIZED, LEVELS, SET_LEVEL
from mcpgw_sidecar.protocol.owners import ASK, PING
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.protocol.versions import negotiate
from mcpgw_sidecar.sessions.tokens import MAX_CLIENT

_KINDS = {kind.list_method: kind for kind in KINDS}
_INFO_MEMBERS = ("name", "title", "version")  # the members of clientInfo that stay when the whole does not fit
_INFO_VALUE = 64  # characters of each of them


def answer(inbound: Inbound, directory: Directory, headers: Mapping[str, str]) -> Result | Reject | None:
    """Answer a message for the broker; None for a message without an answer."""
    session, message = inbound.session, inbound.message
    try:
        if session is None:
            return _initialize(message, inbound, directory) if isinstance(message, Request) else None
        match message:
            case Request(method=method) if method == SET_LEVEL:
                return _set_level(message, session.session, directory)
            case Request():
                return _answer_request(message, inbound.view, session.session)
            case Notification():
                if message.method == CANCELLED:
                    directory.cancelled(session.session, message)
                if message.method != INITIALIZED:
                    directory.tell(session, message, headers)
                return None
            case Response():
                return _answered(message, session.session, directory)
            case Batch() | None:
                return refusal(INVALID_REQUEST, "Invalid Request: a message is expected")
    except JsonTextError as error:
        return refusal(INVALID_REQUEST, f"Invalid Request: {error}", id=inbound.id)


def _answered(message: Response, session: Session, directory: Directory) -> Reject | None:
    """Take a client's answer: to a ping, or to a question of a call that the broker carries."""
    ident = str(message.id_value)
    if ident.startswith(PING) or (ident.startswith(ASK) and directory.answered(session, message)):
        return None
    text = "No call waits for this answer here; those of other calls go through the gateway's Envoy listener"
    return refusal(INVALID_REQUEST, text, id=message.id)


def _initialize(request: Request, inbound: Inbound, directory: Directory) -> Result | Reject:
    """Negotiate the version and open a session."""
    version, client_info, capabilities = (
        only(request.params or [], key) for key in ("protocolVersion", "clientInfo", "capabilities")
    )
    if version is None or not isinstance(version.value, str):
        return _invalid(request, "protocolVersion must be a string")
    for key, member in (("clientInfo", client_info), ("capabilities", capabilities)):
        if member is not None and not isinstance(member.value, dict):
            return _invalid(request, f"{key} must be an object")
    protocol_version = negotiate(version.value)
    session_id, session = directory.create(
        protocol_version=protocol_version,
        client_info=_client_info(request.text, client_info),
        capabilities=_client_capabilities(request.text, capabilities),
        owner=inbound.caller.owner if inbound.caller is not None else "",
    )
    result: dict[str, object] = {
        "protocolVersion": protocol_version,
        "capabilities": offered(inbound.view),
        "serverInfo": {"name": PROGRAM, "version": __version__},
    }
    if inbound.view.instructions:
        result["instructions"] = inbound.view.instructions
    return Result(dumps(result).encode(), session_id, audience=Audience.of(session))


def _answer_request(request: Request, view: Snapshot, session: Session) -> Result | Reject:
    match request.method:
        case "ping":
            return Result(b"{}")
        case method if method in _KINDS:
            return _list(request, view.of(_KINDS[method]), session)
        case method if method in ADDRESSED:
            return _at_broker(request, view)
        case method:
            return refusal(METHOD_NOT_FOUND, f"Method not found: {method[:100]}", id=request.id)


def _set_level(request: Request, session: Session, directory: Directory) -> Result | Reject:
    """Set the log level of a session, at each server that it is or will be open with."""
    level = only(request.params or [], "level")
    if level is None or level.value not in LEVELS:
        return _invalid(request, f"level must be one of {', '.join(LEVELS)}")
    directory.set_level(session, level.value)
    return Result(b"{}")


def offered(view: Snapshot) -> dict[str, object]:
    """The capabilities of the gateway: tools, and those that at least one of the servers has."""
    names = (capability for capability in ("prompts", "resources") if capability in view.capabilities)
    lists: dict[str, object] = {capability: {"listChanged": True} for capability in names}
    if CAN_SUBSCRIBE in view.capabilities:
        lists["resources"] = {"listChanged": True, "subscribe": True}
    plain: dict[str, object] = {name: {} for name in ("completions", "logging") if name in view.capabilities}
    extensions: dict[str, object] = {name: {} for name in KNOWN if name in view.capabilities}
    return {"tools": {"listChanged": True}, **lists, **plain, **({"extensions": extensions} if extensions else {})}


def _list(request: Request, listing: Listing, session: Session) -> Result | Reject:
    member = only(request.params or [], "cursor")
    cursor = None if member is None else member.value
    if cursor is not None and not isinstance(cursor, str):
        return _invalid(request, "cursor must be a string")
    page = listing.page(cursor)
    if page is None:
        return _invalid(request, "unknown cursor: start again without one")
    if not listing.is_prepared(cursor):  # there are endless other cursors, so their pages are not kept
        return Result(page)
    return Result(page, packed=listing.packed if len(page) >= WORTH else None, audience=Audience.of(session))


def _at_broker(request: Request, view: Snapshot) -> Reject:
    """Refuse a request that one server answers: it has come past Envoy's listener."""
    member = only(request.params or [], "name")
    name = None if member is None else member.value
    if request.method == CALL and not (isinstance(name, str) and name in view.of(TOOL).owned):
        return refusal(METHOD_NOT_FOUND, "Tool not found", data={"name": name}, id=request.id)
    message = "The broker does not carry calls: ask through the gateway's Envoy listener"
    return Reject(status=200, code=INTERNAL_ERROR, message=message, id=request.id)


def _invalid(request: Request, fault: str) -> Reject:
    return refusal(INVALID_PARAMS, f"Invalid params: {fault}", id=request.id)


def _fits(text: str) -> bool:
    """Whether a text fits into a session id, measured as it is sealed, with escapes."""
    return len(dumps(text)) <= MAX_CLIENT


def _client_info(text: str, member: Member | None) -> JsonText:
    """The client's own JSON, or a few members of it if it does not fit into a session id.

    Icons as data: URLs would not fit.
    """
    if member is None:
        return JsonText(dumps({"name": "unknown", "version": "unknown"}))
    whole = text[member.start : member.end]
    if _fits(whole):
        return JsonText(whole)
    short_info = {key: str(member.value[key])[:_INFO_VALUE] for key in _INFO_MEMBERS if key in member.value}
    return JsonText(dumps(short_info))


def _client_capabilities(text: str, member: Member | None) -> JsonText:
    """The client's own JSON, or the standard capabilities without details if it does not fit."""
    if member is None:
        return JsonText("{}")
    whole = text[member.start : member.end]
    if _fits(whole):
        return JsonText(whole)
    standard = ("roots", "sampling", "elicitation")
    return JsonText(dumps({key: {} for key in standard if key in member.value}))
