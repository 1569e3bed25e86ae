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


@attrs.define
class LimitServiceState:
    """What is known of the service: its URL (None without one), and why it does not count."""

    url: str | None = None
    error: str | None = None
    failed: int = 0
    """Questions that were not answered, since Envoy's start."""


async def wait_watching(admin: Address, desired: Watched[Desired], state: LimitServiceState) -> None:
    """Keep `state`, for ever, and log each change."""
    last: tuple[int, int] | None = None
    async with envoy_client(admin, TIMEOUT) as http:
        while True:
            service = desired.value.access.limits.service
            if service is None:
                state.url, state.error, last = None, None, None
            else:
                state.url, counts = service.url, await _wait_counts(http)
                if counts is not None:
                    # Envoy may have counted for long when this process starts.
                    _judge(state, service, counts, last or (counts if counts[0] else (0, 0)))
                    last = counts
            await trio.sleep(LOOK)


def _judge(state: LimitServiceState, service: LimitService, counts: tuple[int, int], last: tuple[int, int]) -> None:
    """Say what has changed since the last look; a time without questions changes nothing."""
    (answered, state.failed), (answered_before, failed_before) = counts, last
    if state.failed > failed_before:
        went = "refused" if service.fails_closed else "not limited"
        _changed(state, f"does not answer: calls and new sessions are {went}")
    elif answered > answered_before:
        _changed(state, None)


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


def _changed(state: LimitServiceState, error: str | None) -> None:
    if error is not None and state.error is None:
        log.warning("Rate limit service lost", url=state.url, error=error)
    elif error is None and state.error is not None:
        log.info("Rate limit service is back", url=state.url)
    state.error = error
