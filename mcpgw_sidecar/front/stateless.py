"""The answers of the broker in the stateless era, as values: server/discover and the lists."""

from __future__ import annotations

from mcpgw_sidecar import PROGRAM, __version__
from mcpgw_sidecar.catalog.snapshot import Listing, Snapshot
from mcpgw_sidecar.envoy.entries import Audience
from mcpgw_sidecar.front.answers import Result
from mcpgw_sidecar.front.stateful import offered
from mcpgw_sidecar.inbound.classify import Inbound
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.kinds import KINDS
from mcpgw_sidecar.protocol.envelope import META_SERVER
from mcpgw_sidecar.protocol.gzipped import WORTH
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, Request
from mcpgw_sidecar.protocol.jsontext import JsonTextError, dumps, only
from mcpgw_sidecar.protocol.methods import DISCOVER
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.protocol.versions import SUPPORTED

_KINDS = {kind.list_method: kind for kind in KINDS}
# A client may keep an answer for `ttlMs`. Not every client listens for changes, so it may not.
_COMPLETE = {
    "resultType": "complete",
    "ttlMs": 0,
    "cacheScope": "private",
    "_meta": {META_SERVER: {"name": PROGRAM, "version": __version__}},
}
_TAIL = b"," + dumps(_COMPLETE)[1:].encode()


def answer(inbound: Inbound) -> Result | Reject | None:
    """Answer a message for the broker; None for a notification, which concerns nobody here."""
    message = inbound.message
    if not isinstance(message, Request):
        return None
    audience = Audience.stateless(apps=inbound.scope.apps)
    if message.method == DISCOVER:
        return Result(dumps(_discovery(inbound.view)).encode(), audience=audience)
    kind = _KINDS.get(message.method)
    if kind is not None:
        return _list(message, inbound.view.of(kind), audience)
    words = "The broker does not carry calls: ask through the gateway's Envoy listener"
    return Reject(status=200, code=INTERNAL_ERROR, message=words, id=message.id)


def _discovery(view: Snapshot) -> dict[str, object]:
    return {
        "supportedVersions": list(SUPPORTED),
        "capabilities": offered(view),
        **({"instructions": view.instructions} if view.instructions else {}),
        **_COMPLETE,
    }


def _list(request: Request, listing: Listing, audience: Audience) -> Result | Reject:
    try:
        member = only(request.params or [], "cursor")
    except JsonTextError as error:
        return refusal(INVALID_REQUEST, f"Invalid Request: {error}", id=request.id)
    cursor = None if member is None else member.value
    page = listing.page(cursor) if cursor is None or isinstance(cursor, str) else None
    if page is None:
        return refusal(INVALID_PARAMS, "Invalid params: unknown cursor: start again without one", id=request.id)
    body = page[:-1] + _TAIL
    if not listing.is_prepared(cursor):  # there are endless other cursors, so their pages are not kept
        return Result(body)
    return Result(body, packed=listing.packed if len(body) >= WORTH else None, audience=audience)
