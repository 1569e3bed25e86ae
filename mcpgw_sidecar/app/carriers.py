"""Builds what carries calls to servers that do not speak the client's era."""

from __future__ import annotations

import trio

from mcpgw_sidecar.app.settings import Settings
from mcpgw_sidecar.app.values import Values
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.front.carrying import Carrier
from mcpgw_sidecar.front.pooling import Pooling
from mcpgw_sidecar.front.room import Room
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.upstream.sessionpool import SessionPool
from mcpgw_sidecar.upstream.stateful import UpstreamClient
from mcpgw_sidecar.upstream.supervisor import Supervisor


def carriers(  # noqa: PLR0913  # the parts that both need
    settings: Settings,
    values: Values,
    client: UpstreamClient,
    directory: Directory,
    supervisor: Supervisor,
    *,
    can_ask: bool,
    work: Work,
    nursery: trio.Nursery,
) -> tuple[Carrier, Pooling]:
    """For clients with sessions, and for those without; they share one room."""
    room = Room()
    carrier = Carrier(
        http=client.http,
        wishes=directory.hub.wishes,
        stale=supervisor.list_again,
        silence=settings.call_timeout,
        can_ask=can_ask,
        work=work,
        room=room,
    )
    pooling = Pooling(
        client=client,
        pool=SessionPool(client=client, nursery=nursery, servers=lambda: values.live.value.servers),
        stale=supervisor.list_again,
        silence=settings.call_timeout,
        work=work,
        room=room,
        nursery=nursery,
    )
    return carrier, pooling
