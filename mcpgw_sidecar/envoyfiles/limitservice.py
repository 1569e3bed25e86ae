"""Whether the rate limit service answers: Envoy asks it, and counts what came of its questions."""

from __future__ import annotations

import re

import attrs
import httpx2
import trio

from mcpgw_sidecar.envoyfiles.verdict import TIMEOUT
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
    answered = 0
    async with envoy_client(admin, TIMEOUT) as http:
        while True:
            service = desired.value.access.limits.service
            if service is None:
                state.url, state.error = None, None
            else:
                state.url = service.url
                before, had_failed = answered, state.failed
                answered, state.failed = await _wait_counts(http, (answered, state.failed))
                if state.failed > had_failed:
                    went = "refused" if service.fails_closed else "not limited"
                    _changed(state, f"does not answer: calls and new sessions are {went}")
                elif answered > before:
                    _changed(state, None)
            await trio.sleep(LOOK)


async def _wait_counts(http: httpx2.AsyncClient, last: tuple[int, int]) -> tuple[int, int]:
    """The questions that were answered, and those that were not; `last` while Envoy is away."""
    try:
        text = (await http.get("/stats", params={"filter": _FILTER})).text
    except httpx2.HTTPError:
        return last
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
