"""The Lua filters as Envoy gets them: the files of mcpgw_sidecar/envoy/lua behind what they share with Python."""

from __future__ import annotations

from importlib.resources import files

from mcpgw_sidecar.envoy.contract import prelude


def script(name: str) -> str:
    """The text of the filter `heal` or `istio`."""
    return prelude() + _file(name)


def messages(stamps: str | None) -> str:
    """The filter that meets requests before the router, and answers behind it.

    `stamps` is the path of the file that says how long an entry of the memo holds, "" where there is
    none; None leaves the memo out (memo.lua, gzip.lua, lists.lua), and events.lua is all that is left.
    """
    memo = ("memo", "gzip", "lists") if stamps is not None else ()
    return prelude(stamps or "") + "".join(_file(name) for name in ("json", *memo, "events"))


def _file(name: str) -> str:
    return (files("mcpgw_sidecar.envoy") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
