"""The texts of the Lua filters for Envoy.

A text is the prelude with the names that Python and Lua share, and then files of envoy/lua. With
`secret` the broker knows Envoy's own questions from those of other processes.
"""

from __future__ import annotations

from importlib.resources import files

from mcpgw_sidecar.envoy.contract import prelude
from mcpgw_sidecar.model import timeouts


def script(name: str, *, request: float = timeouts.REQUEST, secret: str = "") -> str:
    """The text of the filter `refused`, `heal`, `last` or `istio`.

    `request` is the longest time of one of the gateway's own requests to a server, in seconds.
    """
    before = {"heal": ("call", "json", "failed"), "last": ("passed",), "refused": ("call",), "istio": ("call",)}
    return prelude(request=request, secret=secret) + "".join(_file(part) for part in (*before.get(name, ()), name))


def messages(stamps: str | None, *, secret: str = "") -> str:
    """The text of the filter that reads requests before the router, and answers after it.

    `stamps` is the path of the stamps' file, which says how long an entry of the memo is valid, ""
    for none. With None the filter has no memo (passed.lua, scan.lua, memo.lua, gzip.lua,
    lists.lua).
    """
    memo = _block("passed") + _block("gzip") + _block("scan", "memo", "lists") if stamps is not None else ""
    answers = _block("failed", "plain", "own", "events")
    return prelude(stamps or "", secret=secret) + _file("call") + _file("json") + memo + answers


def _block(*names: str) -> str:
    """Files whose local names the others do not see: Lua has room for 200 at a time."""
    return "do\n" + "".join(map(_file, names)) + "end\n"


def _file(name: str) -> str:
    return (files("mcpgw_sidecar.envoy") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
