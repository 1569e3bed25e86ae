"""What Envoy says of the files: did it accept them, and if not, why. Read from its admin endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import httpx2
import trio

from mcpgw_sidecar.envoyfiles.writer import CDS, LDS, RDS, EnvoyFiles
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

INTERVAL = 1.0  # seconds between two looks while Envoy is not seen or not content
INTERVAL_WELL = 5.0  # seconds otherwise: a dump of a thousand clusters is some megabytes
LOOK = 0.2  # seconds between two looks whether something new was written
TIMEOUT = 2.0  # seconds for Envoy to answer: it is on this machine


@attrs.frozen
class Verdict:
    """`accepted` is None as long as Envoy has not been seen."""

    accepted: bool | None = None
    error: str | None = None


async def wait_reading(admin: str, files: EnvoyFiles, verdict: Watched[Verdict]) -> None:
    """Publish Envoy's verdict for ever. `admin` is HOST:PORT."""
    async with httpx2.AsyncClient(verify=False, timeout=TIMEOUT, trust_env=False) as http:  # plain HTTP only
        while True:
            judged = dict(files.versions)
            before, seen = verdict.value, await _wait_verdict(http, admin, files)
            if verdict.publish(seen) and (seen.accepted is not None or before.accepted is not None):
                _log(seen)
            with trio.move_on_after(INTERVAL if seen.accepted is not True else INTERVAL_WELL):
                while files.versions == judged:  # noqa: ASYNC110  # a look at a dictionary; the writer need not know of us
                    await trio.sleep(LOOK)


async def _wait_verdict(http: httpx2.AsyncClient, admin: str, files: EnvoyFiles) -> Verdict:
    if not files.versions:
        return Verdict(None, "nothing was written yet: there is no configuration")
    try:
        answer = await http.get(f"http://{admin}/config_dump?mask=")
        return judge(answer.json(), files.versions, files.clusters)
    except (httpx2.HTTPError, ValueError) as error:
        return Verdict(None, f"no Envoy admin endpoint at {admin}: {type(error).__name__}")
    except (AttributeError, TypeError, LookupError):
        return Verdict(None, f"what answers at {admin} is not Envoy's admin endpoint")


def judge(dump: Mapping[str, Any], versions: Mapping[str, str], clusters: Iterable[str] = ()) -> Verdict:
    """Compare what Envoy runs with what was written, and collect its complaints.

    Envoy takes the good clusters of a file, leaves out the bad ones, and says so only in its log: each is looked for by name.
    """
    running: dict[str, str] = {}
    errors: list[str] = []
    missing = set(clusters)
    for section in dump.get("configs", ()):
        kind = section.get("@type", "").rpartition(".")[2]
        if kind == "ClustersConfigDump":
            running[CDS] = section.get("version_info", "")
            found = (*section.get("dynamic_warming_clusters", ()), *section.get("dynamic_active_clusters", ()))
            errors += _details(found)
            missing -= {item.get("cluster", {}).get("name") for item in found}
        elif kind == "ListenersConfigDump":
            running[LDS] = section.get("version_info", "")
            errors += _details(section.get("dynamic_listeners", ()))
        elif kind == "RoutesConfigDump":
            for route in section.get("dynamic_route_configs", ()):
                running[RDS] = route.get("version_info", "")
                errors += _details([route])
    behind = [name for name in (CDS, LDS, RDS) if running.get(name) != versions.get(name)]
    errors += [f"Envoy left out the cluster {name}: see Envoy's log" for name in sorted(missing)]
    if not behind and not errors:
        return Verdict(accepted=True)
    reason = (
        "; ".join(dict.fromkeys(errors)) or f"Envoy does not run what was written to {', '.join(behind)}: see Envoy's log"
    )
    return Verdict(accepted=False, error=reason)


def _details(*groups: Any) -> list[str]:  # noqa: ANN401  # parts of Envoy's dump
    return [
        item["error_state"]["details"] for group in groups for item in group if item.get("error_state", {}).get("details")
    ]


def _log(verdict: Verdict) -> None:
    if verdict.accepted:
        log.info("Envoy accepted its configuration")
    elif verdict.accepted is False:
        log.error("Envoy refused its configuration", error=verdict.error)
    else:
        log.warning("Envoy's admin endpoint does not answer any more", error=verdict.error)
