"""Builds the values and the parts, opens the nursery tree, and ends it in order.

This is the one module that knows every part.

    outer nursery        all tasks that run for ever; cancelled after the drain
    └── inner nursery    router and broker

The first SIGTERM or SIGINT sets `stop`: what was begun is finished, while everything is served, and
the admin port reports the drain. Then `closing` is set: the ports are closed all at once, so that
the next process gets them, the last requests end, and at last the streams of clients.
"""

from __future__ import annotations

import os
from functools import partial

import attrs
import httpx2
import trio

from mcpgw_sidecar import __version__
from mcpgw_sidecar.admin.app import AdminApp
from mcpgw_sidecar.app.carriers import carried, exchanging
from mcpgw_sidecar.app.facts import Sources
from mcpgw_sidecar.app.inputs import Inputs, opened
from mcpgw_sidecar.app.ports import wait_ports
from mcpgw_sidecar.app.readiness import Readiness
from mcpgw_sidecar.app.settings import Settings, envoy_settings, guard, stamps_of, warn_of_login
from mcpgw_sidecar.app.store import opened_store
from mcpgw_sidecar.app.tasks import wait_finished, wait_left, wait_signals
from mcpgw_sidecar.app.values import Values
from mcpgw_sidecar.directory.deciding import Decider
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.directory.driver import Driver
from mcpgw_sidecar.directory.opensessions import OpenSessions
from mcpgw_sidecar.directory.sight import Sight
from mcpgw_sidecar.directory.store import SessionStore
from mcpgw_sidecar.directory.telling import Teller
from mcpgw_sidecar.envoyfiles.limitservice import wait_watching
from mcpgw_sidecar.envoyfiles.stamps import Brief, StampFile
from mcpgw_sidecar.envoyfiles.verdict import wait_reading
from mcpgw_sidecar.envoyfiles.writer import EnvoyFiles, make_directory, secret_of
from mcpgw_sidecar.extproc.service import Router
from mcpgw_sidecar.front.app import BrokerApp
from mcpgw_sidecar.front.batches import BatchRunner
from mcpgw_sidecar.front.beside import Beside
from mcpgw_sidecar.front.carried import Carried
from mcpgw_sidecar.front.heal import Healer
from mcpgw_sidecar.front.streams import Streams
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.runtime import collector, descriptors, http
from mcpgw_sidecar.runtime.envoyclient import envoy_client
from mcpgw_sidecar.runtime.systemd import ServiceManager
from mcpgw_sidecar.runtime.work import Work
from mcpgw_sidecar.sessions.hub import SessionHub
from mcpgw_sidecar.upstream.exchange import Exchanger
from mcpgw_sidecar.upstream.issuers import IssuerKeys
from mcpgw_sidecar.upstream.pool import HttpClients
from mcpgw_sidecar.upstream.stateful import UpstreamClient
from mcpgw_sidecar.upstream.supervisor import Supervisor

log = get_logger(__name__)


@attrs.frozen(kw_only=True)
class _Parts:
    """The parts of a running sidecar, and the applications that consist of them."""

    settings: Settings
    inputs: Inputs
    values: Values
    metrics: Metrics
    envoy_files: EnvoyFiles | None
    store: SessionStore
    streams: Streams
    directory: Directory
    decider: Decider
    supervisor: Supervisor
    ready: Readiness
    manager: ServiceManager
    stamps: StampFile | Brief | None
    work: Work
    inner: httpx2.AsyncClient | None
    carried: Carried
    issuers: IssuerKeys

    def router(self, own: str) -> Router:
        """Make the router; `own` is what the sidecar's own requests have."""
        return Router(decider=self.decider, metrics=self.metrics, debug=self.settings.debug, stamps=self.stamps, own=own)

    def broker(self, secret: str) -> BrokerApp:
        """Make the application of the broker; `secret` is what Envoy's own questions have."""
        healer = Healer(self.directory, lambda: self.values.live.value.servers, self.work, self.decider.wait_started)
        return BrokerApp(
            decider=self.decider,
            directory=self.directory,
            streams=self.streams,
            batches=BatchRunner(inner=self.inner, metrics=self.metrics) if self.inner is not None else None,
            carried=self.carried,
            beside=Beside(healer=healer, stale=self.supervisor.list_again, keys=self.issuers.of, secret=secret),
            metrics=self.metrics,
            max_body=self.settings.max_body,
            stamps=self.stamps if isinstance(self.stamps, StampFile) else None,
        )

    def admin(self) -> AdminApp:
        """Make the application of the admin port."""
        sources = Sources(
            inputs=self.inputs,
            values=self.values,
            envoy_files=self.envoy_files,
            store=self.store,
            streams=self.streams,
            directory=self.directory,
            ready=self.ready,
            issuers=self.issuers,
            pooling=self.carried.pooling,
            guard=self.decider.guard,
        )
        return AdminApp(
            metrics=self.metrics,
            facts=sources.facts,
            waiting_for=sources.waiting_for,
            envoy_admin=self.settings.envoy_admin if self.envoy_files is not None else None,
            hosts=frozenset(self.settings.admin_hosts),
            token_file=self.settings.admin_token_file,
        )

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks that run for ever."""
        of_parts = [self.directory.wait_sweeping, self.directory.wait_sharing]
        streams = self.streams
        of_parts += [streams.wait_notifying, streams.listens.wait_notifying, streams.keep_alive.wait_keeping]
        of_parts += [self.carried.pooling.pool.wait_sweeping, self.carried.pooling.wait_sweeping]
        of_parts += [self.manager.wait_alive, self.issuers.wait_following, self._wait_configured, self._wait_ready]
        for task in (*of_parts, *self.inputs.tasks):
            nursery.start_soon(task)
        if isinstance(self.stamps, StampFile):
            nursery.start_soon(self.stamps.wait_following, self.values.live, self.ready, self._dependencies)
        if self.envoy_files is not None:
            nursery.start_soon(wait_reading, self.settings.envoy_admin, self.envoy_files, self.values.verdict)
            nursery.start_soon(wait_watching, self.settings.envoy_admin, self.values.desired, self.values.limits)

    def _dependencies(self) -> str:
        """The values, besides the catalog, that decisions depend on."""
        allowed, keys = guard(self.settings), [key.id for key in self.inputs.keys().keys]
        about = (sorted(allowed.hosts), sorted(allowed.origins), allowed.batches, allowed.prefer_era)
        return f"{__version__} {about} {keys} {self.issuers.text}"

    async def _wait_ready(self) -> None:
        """Report readiness (`systemctl start` returns then) and status to systemd, for ever."""
        desired = self.values.desired
        await self.ready.wait_started(desired, self.inputs.loaded)
        self.manager.notify("READY=1")
        version = desired.version
        while self.ready.waiting_for is None:
            refused = "; the last reload was refused" if desired.value.error else ""
            self.manager.notify(f"STATUS=Serving; servers configured: {len(desired.value.enabled)}{refused}")
            version = await desired.wait_after(version)

    async def _wait_configured(self) -> None:
        """Follow the configuration once it is loaded; until then Envoy keeps its last files."""
        for event in self.inputs.loaded:
            await event.wait()
        async with trio.open_nursery() as nursery:
            followed = self.values.desired
            if self.envoy_files is not None:
                followed = await nursery.start(self.envoy_files.wait_following, followed)  # no server before its route
            nursery.start_soon(self.supervisor.wait_supervising, followed)


async def wait_running(settings: Settings) -> None:
    """Run the sidecar until it has drained.

    Raises ConfigurationError or UnavailableError when it cannot start.
    """
    descriptors.raise_limit()
    collector.tune()
    metrics, manager = Metrics(), ServiceManager.of_environment(os.environ, os.getpid())
    if settings.envoy_dir is not None:  # before the session key, which may be in it, so each error names its own option
        make_directory(settings.envoy_dir)
    async with opened(settings, metrics) as inputs:
        await _wait_serving(settings, metrics, inputs, manager)


async def _wait_serving(settings: Settings, metrics: Metrics, inputs: Inputs, manager: ServiceManager) -> None:
    stop, closing = trio.Event(), trio.Event()
    ports = await wait_ports(settings, manager)
    (router_listener, router_at), (broker_listener, broker_at), (admin_listener, admin_at) = attrs.astuple(
        ports, recurse=False
    )
    manager.check_all_taken()
    warn_of_login(settings, inputs.values.current())
    secret = secret_of(settings.envoy_dir) if settings.envoy_dir else ""
    envoy_files = EnvoyFiles(envoy_settings(settings, broker_at, router_at, secret)) if settings.envoy_dir else None
    if envoy_files is not None:
        envoy_files.write_first(inputs.values.desired.value, anew=not inputs.loaded)
    clients = HttpClients(settings.through)
    async with opened_store(settings, inputs.keys) as store, trio.open_nursery() as forever:
        forever.start_soon(clients.wait_sweeping)
        parts = _parts(settings, inputs, metrics, envoy_files, clients, store, forever, manager)
        work = parts.work
        await forever.start(partial(http.serve, parts.admin(), admin_listener, closing, drain=http.Drain(lambda: 0.0)))
        async with trio.open_nursery() as serving:
            forever.start_soon(wait_signals, stop, parts.ready, manager)
            server = parts.router(clients.own).server()
            await serving.start(partial(server.serve, router_listener, closing, work=work))
            drain = http.Drain(work.seconds_left, parts.streams.count, parts.streams.close_all, lambda: server.is_drained)
            await serving.start(
                partial(http.serve, http.counted(parts.broker(secret), work), broker_listener, closing, drain=drain)
            )
            serving.start_soon(wait_finished, stop, work, settings.drain_time, closing)
            forever.start_soon(wait_left, closing, parts.directory)
            log.info("Listening", router=str(router_at), broker=str(broker_at), admin=str(admin_at))
            parts.start(forever)
        log.info("Drained")
        async with trio.open_nursery() as closing_all:
            closing_all.start_soon(parts.directory.wait_all_closed)
            closing_all.start_soon(parts.carried.pooling.pool.wait_all_closed)
        if parts.inner is not None:
            await parts.inner.aclose()
        forever.cancel_scope.cancel()
    await clients.aclose()


def _parts(
    settings: Settings,
    inputs: Inputs,
    metrics: Metrics,
    envoy_files: EnvoyFiles | None,
    clients: HttpClients,
    store: SessionStore,
    forever: trio.Nursery,
    manager: ServiceManager,
) -> _Parts:
    values, stamps, hub, work = inputs.values, stamps_of(settings), SessionHub(shared=store.shared), Work()
    tokens = exchanging(inputs.keys, store, metrics, forever)
    client = UpstreamClient(Exchanger(clients, metrics.asked, settings.discovery_timeout, tokens.refused))
    sight, issuers = Sight(values.live), IssuerKeys(lambda: values.desired.value.access)
    streams = Streams(values.live, lambda key: directory.hearing(key), sight, client)  # noqa: PLW0108  # it is built below
    sessions = OpenSessions(inputs.keys, lambda: values.live.value.servers)

    def over(key: str) -> None:  # what it needs is built below
        if isinstance(stamps, StampFile):
            stamps.end(key)
        to_others.subscriber.end(key)

    driver = Driver(
        hub=hub,
        sessions=sessions,
        client=client,
        store=store,
        streams=streams,
        live=values.live,
        nursery=forever,
        sight=sight,
        over=over,
        stale=lambda server: supervisor.list_again(server),  # noqa: PLW0108  # it is built below
    )
    teller = Teller(hub=hub, sessions=sessions, sharing=driver.sharing, sight=sight, client=client, nursery=forever)
    directory = Directory(hub=hub, driver=driver, teller=teller, keys=inputs.keys, lifetime=settings.session_lifetime)
    supervisor = Supervisor(
        client=client,
        live=values.live,
        statuses=values.statuses,
        refresh_interval=settings.refresh_interval,
        changed=directory.forget_server,
    )
    ready = Readiness(supervisor.all_tried)
    to_others = carried(settings, values, directory, supervisor, work, forever)
    return _Parts(
        settings=settings,
        inputs=inputs,
        values=values,
        metrics=metrics,
        envoy_files=envoy_files,
        store=store,
        streams=streams,
        directory=directory,
        decider=Decider(
            snapshot=lambda: values.live.value,
            started=ready,
            directory=directory,
            guard=guard(settings),
            keys=issuers.known,
            request=settings.discovery_timeout,
            work=work,
            tokens=tokens,
        ),
        supervisor=supervisor,
        ready=ready,
        manager=manager,
        stamps=stamps,
        work=work,
        carried=to_others,
        issuers=issuers,
        inner=envoy_client(settings.inner, None) if settings.inner is not None else None,
    )
