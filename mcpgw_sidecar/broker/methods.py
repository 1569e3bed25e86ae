"""What the broker answers to each method of the stateful era, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.broker.client import SUBSCRIBE
from mcpgw_sidecar.broker.directory import Directory
from mcpgw_sidecar.catalog.snapshot import Listing, Snapshot
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.kinds import KINDS, TOOL
from mcpgw_sidecar.model.names import JsonText, VirtualName
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol.gzipped import WORTH, Packed
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, Request
from mcpgw_sidecar.protocol.jsontext import Member, dumps
from mcpgw_sidecar.protocol.versions import negotiate
from mcpgw_sidecar.routing.stateful import is_addressed
from mcpgw_sidecar.sessions.tokens import MAX_CLIENT

_LISTS = {kind.list_method: kind for kind in KINDS}
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")  # server/utilities/logging
_INFO_KEPT = ("name", "title", "version")
_INFO_VALUE = 64  # characters of each member of clientInfo that is kept when the whole does not fit


@attrs.frozen
class Result:
    """A result, as JSON; `session_id` is set for a new session, `packed` gives the body as gzip has it, where that is worth it.

    With `session`, Envoy may remember it for whoever sees the same, as long as that session and the catalog stand.
    """

    body: bytes
    session_id: str | None = attrs.field(default=None, repr=False)
    packed: Callable[[bytes], Packed] | None = None
    session: Session | None = None


def initialize(
    request: Request, snapshot: Snapshot, directory: Directory, virtual: VirtualName | None = None
) -> Result | Reject:
    """Negotiate and open a session; `snapshot` is what clients of the `virtual` server see."""
    members = {member.key: member for member in request.params or []}
    version = members.get("protocolVersion")
    if version is None or not isinstance(version.value, str):
        return _invalid(request, "protocolVersion must be a string")
    for key in ("clientInfo", "capabilities"):
        if key in members and not isinstance(members[key].value, dict):
            return _invalid(request, f"{key} must be an object")
    negotiated = negotiate(version.value)
    session_id, session = directory.create(
        protocol_version=negotiated,
        client_info=_client_info(request.text, members.get("clientInfo")),
        capabilities=_capabilities(request.text, members.get("capabilities")),
        virtual=virtual,
    )
    result: dict[str, object] = {
        "protocolVersion": negotiated,
        "capabilities": _offered(snapshot),
        "serverInfo": {"name": PROGRAM, "version": __version__},
    }
    if snapshot.instructions:
        result["instructions"] = snapshot.instructions
    return Result(dumps(result).encode(), session_id, session=session)


def answer(request: Request, snapshot: Snapshot, session: Session) -> Result | Reject:
    """Answer a request of a session that stands."""
    match request.method:
        case "ping":
            return Result(b"{}")
        case method if method in _LISTS:
            return _list(request, snapshot.of(_LISTS[method]), session)
        case method if is_addressed(method):
            return _at_broker(request, snapshot)
        case method:
            return Reject(status=200, code=METHOD_NOT_FOUND, message=f"Method not found: {method[:100]}", id=request.id)


def set_level(request: Request, session: Session, directory: Directory, headers: Mapping[str, str]) -> Result | Reject:
    """Set the level of a session, at every server that it has or will have a session with."""
    level = next((member.value for member in request.params or [] if member.key == "level"), None)
    if level not in LEVELS:
        return _invalid(request, f"level must be one of {', '.join(LEVELS)}")
    directory.set_level(session, level, headers)
    return Result(b"{}")


def _offered(snapshot: Snapshot) -> dict[str, object]:
    """Capabilities: the tools that this gateway is there for, and whatever else one of the servers has."""
    changing = (capability for capability in ("prompts", "resources") if capability in snapshot.capabilities)
    more: dict[str, object] = {capability: {"listChanged": True} for capability in changing}
    if SUBSCRIBE in snapshot.capabilities:
        more["resources"] = {"listChanged": True, "subscribe": True}
    plain: dict[str, object] = {name: {} for name in ("completions", "logging") if name in snapshot.capabilities}
    return {"tools": {"listChanged": True}, **more, **plain}


def _list(request: Request, listing: Listing, session: Session) -> Result | Reject:
    cursor = next((member.value for member in request.params or [] if member.key == "cursor"), None)
    if cursor is not None and not isinstance(cursor, str):
        return _invalid(request, "cursor must be a string")
    page = listing.page(cursor)
    if page is None:
        return _invalid(request, "unknown cursor: start again without one")
    if not listing.is_prepared(cursor):  # of old or odd cursors there is no end: nothing of them is kept
        return Result(page)
    return Result(page, packed=listing.packed if len(page) >= WORTH else None, session=session)


def _at_broker(request: Request, snapshot: Snapshot) -> Reject:
    """Only a request that goes around Envoy's listener meets the broker with these."""
    name = next((member.value for member in request.params or [] if member.key == "name"), None)
    if request.method == "tools/call" and not (isinstance(name, str) and name in snapshot.of(TOOL).owned):
        return Reject(status=200, code=METHOD_NOT_FOUND, message="Tool not found", data={"name": name}, id=request.id)
    message = "The broker does not carry calls: ask through the gateway's Envoy listener"
    return Reject(status=200, code=INTERNAL_ERROR, message=message, id=request.id)


def _invalid(request: Request, fault: str) -> Reject:
    return Reject(status=200, code=INVALID_PARAMS, message=f"Invalid params: {fault}", id=request.id)


def _fits(text: str) -> bool:
    """Whether a text may stand in a session id: what counts is what it is sealed as, escapes included."""
    return len(dumps(text)) <= MAX_CLIENT


def _client_info(text: str, member: Member | None) -> JsonText:
    """The client's own words, or its name alone where they would not fit into a session id (icons as data: URLs)."""
    if member is None:
        return JsonText(dumps({"name": "unknown", "version": "unknown"}))
    whole = text[member.start : member.end]
    if _fits(whole):
        return JsonText(whole)
    kept = {key: str(member.value[key])[:_INFO_VALUE] for key in _INFO_KEPT if key in member.value}
    return JsonText(dumps(kept))


def _capabilities(text: str, member: Member | None) -> JsonText:
    """The client's own words; where they would not fit, the standard capabilities without their details."""
    if member is None:
        return JsonText("{}")
    whole = text[member.start : member.end]
    if _fits(whole):
        return JsonText(whole)
    standard = ("roots", "sampling", "elicitation")
    return JsonText(dumps({key: {} for key in standard if key in member.value}))
