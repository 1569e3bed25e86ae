"""The directory of Envoy's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import yaml

from mcpgw_sidecar.envoyfiles import writer
from mcpgw_sidecar.envoyfiles.writer import CDS, RDS, EnvoyFiles, make_directory
from mcpgw_sidecar.errors import UnavailableError
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Desired, Server
from mcpgw_sidecar.runtime.watch import Watched
from tests.golden.test_envoy_resources import settings_of

SERVERS = tuple(Server(name=ServerName(f"ns/{n}"), url=f"http://h{n}/mcp", hostname=f"h{n}") for n in range(3))


@pytest.mark.duty("security.local-sockets")
def test_nobody_else_may_enter_it(tmp_path: Path) -> None:
    """Who reaches the broker's socket speaks as Envoy does: any claims, past the login."""
    make_directory(tmp_path / "mine" / "envoy")
    assert (tmp_path / "mine" / "envoy").stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "volume"
    shared.mkdir()
    shared.chmod(0o2777)  # as Kubernetes makes them: Envoy is another user there
    make_directory(shared / "envoy")
    assert (shared / "envoy").stat().st_mode & 0o777 == 0o755
    (shared / "envoy").chmod(0o750)
    make_directory(shared / "envoy")
    assert (shared / "envoy").stat().st_mode & 0o777 == 0o750, "what is there stays as its operator made it"
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="--envoy-dir"):
        make_directory(tmp_path / "file" / "envoy")


@pytest.mark.parametrize("many", [100, 1])
async def test_files_follow_the_servers_however_many(many: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MANY", many)
    made: list[int] = []

    def texts(self: EnvoyFiles, servers: Any, access: Any) -> Any:
        made.append(len(servers))
        return original(self, servers, access)

    original = EnvoyFiles._texts
    monkeypatch.setattr(EnvoyFiles, "_texts", texts)
    desired = Watched(Desired(source="f", servers=SERVERS[:2], generation=1))
    files = EnvoyFiles(settings_of({"directory": str(tmp_path)}))
    files.write_first(desired.value)
    first = files.versions[CDS]
    async with trio.open_nursery() as nursery:
        written = await nursery.start(files.wait_following, desired)
        assert written.value is desired.value
        assert made == [2], "what stands there already is not made again"
        desired.publish(attrs.evolve(desired.value, servers=SERVERS, generation=2))
        with trio.fail_after(10):
            await written.wait_after(written.version)
        assert files.versions[CDS] != first
        nursery.cancel_scope.cancel()
    document = yaml.safe_load((tmp_path / CDS).read_text())
    assert files.clusters == {cluster["name"] for cluster in document["resources"]}
    assert all(any(server.hostname in str(cluster) for cluster in document["resources"]) for server in SERVERS)
    assert document["version_info"] == files.versions[CDS]


async def test_what_was_written_in_part_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in between, and then the configuration is what it was."""
    desired = Watched(Desired(source="f", servers=SERVERS[:2], generation=1))
    files = EnvoyFiles(settings_of({"directory": str(tmp_path)}))
    files.write_first(desired.value)
    before = (tmp_path / CDS).read_text()
    full = True

    def write(self: EnvoyFiles, name: str, text: str) -> None:
        if full and name == RDS:
            raise OSError(28, "No space left on device")
        original(self, name, text)

    original = EnvoyFiles._write
    monkeypatch.setattr(EnvoyFiles, "_write", write)
    monkeypatch.setattr(writer, "RETRY", 0.05)
    async with trio.open_nursery() as nursery:
        written = await nursery.start(files.wait_following, desired)
        version = written.version
        desired.publish(attrs.evolve(desired.value, servers=SERVERS, generation=2))
        version = await written.wait_after(version)
        assert files.error is not None
        assert (tmp_path / CDS).read_text() != before
        desired.publish(attrs.evolve(desired.value, servers=SERVERS[:2], generation=3))
        full = False
        with trio.fail_after(10):
            while (tmp_path / CDS).read_text() != before:  # noqa: ASYNC110  # a file has no event
                await trio.sleep(0.05)
        assert files.error is None
        nursery.cancel_scope.cancel()
