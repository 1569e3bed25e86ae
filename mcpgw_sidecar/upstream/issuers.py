"""The public keys of the issuers of tokens, for Envoy: fetched again and again, or from a file.

What was good before stays while an issuer does not answer: its keys do not change because it is
away.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx2
import trio

from mcpgw_sidecar.errors import words_of
from mcpgw_sidecar.model.access import Access, Issuer
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime import trust

log = get_logger(__name__)

LOOK = 4.0  # seconds between two looks; Envoy asks as often, and new keys count within ten
TIMEOUT = 3.0  # seconds for one answer
MAX_KEYS = 1 << 20  # bytes


class IssuerKeys:
    """The keys of the issuers that the access document names. `current` returns it."""

    def __init__(self, current: Callable[[], Access]) -> None:
        self._current = current
        self._keys: dict[Issuer, bytes] = {}
        self.errors: dict[str, str] = {}
        """Why the keys of an issuer cannot be had at the moment, by its name."""

    def of(self, place: int) -> bytes | None:
        """The keys of an issuer, by its place in the document, as JSON; None if there are none."""
        issuers = self.issuers()
        return self._keys.get(issuers[place]) if place < len(issuers) else None

    def issuers(self) -> tuple[Issuer, ...]:
        """The issuers, in the order of the document."""
        authentication = self._current().authentication
        return authentication.issuers if authentication is not None else ()

    def facts(self) -> tuple[tuple[str, bool, str | None], ...] | None:
        """Each issuer, whether its keys are here, and why not; None without login."""
        if self._current().authentication is None:
            return None
        return tuple((each.issuer, each in self._keys, self.errors.get(each.issuer)) for each in self.issuers())

    async def wait_following(self) -> None:
        """Look at all issuers again and again, for ever; at a new one within a moment."""
        looked = 0.0
        while True:
            issuers = self.issuers()
            is_due = trio.current_time() - looked >= LOOK
            due = [each for each in issuers if is_due or (each not in self._keys and each.issuer not in self.errors)]
            if is_due:
                looked = trio.current_time()
                self._keys = {issuer: keys for issuer, keys in self._keys.items() if issuer in issuers}
                self.errors = {name: why for name, why in self.errors.items() if name in {each.issuer for each in issuers}}
            async with trio.open_nursery() as nursery:
                for issuer in due:
                    nursery.start_soon(self._wait_read, issuer)
            await trio.sleep(0.2 if issuers else 1.0)

    async def _wait_read(self, issuer: Issuer) -> None:
        try:
            text = await _wait_text(issuer)
            count = _count(text)
        except httpx2.HTTPStatusError as error:
            self._fail(issuer, f"answered HTTP {error.response.status_code}")
        except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            self._fail(issuer, words_of(error))
        except (ValueError, RecursionError) as error:
            self._fail(issuer, f"is no JWKS: {error}"[:200])
        else:
            if self.errors.pop(issuer.issuer, None) is not None or issuer not in self._keys:
                log.info("Keys of an issuer are there", issuer=issuer.issuer, keys=count)
            self._keys[issuer] = text

    def _fail(self, issuer: Issuer, fault: str) -> None:
        reason = f"{issuer.jwks_uri or issuer.jwks_file} {fault}"
        if self.errors.get(issuer.issuer) != reason:
            log.warning("Keys of an issuer cannot be had", issuer=issuer.issuer, error=reason, before=issuer in self._keys)
        self.errors[issuer.issuer] = reason


def _count(text: bytes) -> int:
    """How many keys a JWKS holds. Raises ValueError."""
    value = json.loads(text)
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError("it holds no list of keys")
    return len(keys)


async def _wait_text(issuer: Issuer) -> bytes:
    if issuer.jwks_file is not None:
        return await trio.to_thread.run_sync(Path(issuer.jwks_file).read_bytes)
    make_context = partial(trust.context, issuer.ca_file)
    is_https = str(issuer.jwks_uri).startswith("https:")
    context = await trio.to_thread.run_sync(make_context) if is_https else False
    async with httpx2.AsyncClient(verify=context, timeout=TIMEOUT, trust_env=False) as http:
        answer = await http.get(str(issuer.jwks_uri), headers={"accept": "application/json"})
        answer.raise_for_status()
        if len(answer.content) > MAX_KEYS:
            raise ValueError(f"it has more than {MAX_KEYS >> 20} MiB")
        return answer.content
