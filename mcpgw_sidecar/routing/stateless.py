"""Decides messages of the stateless era (2026-07-28), which have no session.

They have passed the ladder of inbound/classify.py, the envelope included. This one follows, and the
first failure wins:

1. the key is a string and occurs once    else 400, -32600; 200, -32602
2. a server owns the key                  else 200, -32602: what the envelope asks for is no fault
                                          of the envelope (a 400 would make clients of both eras
                                          initialize)
3. that server speaks this era, too       else Carry: the broker translates
4. forward: the bytes of the key replaced in the body, and its header with it
"""

from __future__ import annotations

from mcpgw_sidecar.catalog.snapshot import Snapshot
from mcpgw_sidecar.inbound.classify import Batch
from mcpgw_sidecar.model.decisions import Carry, Decision, Forward, Reject, ToBroker
from mcpgw_sidecar.model.names import JsonText
from mcpgw_sidecar.protocol.envelope import ADDRESSED
from mcpgw_sidecar.protocol.jsonrpc import INVALID_PARAMS, Message, Request
from mcpgw_sidecar.protocol.owners import owner_text
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.protocol.versions import LATEST_STATELESS
from mcpgw_sidecar.routing.stateful import target_of, upstream_key


def decide(message: Message | Batch | None, view: Snapshot, *, apps: bool = False) -> Decision:
    """Decide one message; the broker answers lists and discovery, and drops notifications.

    `apps` says that the client shows pages.
    """
    if not isinstance(message, Request):
        return ToBroker(method="")
    if message.method not in ADDRESSED:
        return ToBroker(method=message.method, id=message.id)
    target = target_of(message)
    if isinstance(target, Reject):
        return target
    item = view.find(target.kind, target.key)
    if item is None:
        fault = f"{target.kind.name.capitalize()} not found"
        return refusal(INVALID_PARAMS, fault, data={target.kind.key: target.key}, id=message.id)
    key = upstream_key(target, item)
    if not view.offers[item.server.name].speaks_stateless:
        text = target.exchanged(message.text, key)
        return Carry(
            server=item.server,
            kind=target.kind,
            key=target.key,
            method=message.method,
            id=message.id,
            session=None,
            text=text,
            apps=apps,
        )
    return Forward(
        server=item.server,
        kind=target.kind,
        key=target.key,
        method=message.method,
        id=message.id,
        session=None,
        session_id=None,
        protocol_version=LATEST_STATELESS,
        owner=owner_text(item.server.name, ""),
        body=target.exchanged(message.text, key).encode(),
        sent_key=JsonText(key) if key is not None else None,
        name_header=target.name_header(message.method, key),
        apps=apps,
    )
