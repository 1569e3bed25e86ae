"""Writes the files that Envoy follows: only those that changed, each with an atomic rename.

Clusters are written before the routes that need them. The route and cluster of a removed server
stay for a moment, so that a call that was decided just before still has its route. Calls in flight
are not cut: Envoy lets the streams of a removed cluster finish (seen with Envoy 1.40).
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import trio
import yaml

from mcpgw_sidecar.envoy import credentials
from mcpgw_sidecar.envoy.clusters import Resource, clusters
from mcpgw_sidecar.envoy.listener import bootstrap, listeners
from mcpgw_sidecar.envoy.routes import routes
from mcpgw_sidecar.envoy.settings import EnvoySettings
from mcpgw_sidecar.errors import UnavailableError, UpstreamError
from mcpgw_sidecar.model.access import Access
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Desired, Server
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.files import replace_text
from mcpgw_sidecar.runtime.watch import Watched
from mcpgw_sidecar.upstream.words import credential_of

log = get_logger(__name__)

PROOF = "secret"
LDS, RDS, CDS, BOOTSTRAP = "lds.yaml", "rds.yaml", "cds.yaml", "bootstrap.yaml"
LINGER = 1.0  # seconds that the route and cluster of a removed server stay
MANY = 100  # servers of which the files take 0.1 s
RETRY = 5.0  # seconds until a failed write (a full disk) is tried again
_HEAD = "# Written by mcpgw-sidecar; Envoy follows it. Changes made here are lost.\n"


@attrs.frozen
class _Texts:
    """What stands in the files, in the order in which they are written, and the clusters."""

    files: Mapping[str, str]
    clusters: frozenset[str]


class EnvoyFiles:
    """The files in one directory.

    `versions` has the `version_info` of each file, `clusters` the names in cds.yaml.
    """

    def __init__(self, settings: EnvoySettings) -> None:
        self._settings = settings
        self._directory = Path(settings.directory)
        self.versions: dict[str, str] = {}
        self.clusters: frozenset[str] = frozenset()
        self.error: str | None = None
        self._credentials: dict[str, str] = {}
        self._faults: dict[ServerName, str] = {}
        self._written: tuple[tuple[Server, ...], Access] | None = None

    def write_first(self, desired: Desired, *, anew: bool = True) -> None:
        """Write all files before Envoy starts. Raises UnavailableError.

        Without `anew`, existing files stay: the servers come later. They stay as well where nothing
        can be written (a full disk): Envoy goes on with them, and `error` says so.
        """
        make_directory(self._directory)
        are_there = all((self._directory / name).exists() for name in (BOOTSTRAP, CDS, RDS, LDS))
        try:
            self._write(BOOTSTRAP, _dump(bootstrap(self._settings)))
            if anew or not are_there:
                self._write_credentials(desired.enabled)
                self._write_texts(self._texts(desired.enabled, desired.access))
                self._written = (desired.enabled, desired.access)
        except OSError as error:
            self.error = f"cannot write to {self._directory}: {error.strerror}"
            if not are_there:
                msg = f"{self.error}; choose another directory with --envoy-dir"
                raise UnavailableError(msg) from None
            log.error("Envoy files not written, those of before stay", error=self.error)  # noqa: TRY400

    async def wait_following(
        self,
        desired: Watched[Desired],
        *,
        task_status: trio.TaskStatus[Watched[Desired]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Write the files after each change of the desired servers, for ever.

        It starts with a value that has the servers once they are written, so that nobody lists one
        before that. A failed write is tried again.
        """
        written: Watched[Desired] | None = None
        version, file_servers = desired.version, desired.value.enabled
        while True:
            current = desired.value
            servers, access = current.enabled, current.access
            names = {server.name for server in servers}
            removed_servers = tuple(server for server in file_servers if server.name not in names)
            try:
                await self._wait_written(servers + removed_servers, access)
                self.error = None
            except OSError as error:
                self.error = f"cannot write to {self._directory}: {error.strerror}"
                log.error("Envoy files not written", directory=str(self._directory), error=error.strerror)  # noqa: TRY400
            if written is None:
                task_status.started(written := Watched(current))
            written.publish(current)
            if self.error is not None:
                await trio.sleep(RETRY)
                continue
            has_files = any(server.gives_credential and server.credential_file for server in servers)
            patience = LINGER if removed_servers or has_files else math.inf
            with trio.move_on_after(patience) as waiting:
                version = await desired.wait_after(version)
            file_servers = servers if waiting.cancelled_caught else servers + removed_servers

    async def _wait_written(self, servers: tuple[Server, ...], access: Access) -> None:
        """Write what differs.

        The texts of 1,000 servers take a second, in which everybody else would wait: a thread makes
        them.
        """
        self._write_credentials(servers)
        if self._written == (servers, access):
            return
        if len(servers) > MANY:
            texts = await trio.to_thread.run_sync(self._texts, servers, access)
        else:
            texts = self._texts(servers, access)
        self._written = None  # should only some of them be written
        self._write_texts(texts)
        self._written = (servers, access)

    def _texts(self, servers: tuple[Server, ...], access: Access) -> _Texts:
        settings, service = self._settings, access.limits.service
        cluster_resources = clusters(settings, servers, credentials.filters, service)
        resources = {
            CDS: cluster_resources,
            RDS: [routes(settings, servers, access)],
            LDS: listeners(settings, servers, access),
        }
        names = frozenset(cluster["name"] for cluster in cluster_resources)
        return _Texts({name: _dump({"resources": values}) for name, values in resources.items()}, names)

    def _write_texts(self, texts: _Texts) -> None:
        """Write the files that differ, clusters before the routes that need them."""
        for name, body in texts.files.items():
            version = hashlib.sha256(body.encode()).hexdigest()[:12]
            if self.versions.get(name) != version:
                self._write(name, f"version_info: {version!r}\n{body}")
                self.versions[name] = version
        self.clusters = texts.clusters

    def _write_credentials(self, servers: tuple[Server, ...]) -> None:
        """Write the credentials that Envoy puts into calls, for the owner alone; remove others."""
        giving = [server for server in servers if server.gives_credential]
        for server in giving:
            self._write_credential(server)
        used = {Path(credentials.file_of(server.name)).name for server in giving}
        for path in (self._directory / credentials.DIRECTORY).glob("*.yaml"):
            if path.name not in used:
                path.unlink(missing_ok=True)
                self._credentials.pop(f"{credentials.DIRECTORY}/{path.name}", None)

    def _write_credential(self, server: Server) -> None:
        name = credentials.file_of(server.name)
        try:
            value = credential_of(server)
            self._faults.pop(server.name, None)
        except UpstreamError as error:  # the last good one stays; the server's own status says why
            if self._faults.get(server.name) != str(error):
                log.warning("Credential for Envoy not read", server=server.name, error=str(error))
            self._faults[server.name] = str(error)
            if (self._directory / name).exists():
                return
            value = None  # Envoy takes no cluster whose file is not there
        text = _dump(credentials.secret(server.name, value or ""))
        if self._credentials.get(name) != text:
            (self._directory / credentials.DIRECTORY).mkdir(mode=0o700, exist_ok=True)
            replace_text(self._directory / name, _HEAD + text, mode=0o600)
            self._credentials[name] = text

    def _write(self, name: str, text: str) -> None:
        replace_text(self._directory / name, _HEAD + text)


def secret_of(directory: Path) -> str:
    """What follows the paths of Envoy's own questions to the broker: the same as long as its files.

    It stands in them, so whoever may enter their directory may ask. Raises UnavailableError.
    """
    path = directory / PROOF
    try:
        if not path.exists() or not path.read_text(encoding="utf-8").strip():
            replace_text(path, f"/{secrets.token_hex(16)}", mode=0o600)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"cannot keep {path}: {error.strerror}; choose another directory with --envoy-dir"
        raise UnavailableError(msg) from None


def make_directory(directory: Path) -> None:
    """Create the directory of Envoy's files, if it is missing. Raises UnavailableError.

    Nobody else may enter it then: who may speaks to the broker as Envoy does, past the login. Below
    a directory that others may write, as a pod's volume, Envoy may be another user.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        is_shared = directory.parent.stat().st_mode & 0o022
        directory.mkdir(mode=0o755 if is_shared else 0o700, exist_ok=True)
    except OSError as error:
        msg = f"cannot write to {directory}: {error.strerror}; choose another directory with --envoy-dir"
        raise UnavailableError(msg) from None


class _Dumper(yaml.CSafeDumper):
    """Writes no anchors, so that an operator reads each value in its place."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401  # yaml's own signature
        del data
        return True


def _dump(value: Resource) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def bootstrap_text(settings: EnvoySettings) -> str:
    """The text of the bootstrap, as `mcpgw-sidecar envoy` prints it."""
    return _HEAD + _dump(bootstrap(settings))
