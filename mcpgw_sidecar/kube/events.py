"""Events of the Kubernetes API: what happened to an object, for `kubectl describe`."""

from __future__ import annotations

import math
import secrets
from datetime import UTC, datetime

import attrs
import trio

from mcpgw_sidecar import PROGRAM
from mcpgw_sidecar.errors import ApiError
from mcpgw_sidecar.kube.api import KubeApi, Raw
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.resources.kinds import CONTROLLER, EVENT, ResourceKind
from mcpgw_sidecar.resources.objects import Ref

log = get_logger(__name__)

AGAIN = 60.0  # seconds between two Events of one reason, for servers that flap
MAX_REPORTER = 128  # characters of an Event's reportingInstance


@attrs.define
class Events:
    """Writes Events in the name of a sidecar (`identity`)."""

    api: KubeApi
    identity: str
    _times: dict[tuple[str, Ref, str], float] = attrs.field(factory=dict)

    def forget(self, kind: str, ref: Ref) -> None:
        """An object was deleted."""
        self._times = {key: time for key, time in self._times.items() if key[:2] != (kind, ref)}

    async def wait_written(self, kind: ResourceKind, ref: Ref, uid: str, ready: Raw) -> None:
        """Write an Event about a new Ready condition, unless there was one of its reason lately."""
        now, key = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"), (kind.name, ref, ready["reason"])
        if trio.current_time() - self._times.get(key, -math.inf) < AGAIN:
            return
        self._times[key] = trio.current_time()
        event = {
            "metadata": {"name": f"{ref.name[:200]}.{secrets.token_hex(8)}", "namespace": ref.namespace},
            "involvedObject": {
                "apiVersion": f"{kind.group}/{kind.version}",
                "kind": kind.name,
                "namespace": ref.namespace,
                "name": ref.name,
                "uid": uid,
            },
            "type": "Normal" if ready["status"] == "True" else "Warning",
            "reason": ready["reason"],
            "message": ready["message"],
            "source": {"component": PROGRAM},
            "reportingComponent": CONTROLLER,
            "reportingInstance": self.identity[:MAX_REPORTER],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self.api.wait_json("POST", EVENT.path(ref.namespace), body=event)
        except ApiError as error:
            log.debug("Event not written", object=str(ref), error=str(error))
