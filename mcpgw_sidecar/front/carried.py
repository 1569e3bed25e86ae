"""What the broker carries to servers that do not speak the client's era, by kind of request."""

from __future__ import annotations

import attrs

from mcpgw_sidecar.front.answers import OK, wait_rejected, wait_sent
from mcpgw_sidecar.front.carrying import Carrier
from mcpgw_sidecar.front.concluding import request_of
from mcpgw_sidecar.front.following import MOST
from mcpgw_sidecar.front.pooling import Pooling
from mcpgw_sidecar.front.subscribing import Subscriber
from mcpgw_sidecar.inbound.classify import Inbound
from mcpgw_sidecar.model.decisions import Carry
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.observability.requests import RequestRecord
from mcpgw_sidecar.protocol.jsonrpc import INVALID_PARAMS, result_text
from mcpgw_sidecar.protocol.jsontext import only
from mcpgw_sidecar.protocol.methods import SUBSCRIBE, UNSUBSCRIBE
from mcpgw_sidecar.protocol.statuses import refusal
from mcpgw_sidecar.runtime.http import Receive, Send
from mcpgw_sidecar.runtime.work import wait_begun


@attrs.frozen(kw_only=True)
class Carried:
    """Requests of clients with sessions, and of those without."""

    carrier: Carrier
    pooling: Pooling
    subscriber: Subscriber

    async def wait_answered(
        self, carry: Carry, inbound: Inbound, headers: dict[str, str], record: RequestRecord, receive: Receive, send: Send
    ) -> None:
        """Answer a request. `headers` are the client's."""
        record.server, record.tool = carry.server.name, carry.tool
        try:
            await self._wait_kind(carry, inbound, headers, record, receive, send)
        finally:
            record.metrics.translated.labels(inbound.era.value, carry.server.name, record.outcome or "broken").inc()

    async def _wait_kind(
        self, carry: Carry, inbound: Inbound, headers: dict[str, str], record: RequestRecord, receive: Receive, send: Send
    ) -> None:
        if carry.session is None:
            await self.pooling.wait_carried(carry, inbound.caller, headers, record, receive, send)
        elif carry.method in {SUBSCRIBE, UNSUBSCRIBE}:
            await self._wait_subscribed(carry, carry.session, headers, record, send)
        else:
            await self.carrier.wait_carried(carry, headers, record, receive, send)

    async def _wait_subscribed(
        self, carry: Carry, session: Session, headers: dict[str, str], record: RequestRecord, send: Send
    ) -> None:
        wanted = carry.method == SUBSCRIBE
        if self.subscriber.subscribe(session, carry.server, _uri_of(carry), headers, wanted=wanted):
            await wait_begun()  # as for a log level (app.py)
            record.close("ok")
            await wait_sent(send, OK, result_text(carry.id, b"{}"))
            return
        many = refusal(INVALID_PARAMS, f"Invalid params: a session may follow {MOST} resources of such servers", id=carry.id)
        record.refuse(many)
        await wait_rejected(send, many)


def _uri_of(carry: Carry) -> str:
    """The URI that a request names, at its server."""
    member = only(request_of(carry).params or [], "uri")
    return str(member.value) if member is not None else carry.key
