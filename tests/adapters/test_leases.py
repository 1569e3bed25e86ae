"""Leases while the store does not answer. tests/contract/test_store.py has them with a real one."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgw_sidecar.directory.leases import Leases


@pytest.mark.duty("session.store")
async def test_a_lease_is_given_back_once_the_store_is_there_again() -> None:
    """The store still has it: another replica waited a minute, and its client was deaf."""
    asked, told, is_away = list[str](), list[str](), True

    async def wait_script(script: str, keys: list[str], _arguments: list[str]) -> list[Any] | None:
        asked.append("free" if "del" in script and "hdel" not in script else "other")
        del keys
        return None if is_away else [1] if asked[-1] == "free" else []

    async def wait_free(name: str) -> None:
        told.append(name)

    leases = Leases(me="me", wait_script=wait_script, wait_free=wait_free)
    assert await leases.wait_taken("a", lambda: None) is False
    leases.release("a")
    for _ in range(2):
        await leases.wait_alive()
    assert (asked.count("free"), told) == (2, [])
    is_away = False
    for _ in range(2):
        await leases.wait_alive()
    assert (asked.count("free"), told) == (3, ["a"])
