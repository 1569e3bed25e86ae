"""How a call that the broker carries begins and ends, whichever way it is carried."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mcpgw_sidecar.envoy.entries import refused_mark
from mcpgw_sidecar.front.answers import Events, reject_text, wait_rejected
from mcpgw_sidecar.model.decisions import Carry, Reject
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.jsonrpc import Request, parse_message
from mcpgw_sidecar.protocol.statuses import for_era


def request_of(carry: Carry) -> Request:
    """The request that is carried, with its key at the server."""
    request = parse_message(carry.text)
    assert isinstance(request, Request)  # noqa: S101  # it is the client's own, with another key
    return request


async def wait_concluded(
    events: Events, carry: Carry, answer: bytes | Reject, headers: Mapping[str, str], record: RequestRecord
) -> None:
    """Send the outcome, and close the record. `headers` are the client's."""
    if isinstance(answer, Reject):
        answer = attrs.evolve(answer, id=carry.id, method=carry.method, server=carry.server.name, tool=carry.tool)
        answer = for_era(answer, headers.get(h.VERSION))
        record.refuse(answer)
        if not events.begun:
            await wait_rejected(events.send, answer, refused_mark(answer) if h.X_SIZE in headers else "")
            return
    record.close("ok")
    await events.wait_ended(reject_text(answer) if isinstance(answer, Reject) else answer)
