"""Whether the rate limit service answers: Envoy asks it, and counts what came of its questions."""

from __future__ import annotations

import re

import attrs
import httpx2
import trio

from mcpgw_sidecar.envoyfiles.verdict import TIMEOUT
from mcpgw_sidecar.model.access import LimitService
from mcpgw_sidecar.model.servers import Desired
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.envoyclient import envoy_client
from mcpgw_sidecar.runtime.listeners import Address
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

LOOK = 3.0  # seconds between two looks
_FILTER = r"\.ratelimit\.(ok|over_limit|error)$"
_COUNT = re.compile(r"\.ratelimit\.(ok|over_limit|error): (\d+)$", re.MULTILINE)


@attrs.frozen
class LimitServiceState:
    """What is known of the service: its URL (None without one), and why it does not count.

    `failed` are the questions that were not answered, since Envoy's start.
    """

    url: str | None = None
    error: str | None = None
    failed: int = 0


async def wait_watching(admin: Address, desired: Watched[Desired], state: Watched[LimitServiceState]) -> None:
    """Publish the state, for ever, and log each change."""
    last: tuple[int, int] | None = None
    async with envoy_client(admin, TIMEOUT) as http:
        while True:
            service, old = desired.value.access.limits.service, state.value
            new = LimitServiceState() if service is None else attrs.evolve(old, url=service.url)
            counts = await _wait_counts(http) if service is not None else None
            if service is not None and counts is not None:
                # Envoy may have counted for long when this process starts.
                new = _judged(new, service, counts, last or (counts if counts[0] else (0, 0)))
                _log(new, old)
            last = (counts or last) if service is not None else None
            state.publish(new)
            await trio.sleep(LOOK)


def _judged(
    state: LimitServiceState, service: LimitService, counts: tuple[int, int], last: tuple[int, int]
) -> LimitServiceState:
    """The state after another look; a time without questions changes nothing."""
    (answered, failed), (answered_before, failed_before) = counts, last
    error = state.error
    if failed > failed_before:
        error = f"does not answer: calls and new sessions are {'refused' if service.fails_closed else 'not limited'}"
    elif answered > answered_before:
        error = None
    return attrs.evolve(state, error=error, failed=failed)


async def _wait_counts(http: httpx2.AsyncClient) -> tuple[int, int] | None:
    """The questions that were answered, and those that were not; None while Envoy is away."""
    try:
        text = (await http.get("/stats", params={"filter": _FILTER})).text
    except httpx2.HTTPError:
        return None
    answered = failed = 0
    for name, count in _COUNT.findall(text):
        failed += int(count) if name == "error" else 0
        answered += int(count) if name != "error" else 0
    return answered, failed


def _log(new: LimitServiceState, old: LimitServiceState) -> None:
    if new.error is not None and old.error is None:
        log.warning("Rate limit service lost", url=new.url, error=new.error)
    elif new.error is None and old.error is not None:
        log.info("Rate limit service is back", url=new.url)
