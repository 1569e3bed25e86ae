"""The tasks of the process besides serving: signals, files to follow, and reports of loads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import trio

from mcpgw_sidecar.app.keyfile import KeyFile
from mcpgw_sidecar.app.readiness import Readiness
from mcpgw_sidecar.directory.directory import Directory
from mcpgw_sidecar.errors import EXIT_SIGNAL_BASE
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.observability.metrics import Metrics
from mcpgw_sidecar.runtime.systemd import ServiceManager
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.runtime.work import Work

log = get_logger(__name__)

PATIENCE = 1.0  # seconds that a request waits for a server during the drain
LAST = 3.0  # seconds of the drain that are left for the last requests and for streams
KEY_LOOK = 1.0  # seconds between two checks of the key file


async def wait_signals(stop: trio.Event, ready: Readiness, manager: ServiceManager) -> None:
    """Drain at the first SIGTERM or SIGINT, end at once at the second (128 + its number)."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                log.info("Nothing to do: configuration and keys are followed by themselves", signal="SIGHUP")
                continue
            if stop.is_set():
                log.warning("Second signal: ending at once", signal=signal.Signals(number).name)
                os._exit(EXIT_SIGNAL_BASE + number)
            log.info("Draining", signal=signal.Signals(number).name)
            ready.drain()
            manager.notify("STOPPING=1", "STATUS=Draining")
            stop.set()


async def wait_finished(stop: trio.Event, work: Work, seconds: float, closing: trio.Event) -> None:
    """After `stop`, finish what was begun; then the ports may be closed, for the next process."""
    await stop.wait()
    await work.wait_done(seconds=seconds, last=LAST, patience=PATIENCE)
    closing.set()


async def wait_left(closing: trio.Event, directory: Directory) -> None:
    """At the end, leave what this process hears to replicas."""
    await closing.wait()
    await directory.wait_left()


def publisher(metrics: Metrics, desired: Watched[Desired]) -> Callable[[Desired], None]:
    """Publishes a configuration, and logs and counts the load."""

    def publish(new: Desired) -> None:
        old = desired.value
        if desired.publish(new):
            loaded(metrics, new, old)

    return publish


def loaded(metrics: Metrics, new: Desired, old: Desired | None) -> None:
    """Log and count a load of the configuration."""
    if old is not None and new.failed_loads > old.failed_loads:
        metrics.reloads.labels("failed").inc()
        fresh = [error for error, before in zip(new.errors, old.errors, strict=True) if error and error != before]
        for problem in "\n".join(fresh or filter(None, new.errors)).splitlines():
            message = "Configuration not reloaded, the last good one stays" if new.generation else "No configuration yet"
            log.error(message, problem=problem)
        return
    if old is not None and new.generation == old.generation:
        return  # no load has taken effect: only the list of refused entries, or the error, has changed
    metrics.reloads.labels("ok").inc()
    metrics.last_reload.set(new.loaded_at)
    log.info("Configuration loaded", source=new.source, servers=len(new.servers), generation=new.generation)


async def wait_keys(keys: KeyFile) -> None:
    """Read the key file again when it has changed, for ever."""
    logged_error: str | None = None
    while True:
        await trio.sleep(KEY_LOOK)
        if keys.refresh():
            log.info("Session keys read again", keys=len(keys.keys.keys))
        if keys.error != logged_error:
            logged_error = keys.error
            if logged_error is not None:
                log.error("Session keys not read again, the last good ones stay", error=logged_error)
