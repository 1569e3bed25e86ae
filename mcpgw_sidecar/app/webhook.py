"""The webhook as a program: certificates, then HTTPS until SIGTERM."""

from __future__ import annotations

import signal

import attrs
import trio

from mcpgw_sidecar.errors import ApiError, UnavailableError
from mcpgw_sidecar.kube.api import KubeApi
from mcpgw_sidecar.kube.webhook import Certificates, WebhookApp, service_names
from mcpgw_sidecar.manifests.container import Sidecar
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime import http
from mcpgw_sidecar.runtime.backoff import Backoff
from mcpgw_sidecar.runtime.listeners import Address, open_listener

log = get_logger(__name__)

DRAIN = 5.0  # seconds; the API server gives a review five


@attrs.frozen(kw_only=True)
class WebhookSettings:
    """The options of `webhook`."""

    sidecar: Sidecar
    address: Address


async def wait_webhook(settings: WebhookSettings) -> None:
    """Run the webhook until it has drained. Raises UnavailableError when it cannot start."""
    listener, address = await open_listener(settings.address, "--webhook-address")
    stop = trio.Event()
    async with KubeApi.opened() as api, trio.open_nursery() as nursery:
        certificates = Certificates(api, settings.sidecar.namespace, service_names(settings.sidecar.namespace))
        await _wait_first(certificates)
        app = WebhookApp(settings.sidecar, lambda: not stop.is_set())
        nursery.start_soon(certificates.wait_following)
        log.info("Listening", webhook=str(address))
        nursery.start_soon(_wait_stop, stop)
        await http.serve(app, listener, stop, drain=http.Drain(lambda: DRAIN), tls=certificates.context)
        log.info("Drained")
        nursery.cancel_scope.cancel()


async def _wait_first(certificates: Certificates) -> None:
    """Wait for the first certificate.

    Replicas that start together may conflict, and try again; any other error is for the operator.
    """
    backoff = Backoff(0.2, 2.0)
    for attempt in range(5):
        try:
            await certificates.wait_current()
        except ValueError as error:
            raise UnavailableError(f"the webhook's authority cannot be used: {error}; delete its Secret") from None
        except ApiError as error:
            if error.status != _CONFLICT or attempt == _LAST:
                remedy = "apply: mcpgw-sidecar manifests webhook"
                raise UnavailableError(f"no certificate for the webhook: {error}; {remedy}") from None
            await trio.sleep(backoff.next())
        else:
            return


async def _wait_stop(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("Draining", signal=signal.Signals(number).name)
            stop.set()
            return


_CONFLICT, _LAST = 409, 4
