"""Builds what works for servers besides sessions: carrying across the eras, exchanging tokens."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mcpgw_sidecar.app.settings import Settings
from mcpgw_sidecar.app.values import Values
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.directory.store import SessionStore
from mcpgw_sidecar.front.carried import Carried
from mcpgw_sidecar.front.carrying import Carrier
from mcpgw_sidecar.front.pooling import Pooling
from mcpgw_sidecar.front.room import Room
from mcpgw_sidecar.front.subscribing import Subscriber
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.sessions.events import Said
from mcpgw_sidecar.sessions.tokens import SessionKeys
from mcpgw_sidecar.upstream.sessionpool import SessionPool
from mcpgw_sidecar.upstream.supervisor import Supervisor
from mcpgw_sidecar.upstream.tokens import SharedTokens, TokenExchanger


def exchanging(
    keys: Callable[[], SessionKeys], store: SessionStore, metrics: Metrics, nursery: trio.Nursery
) -> TokenExchanger:
    """What exchanges callers' tokens, and shares them in the store."""
    shared = SharedTokens(wait_read=store.wait_token, wait_written=store.wait_token_kept)
    return TokenExchanger(keys=keys, shared=shared, nursery=nursery, counted=metrics.exchanged)


def carried(
    settings: Settings, values: Values, directory: Directory, supervisor: Supervisor, work: Work, nursery: trio.Nursery
) -> Carried:
    """What carries for clients with sessions, and for those without; they share one room."""
    room, driver = Room(), directory.driver
    carrier = Carrier(
        http=driver.client.http,
        wishes=directory.hub.wishes,
        stale=supervisor.list_again,
        silence=settings.call_timeout,
        calls=driver.sharing.calls,
        question_id=driver.sessions.question_id,
        work=work,
        room=room,
    )
    pooling = Pooling(
        client=driver.client,
        pool=SessionPool(client=driver.client, nursery=nursery, servers=lambda: values.live.value.servers),
        stale=supervisor.list_again,
        silence=settings.call_timeout,
        work=work,
        room=room,
        nursery=nursery,
    )
    subscriber = Subscriber(
        client=driver.client,
        live=values.live,
        sight=driver.sight,
        said=lambda key, message: driver.feed(Said(key, message)),
        nursery=nursery,
    )
    return Carried(carrier=carrier, pooling=pooling, subscriber=subscriber)
