"""Holds the Lease, so that one of many sidecars writes."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import trio

from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.kinds import LEASE
from mcpgw_sidecar.resources.leases import DURATION, LOOK, RENEW, Observed, released, taken
from mcpgw_sidecar.resources.objects import Ref
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

# A try is a handshake, a GET and a PUT: with an API server a second and a half away it takes ten.
TRY = 20.0  # seconds; of a held Lease as long as it is held
LET_GO = DURATION * 0.8  # seconds without a renewal: we stop writing before another sidecar begins
RELEASE_TIMEOUT = 1.0  # seconds
_NOT_FOUND, _CONFLICT = 404, 409


class LeaseHolder:
    """Tries for ever to hold a Lease.

    `held` says whether it does, `error` why the API cannot be asked.
    """

    def __init__(self, api: KubeApi, ref: Ref, identity: str) -> None:
        self._api = api
        self._ref = ref
        self.identity = identity
        self._observed = Observed(identity)
        self._renewal_time = -DURATION
        self.error: str | None = None
        self.held = Watched(False)  # noqa: FBT003  # the value

    @property
    def namespace(self) -> str:
        """The namespace of the Lease."""
        return self._ref.namespace

    async def wait_holding(self) -> None:
        """Take the Lease when it is free, renew it, and release it at the end."""
        try:
            while True:
                if not await self._wait_until(TRY, self._wait_tried):
                    self._fail(f"the Kubernetes API was too slow to renew the Lease {self._ref}")
                await self._wait_until(RENEW if self.held.value else LOOK, trio.sleep_forever)
        finally:
            if self.held.value:
                with trio.move_on_after(RELEASE_TIMEOUT, shield=True):
                    await self._wait_released()

    async def _wait_until(self, seconds: float, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait for `wait`, at most `seconds`; whether it ended by then.

        A held Lease that was not renewed ends the wait earlier, in time to stop writing before
        another sidecar begins.
        """
        end = trio.current_time() + seconds
        let_go = self._renewal_time + LET_GO if self.held.value else math.inf
        with trio.CancelScope(deadline=min(end, let_go)) as scope:
            await wait()
        if self.held.value and trio.current_time() >= self._renewal_time + LET_GO:
            log.warning("Lease lost: it could not be renewed in time", lease=str(self._ref), identity=self.identity)
            self.held.publish(False)  # noqa: FBT003  # the value
        return not scope.cancelled_caught

    def _fail(self, error: str) -> None:
        if error != self.error:
            log.warning("Lease not renewed", lease=str(self._ref), error=error)
        self.error = error

    async def _wait_tried(self) -> None:
        start = trio.current_time()
        try:
            won = await self._wait_taken()
        except ApiError as error:
            self._fail(str(error))
            return
        self.error = None
        if won:
            self._renewal_time = start
        self._hold(held=won)

    async def _wait_taken(self) -> bool:
        path = LEASE.path(self._ref.namespace, self._ref.name)
        try:
            lease = await self._api.wait_json("GET", path)
            if not self._observed.may_take(lease, trio.current_time()):
                return False
            await self._api.wait_json("PUT", path, body=taken(lease, self.identity, _now()))
        except ApiError as error:
            if error.status == _CONFLICT:
                return False  # another sidecar was faster
            if error.status != _NOT_FOUND:
                raise
            return await self._wait_made()
        return True

    async def _wait_made(self) -> bool:
        meta = {"name": self._ref.name, "namespace": self._ref.namespace}
        lease = {"apiVersion": f"{LEASE.group}/{LEASE.version}", "kind": LEASE.name, "metadata": meta}
        try:
            await self._api.wait_json("POST", LEASE.path(self._ref.namespace), body=taken(lease, self.identity, _now()))
        except ApiError as error:
            if error.status == _CONFLICT:
                return False
            raise
        return True

    async def _wait_released(self) -> None:
        path = LEASE.path(self._ref.namespace, self._ref.name)
        try:
            lease = await self._api.wait_json("GET", path)
            if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
                await self._api.wait_json("PUT", path, body=released(lease, _now()))
        except ApiError as error:
            log.debug("Lease not given back", lease=str(self._ref), error=str(error))

    def _hold(self, *, held: bool) -> None:
        if self.held.publish(held):
            message = "This sidecar writes status and ConfigMap now" if held else "This sidecar writes no longer"
            log.info(message, lease=str(self._ref), identity=self.identity)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
