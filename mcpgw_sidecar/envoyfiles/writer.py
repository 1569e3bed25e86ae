"""Writes what Envoy reads, one atomic rename a file, and only what changed.

Clusters are written before the routes that need them, and what belongs to a server that leaves stays for a moment: a call that
was decided just before still finds its route. Calls in flight end where they are: Envoy lets the streams of a removed cluster run
out (seen with Envoy 1.40).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio
import yaml

from mcpgw_sidecar.envoy.clusters import Resource, clusters
from mcpgw_sidecar.envoy.listener import bootstrap, listener
from mcpgw_sidecar.envoy.routes import routes
from mcpgw_sidecar.envoy.settings import EnvoySettings
from mcpgw_sidecar.errors import UnavailableError
from mcpgw_sidecar.model.servers import Desired, Server
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.files import replace_text
from mcpgw_sidecar.runtime.watch import Watched

log = get_logger(__name__)

LDS, RDS, CDS, BOOTSTRAP = "lds.yaml", "rds.yaml", "cds.yaml", "bootstrap.yaml"
LINGER = 1.0  # seconds that routes and clusters of a server that leaves stay
RETRY = 5.0  # seconds until a failed write (a full disk) is tried again
_HEAD = "# Written by mcpgw-sidecar; Envoy follows it. Changes made here are lost.\n"


class EnvoyFiles:
    """The files of one directory. `versions` holds the version that each file announces, `clusters` what cds.yaml holds."""

    def __init__(self, settings: EnvoySettings) -> None:
        self._settings = settings
        self._directory = Path(settings.directory)
        self.versions: dict[str, str] = {}
        self.clusters: frozenset[str] = frozenset()
        self.error: str | None = None

    def write_first(self, servers: tuple[Server, ...], *, anew: bool = True) -> None:
        """Write everything before Envoy is told to start; not `anew`: what is there stays, the servers come later.

        Raises UnavailableError.
        """
        make_directory(self._directory)
        with _told(self._directory):
            self._write(BOOTSTRAP, _dump(bootstrap(self._settings)))
            if anew or not all((self._directory / name).exists() for name in (CDS, RDS, LDS)):
                self._write_all(servers)

    async def wait_following(self, desired: Watched[Desired]) -> None:
        """Follow the desired servers for ever. A failed write leaves the file as it was and is tried again."""
        version, written = desired.version, desired.value.enabled
        while True:
            servers = desired.value.enabled
            names = {server.name for server in servers}
            leaving = tuple(server for server in written if server.name not in names)
            try:
                self._write_all(servers + leaving)
                self.error = None
            except OSError as error:
                self.error = f"cannot write to {self._directory}: {error.strerror}"
                log.error("Envoy files not written", directory=str(self._directory), error=error.strerror)  # noqa: TRY400
                await trio.sleep(RETRY)
                continue
            with trio.move_on_after(LINGER if leaving else math.inf) as patience:
                version = await desired.wait_after(version)
            written = servers if patience.cancelled_caught else servers + leaving

    def _write_all(self, servers: tuple[Server, ...]) -> None:
        wanted = clusters(self._settings, servers)
        self._write_resources(CDS, wanted)
        self.clusters = frozenset(cluster["name"] for cluster in wanted)
        self._write_resources(RDS, [routes(self._settings, servers)])
        self._write_resources(LDS, [listener(self._settings)])

    def _write_resources(self, name: str, resources: list[Resource]) -> None:
        body = _dump({"resources": resources})
        version = hashlib.sha256(body.encode()).hexdigest()[:12]
        if self.versions.get(name) == version:
            return
        self._write(name, f"version_info: {version!r}\n{body}")
        self.versions[name] = version

    def _write(self, name: str, text: str) -> None:
        replace_text(self._directory / name, _HEAD + text)


def make_directory(directory: Path) -> None:
    """Make the directory of Envoy's files, if it is missing. Raises UnavailableError."""
    with _told(directory):
        directory.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"cannot write to {directory}: {error.strerror}; choose another directory with --envoy-dir"
        raise UnavailableError(msg) from None


class _Dumper(yaml.CSafeDumper):
    """No anchors: what an operator reads stands where it belongs."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401  # yaml's own signature
        del data
        return True


def _dump(value: Resource) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def bootstrap_text(settings: EnvoySettings) -> str:
    """The bootstrap, as `mcpgw-sidecar envoy` prints it."""
    return _HEAD + _dump(bootstrap(settings))
