"""The one module that knows every part: builds the values, opens the nursery tree, and ends it in order.

    outer nursery        everything that runs for ever, the admin port too: it tells of the drain, and is cancelled after it
    └── inner nursery    router · broker: they drain when `stop` is set

The first SIGTERM or SIGINT sets `stop`; a second one ends the process at once with 128 + its number.
"""

from __future__ import annotations

import os
import resource
import signal
from functools import partial
from importlib.resources import files
from pathlib import Path

import attrs
import trio

from mcpgw_sidecar.admin.app import AdminApp
from mcpgw_sidecar.admin.status import Facts
from mcpgw_sidecar.broker.app import BrokerApp
from mcpgw_sidecar.broker.client import HttpClients, UpstreamClient
from mcpgw_sidecar.broker.directory import Directory
from mcpgw_sidecar.broker.relay import Relay
from mcpgw_sidecar.broker.streams import Streams
from mcpgw_sidecar.broker.supervisor import Statuses, Supervisor
from mcpgw_sidecar.catalog.snapshot import EMPTY
from mcpgw_sidecar.config.keys import KeyFile
from mcpgw_sidecar.config.source import load, wait_following
from mcpgw_sidecar.envoy.settings import Endpoint, EnvoySettings
from mcpgw_sidecar.envoyfiles.verdict import Verdict, wait_reading
from mcpgw_sidecar.envoyfiles.writer import EnvoyFiles
from mcpgw_sidecar.errors import EXIT_SIGNAL_BASE
from mcpgw_sidecar.extproc.service import Router
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.protocol.guard import LOOPBACK, Guard, host_name
from mcpgw_sidecar.runtime import http
from mcpgw_sidecar.runtime.listeners import Address, open_listener
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

START_PATIENCE = 1.0  # seconds that clients wait for servers which have not answered yet, after a start
READY_PATIENCE = 2.0  # seconds that readiness waits for servers that have not answered yet (interface.md)
KEY_LOOK = 1.0  # seconds between two looks at the key file
_CA_BUNDLES = (  # where the systems that Envoy runs on keep theirs; Envoy has no default of its own
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@attrs.frozen(kw_only=True)
class Settings:
    """The options of `run`. Times in seconds, sizes in bytes."""

    config: Path
    envoy_dir: Path | None = None
    gateway_address: Address = Address("0.0.0.0", 8888)  # noqa: S104  # the gateway is there to be reached
    gateway_tls_cert: Path | None = None
    gateway_tls_key: Path | None = None
    envoy_admin_address: Address = Address("127.0.0.1", 9901)
    broker_address: Address = Address("127.0.0.1", 8080)
    router_address: Address = Address("127.0.0.1", 50051)
    admin_address: Address = Address("127.0.0.1", 9090)
    public_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    session_key_file: Path | None = None
    session_lifetime: float = 86400.0
    max_body: int = 4 << 20
    call_timeout: float = 300.0
    refresh_interval: float = 60.0
    drain_time: float = 25.0
    debug: bool = False


def guard(settings: Settings) -> Guard:
    """Which hosts and origins may ask."""
    named = {host_name(host) if not host.startswith("*") else host for host in settings.public_hosts}
    own = {settings.gateway_address.host} - {"0.0.0.0", "::"}  # noqa: S104
    return Guard(hosts=frozenset(LOOPBACK | named | own), origins=frozenset(settings.allowed_origins))


def envoy_settings(settings: Settings, broker: Address, router: Address) -> EnvoySettings:
    """What Envoy's resources depend on."""
    return EnvoySettings(
        directory=str((settings.envoy_dir or Path()).resolve()),
        gateway=_endpoint(settings.gateway_address),
        admin=_endpoint(settings.envoy_admin_address),
        broker=_endpoint(broker),
        router=_endpoint(router),
        max_body=settings.max_body,
        call_timeout=settings.call_timeout,
        heal=(files("mcpgw_sidecar.envoy") / "heal.lua").read_text(encoding="utf-8"),
        events=(files("mcpgw_sidecar.envoy") / "events.lua").read_text(encoding="utf-8"),
        tls_cert=str(settings.gateway_tls_cert.resolve()) if settings.gateway_tls_cert else None,
        tls_key=str(settings.gateway_tls_key.resolve()) if settings.gateway_tls_key else None,
        ca_bundle=next((path for path in _CA_BUNDLES if Path(path).exists()), None),
        allowed_origins=settings.allowed_origins,
        debug=settings.debug,
    )


async def wait_running(settings: Settings) -> None:
    """The sidecar, until it has drained. Raises ConfigurationError or UnavailableError when it cannot start."""
    _raise_file_limit()
    desired = Watched(load(settings.config))
    metrics = Metrics()
    stop = trio.Event()
    router_listener, router_at = await open_listener(settings.router_address, "--router-address")
    broker_listener, broker_at = await open_listener(settings.broker_address, "--broker-address")
    admin_listener, admin_at = await open_listener(settings.admin_address, "--admin-address")
    written = EnvoyFiles(envoy_settings(settings, broker_at, router_at)) if settings.envoy_dir else None
    if written is not None:
        written.write_first(desired.value.enabled)
    keys = KeyFile(_key_file(settings))

    clients = HttpClients()
    client = UpstreamClient(clients, lambda server, seconds: metrics.upstream.labels(server).observe(seconds))
    live, statuses, verdict = Watched(EMPTY), Watched[Statuses](()), Watched(Verdict(None, None))
    streams = Streams()
    _loaded(metrics, desired.value, None)

    async with trio.open_nursery() as forever:
        directory = Directory(
            client=client,
            keys=lambda: keys.keys,
            lifetime=settings.session_lifetime,
            nursery=forever,
            servers=lambda: live.value.servers,
            relay=Relay(client=client, streams=streams, nursery=forever),
        )
        directory.ended = streams.end_session
        supervisor = Supervisor(
            client=client,
            live=live,
            statuses=statuses,
            refresh_interval=settings.refresh_interval,
            changed=directory.forget_server,
        )
        ready = _Readiness(supervisor.all_tried)

        def facts() -> Facts:
            counts, seen = directory.statistics(), verdict.value
            return Facts(
                desired=desired.value,
                statuses=statuses.value,
                gateway_sessions=counts.gateway,
                upstream_sessions=counts.upstream,
                envoy_accepted=seen.accepted if written is not None else None,
                envoy_error=(written.error or seen.error)
                if written is not None
                else "not configured: start with --envoy-dir",
            )

        may_ask = guard(settings)
        router = Router(
            snapshot=lambda: live.value,
            started=ready,
            sessions=directory,
            guard=may_ask,
            metrics=metrics,
            debug=settings.debug,
        )
        broker = BrokerApp(
            live=live,
            started=ready,
            directory=directory,
            streams=streams,
            guard=may_ask,
            metrics=metrics,
            max_body=settings.max_body,
        )
        envoy_admin = str(settings.envoy_admin_address) if written is not None else None
        admin = AdminApp(metrics=metrics, facts=facts, waiting_for=lambda: ready.waiting_for, envoy_admin=envoy_admin)

        await forever.start(partial(http.serve, admin, admin_listener, trio.Event(), drain_time=0.0))
        async with trio.open_nursery() as serving:
            forever.start_soon(_wait_signals, stop, ready, streams)
            drain = settings.drain_time
            await serving.start(partial(router.server().serve, router_listener, stop, drain_time=drain))
            await serving.start(partial(http.serve, broker, broker_listener, stop, drain_time=drain))
            log.info("Listening", router=str(router_at), broker=str(broker_at), admin=str(admin_at))
            forever.start_soon(supervisor.wait_supervising, desired)
            forever.start_soon(directory.wait_sweeping)
            forever.start_soon(streams.wait_notifying, live)
            forever.start_soon(_wait_configuration, settings.config, desired, metrics)
            forever.start_soon(_wait_keys, keys)
            forever.start_soon(ready.wait_started, desired)
            if written is not None and envoy_admin is not None:
                forever.start_soon(written.wait_following, desired)
                forever.start_soon(wait_reading, envoy_admin, written, verdict)
        log.info("Drained")
        forever.cancel_scope.cancel()
    await clients.aclose()


class _Readiness:
    """Why the process is not ready, in words, None when it is; and the `Started` of router and broker."""

    def __init__(self, all_tried: trio.Event) -> None:
        self.waiting_for: str | None = "the first answers of the servers"
        self._all_tried = all_tried
        self._over = trio.Event()

    def is_over(self) -> bool:
        """Every server was tried, or patience is over."""
        return self._over.is_set()

    async def wait_over(self) -> None:
        """Wait for that."""
        await self._over.wait()

    async def wait_started(self, desired: Watched[Desired]) -> None:
        """Ready once every server was tried, or patience is over: a dead server never holds up the others for longer."""
        with trio.move_on_after(START_PATIENCE):
            await self._all_tried.wait()
        self._over.set()
        with trio.move_on_after(READY_PATIENCE - START_PATIENCE):
            await self._all_tried.wait()
        if self.waiting_for == "the first answers of the servers":
            self.waiting_for = None
            log.info("Ready", servers=len(desired.value.enabled), config=desired.value.source)

    def drain(self) -> None:
        """Tell whoever asks to send new work elsewhere."""
        self.waiting_for = "the end: draining"
        self._over.set()


def _raise_file_limit() -> None:
    """Each stream of a client is a file descriptor, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _wait_signals(stop: trio.Event, ready: _Readiness, streams: Streams) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                log.info("Nothing to do: the configuration file and the keys are followed by themselves", signal="SIGHUP")
                continue
            if stop.is_set():
                log.warning("Second signal: ending at once", signal=signal.Signals(number).name)
                os._exit(EXIT_SIGNAL_BASE + number)
            log.info("Draining", signal=signal.Signals(number).name)
            ready.drain()
            stop.set()
            streams.close_all()


async def _wait_configuration(path: Path, desired: Watched[Desired], metrics: Metrics) -> None:
    def publish(new: Desired) -> None:
        old = desired.value
        if desired.publish(new):
            _loaded(metrics, new, old)

    await wait_following(path, desired.value, publish)


def _loaded(metrics: Metrics, new: Desired, old: Desired | None) -> None:
    if old is not None and new.failed_loads > old.failed_loads:
        metrics.reloads.labels("failed").inc()
        for problem in (new.error or "").splitlines():
            log.error("Configuration not reloaded, the last good one stays", problem=problem)
        return
    metrics.reloads.labels("ok").inc()
    metrics.last_reload.set(new.loaded_at)
    log.info("Configuration loaded", source=new.source, servers=len(new.servers), generation=new.generation)


async def _wait_keys(keys: KeyFile) -> None:
    said: str | None = None
    while True:
        await trio.sleep(KEY_LOOK)
        if keys.refresh():
            log.info("Session keys read again", keys=len(keys.keys.keys))
        if keys.error != said:
            said = keys.error
            if said is not None:
                log.error("Session keys not read again, the last good ones stay", error=said)


def _key_file(settings: Settings) -> Path | None:
    if settings.session_key_file is not None:
        return settings.session_key_file
    if settings.envoy_dir is not None:
        return settings.envoy_dir / "session.key"
    log.warning("Sessions end with this process: give --envoy-dir or --session-key-file to keep them over a restart")
    return None


def _endpoint(address: Address) -> Endpoint:
    path = str(Path(address.path).resolve()) if address.path is not None else None  # Envoy may run elsewhere
    return Endpoint(host=address.host, port=address.port, path=path)
