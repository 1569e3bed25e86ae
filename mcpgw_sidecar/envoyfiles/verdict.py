"""Envoy's verdict on the files: whether it accepted them, and if not, why.

It comes from Envoy's admin endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import httpx2
import trio

from mcpgw_sidecar.envoyfiles.writer import CDS, LDS, RDS, EnvoyFiles
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.envoyclient import envoy_client
from mcpgw_sidecar.runtime.listeners import Address
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

INTERVAL = 1.0  # seconds between two dumps while Envoy does not answer or has refused a file
INTERVAL_WELL = 5.0  # seconds otherwise: with a thousand clusters a dump has some megabytes
LOOK = 0.2  # seconds between two checks whether a file has changed
LOADING = 3.0  # seconds that Envoy may take to load what was written: with a thousand clusters it does
TIMEOUT = 2.0  # seconds for Envoy to answer: it is on this machine


@attrs.frozen
class Verdict:
    """Envoy's verdict; `accepted` is None as long as Envoy does not answer.

    `since` is when it was first so (trio's clock). `is_loading` says that Envoy runs older files,
    and has said of none that it refuses it.
    """

    accepted: bool | None = None
    error: str | None = None
    since: float = attrs.field(default=0.0, eq=False)
    is_loading: bool = False

    def refusal(self, now: float) -> str | None:
        """Why Envoy does not run what was written; None while it may still be loading it."""
        return self.error if self.accepted is False and now - self.since >= LOADING else None


async def wait_reading(admin: Address, files: EnvoyFiles, verdict: Watched[Verdict]) -> None:
    """Publish Envoy's verdict for ever."""
    async with envoy_client(admin, TIMEOUT) as http:
        logged = Verdict()
        while True:
            versions = dict(files.versions)
            old_verdict, new_verdict = verdict.value, await _wait_verdict(http, admin, files)
            has_lasted = old_verdict.accepted == new_verdict.accepted
            since = old_verdict.since if has_lasted else trio.current_time()
            new_verdict = attrs.evolve(new_verdict, since=since)
            verdict.publish(new_verdict)
            is_sure = not new_verdict.is_loading or new_verdict.refusal(trio.current_time()) is not None
            if is_sure and new_verdict != logged:
                if new_verdict.accepted is not None or logged.accepted is not None:
                    _log(new_verdict)
                logged = new_verdict
            with trio.move_on_after(INTERVAL if new_verdict.accepted is not True else INTERVAL_WELL):
                while files.versions == versions:  # noqa: ASYNC110  # two dictionaries; the writer need not know this reader
                    await trio.sleep(LOOK)


async def _wait_verdict(http: httpx2.AsyncClient, admin: Address, files: EnvoyFiles) -> Verdict:
    if not files.versions:
        return Verdict(None, "nothing was written yet: there is no configuration")
    try:
        answer = await http.get("/config_dump?mask=")
        return judge(answer.json(), files.versions, files.clusters)
    except (httpx2.HTTPError, ValueError) as error:
        return Verdict(None, f"no Envoy admin endpoint at {admin}: {type(error).__name__}")
    except (AttributeError, TypeError, LookupError):
        return Verdict(None, f"what answers at {admin} is not Envoy's admin endpoint")


def judge(dump: Mapping[str, Any], versions: Mapping[str, str], clusters: Iterable[str] = ()) -> Verdict:
    """Compare the resources that Envoy runs with the files, and collect its errors.

    Envoy takes the valid clusters of a file, leaves out the others, and reports that only in its
    log. So `clusters` lists the names that have to be there.
    """
    envoy_versions: dict[str, str] = {}
    errors: list[str] = []
    missing_clusters = set(clusters)
    for section in dump.get("configs", ()):
        kind = section.get("@type", "").rpartition(".")[2]
        if kind == "ClustersConfigDump":
            envoy_versions[CDS] = section.get("version_info", "")
            items = (*section.get("dynamic_warming_clusters", ()), *section.get("dynamic_active_clusters", ()))
            errors += _details(items)
            missing_clusters -= {item.get("cluster", {}).get("name") for item in items}
        elif kind == "ListenersConfigDump":
            envoy_versions[LDS] = section.get("version_info", "")
            errors += _details(section.get("dynamic_listeners", ()))
        elif kind == "RoutesConfigDump":
            for route in section.get("dynamic_route_configs", ()):
                envoy_versions[RDS] = route.get("version_info", "")
                errors += _details([route])
    stale_files = [name for name in (CDS, LDS, RDS) if envoy_versions.get(name) != versions.get(name)]
    errors += [f"Envoy left out the cluster {name}: see Envoy's log" for name in sorted(missing_clusters)]
    if not stale_files and not errors:
        return Verdict(accepted=True)
    if errors:
        return Verdict(accepted=False, error="; ".join(dict.fromkeys(errors)))
    reason = f"Envoy does not run what was written to {', '.join(stale_files)}: see Envoy's log"
    return Verdict(accepted=False, error=reason, is_loading=True)


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
