"""The directory of Envoy's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpgw_sidecar.envoyfiles.writer import make_directory
from mcpgw_sidecar.errors import UnavailableError


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
