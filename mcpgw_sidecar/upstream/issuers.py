"""The public keys of the issuers of tokens, for Envoy: fetched again and again, or from a file.

What was good before stays while an issuer does not answer: its keys do not change because it is
away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx2
import trio

from mcpgw_sidecar.errors import words_of
from mcpgw_sidecar.model.access import Access, Issuer, KnownKeys
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime import trust

log = get_logger(__name__)

LOOK = 4.0  # seconds between two looks; Envoy asks as often, and new keys count within ten
DRAINING = 660.0  # seconds for which Envoy asks for the keys of an issuer that is no more: its drain time, and some
TIMEOUT = 3.0  # seconds for one answer
MAX_KEYS = 1 << 20  # bytes
_TOO_LARGE = f"it has more than {MAX_KEYS >> 20} MiB"
_PUBLIC = ("RSA", "EC", "OKP")  # kinds of keys (RFC 7518, RFC 8037), no set: an issuer may write a list as `kty`


class IssuerKeys:
    """The keys of the issuers that the access document names. `current` returns it."""

    def __init__(self, current: Callable[[], Access]) -> None:
        self._current = current
        self._keys: dict[str, bytes] = {}
        self._known: dict[str, KnownKeys] = {}
        self._left: dict[str, float] = {}
        self._looking: set[str] = set()
        self.errors: dict[str, str] = {}
        """Why the keys of an issuer cannot be had at the moment, by its name."""

    def of(self, mark: str) -> bytes | None:
        """The keys of the issuer of a mark, as JSON; None if there are none.

        Not by a place in the document: an Envoy that still has the one before would get the keys of
        another issuer.
        """
        return self._keys.get(mark)

    def known(self, issuer: Issuer) -> KnownKeys | None:
        """What is known of the keys of an issuer; None as long as there are none."""
        return self._known.get(issuer.mark)

    @property
    def text(self) -> str:
        """The ids of all keys, as a text that is the same in every process."""
        return repr([(mark, sorted(known.ids or ()), known.withdrawn) for mark, known in sorted(self._known.items())])

    def issuers(self) -> tuple[Issuer, ...]:
        """The issuers whose keys are wanted here, in the order of the document."""
        authentication = self._current().authentication
        return authentication.issuers if authentication is not None and not authentication.by_istio else ()

    def facts(self) -> tuple[tuple[str, bool | None, str | None], ...] | None:
        """Each issuer, whether its keys are here, and why not; None without login.

        Where Istio verifies tokens, nothing is known of keys.
        """
        authentication = self._current().authentication
        if authentication is None:
            return None
        if authentication.by_istio:
            return tuple((each.issuer, None, None) for each in authentication.issuers)
        return tuple((each.issuer, each.mark in self._keys, self.errors.get(each.issuer)) for each in self.issuers())

    async def wait_following(self) -> None:
        """Look at all issuers again and again, for ever; at a new one within a moment.

        An issuer that is slow holds up no other.
        """
        looked = 0.0
        async with trio.open_nursery() as nursery:
            while True:
                issuers = self.issuers()
                is_due = trio.current_time() - looked >= LOOK
                due = [
                    each for each in issuers if is_due or (each.mark not in self._keys and each.issuer not in self.errors)
                ]
                if is_due:
                    looked = trio.current_time()
                    self._forget_others(issuers)
                for issuer in due:
                    if issuer.mark not in self._looking:
                        self._looking.add(issuer.mark)
                        nursery.start_soon(self._wait_read, issuer)
                await trio.sleep(0.2 if issuers else 1.0)

    def _forget_others(self, issuers: tuple[Issuer, ...]) -> None:
        marks, names = {each.mark for each in issuers}, {each.issuer for each in issuers}
        now = trio.current_time()
        for mark in self._keys:
            if mark in marks:
                self._left.pop(mark, None)
            else:
                self._left.setdefault(mark, now)
        # The filter chains of before ask on while Envoy drains them, and fill its log in vain.
        gone = {mark for mark, since in self._left.items() if now - since > DRAINING}
        self._keys = {mark: keys for mark, keys in self._keys.items() if mark not in gone}
        self._left = {mark: since for mark, since in self._left.items() if mark not in gone}
        self._known = {mark: known for mark, known in self._known.items() if mark in marks}
        self.errors = {name: why for name, why in self.errors.items() if name in names}

    async def _wait_read(self, issuer: Issuer) -> None:
        try:
            with trio.fail_after(TIMEOUT):
                keys = _public(await _wait_text(issuer))
        except trio.TooSlowError:
            self._fail(issuer, f"did not answer within {TIMEOUT:.0f} s")
        except httpx2.HTTPStatusError as error:
            self._fail(issuer, f"answered HTTP {error.response.status_code}")
        except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            self._fail(issuer, words_of(error))
        except (ValueError, RecursionError) as error:
            self._fail(issuer, f"is no JWKS: {error}"[:200])
        else:
            if self.errors.pop(issuer.issuer, None) is not None or issuer.mark not in self._keys:
                log.info("Keys of an issuer are there", issuer=issuer.issuer, keys=len(keys))
            self._take(issuer, keys)
        finally:
            self._looking.discard(issuer.mark)

    def _take(self, issuer: Issuer, keys: list[dict[str, Any]]) -> None:
        text, before = json.dumps({"keys": keys}).encode(), self._known.get(issuer.mark)
        if self._keys.get(issuer.mark) == text:
            return
        ids = [each.get("kid") for each in keys]
        known = KnownKeys(ids=frozenset(map(str, ids)) if all(isinstance(each, str) for each in ids) else None)
        if before is not None:
            kept = before.ids is not None and known.ids is not None and before.ids <= known.ids
            known = attrs.evolve(known, withdrawn=before.withdrawn if kept else time.time())
            if not kept:
                log.info("Keys of an issuer were withdrawn", issuer=issuer.issuer)
        self._keys[issuer.mark], self._known[issuer.mark] = text, known

    def _fail(self, issuer: Issuer, fault: str) -> None:
        reason = f"{issuer.jwks_uri or issuer.jwks_file} {fault}"
        if self.errors.get(issuer.issuer) != reason:
            log.warning(
                "Keys of an issuer cannot be had", issuer=issuer.issuer, error=reason, before=issuer.mark in self._keys
            )
        self.errors[issuer.issuer] = reason


def _public(text: bytes) -> list[dict[str, Any]]:
    """The public keys that a JWKS holds; at least one. Raises ValueError."""
    value = json.loads(text)
    keys = value.get("keys") if isinstance(value, dict) else None
    found = (
        [each for each in keys if isinstance(each, dict) and each.get("kty") in _PUBLIC] if isinstance(keys, list) else []
    )
    if not found:
        raise ValueError("it holds no public key")
    return found


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(MAX_KEYS + 1)


async def _wait_text(issuer: Issuer) -> bytes:
    if issuer.jwks_file is not None:
        text = await trio.to_thread.run_sync(_read, issuer.jwks_file, abandon_on_cancel=True)
        if len(text) > MAX_KEYS:
            raise ValueError(_TOO_LARGE)
        return text
    make_context = partial(trust.context, issuer.ca_file)
    is_https = str(issuer.jwks_uri).startswith("https:")
    context = await trio.to_thread.run_sync(make_context) if is_https else False
    headers, body = {"accept": "application/json", "accept-encoding": "identity"}, bytearray()
    async with (
        httpx2.AsyncClient(verify=context, timeout=TIMEOUT, trust_env=False) as http,
        http.stream("GET", str(issuer.jwks_uri), headers=headers) as answer,
    ):
        answer.raise_for_status()
        async for part in answer.aiter_raw():
            body += part
            if len(body) > MAX_KEYS:
                raise ValueError(_TOO_LARGE)
    return bytes(body)
