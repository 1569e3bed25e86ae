"""The Lua filters as Envoy gets them: files of mcpgw_sidecar/envoy, put together."""

from __future__ import annotations

import json
from importlib.resources import files

from mcpgw_sidecar.envoyfiles.stamps import LENGTHS
from mcpgw_sidecar.protocol.gzipped import WORTH


def script(name: str) -> str:
    """The text of a filter."""
    return (files("mcpgw_sidecar.envoy") / f"{name}.lua").read_text(encoding="utf-8")


def messages(stamps: str | None) -> str:
    """The filter that sees requests before the router and answers behind it: events.lua, and with `stamps` memo.lua, gzip.lua and lists.lua.

    `stamps` is the path of the file that says how long a decision holds, "" where there is none; None leaves the memo out.
    """
    if stamps is None:
        return script("json") + script("events")
    told = (
        f"local STAMPS, LENGTHS = {json.dumps(stamps)}, {LENGTHS} -- more than its length in bytes, and one more for none\n"
        f"local WORTH = {WORTH} -- bytes from which the broker compresses\n"
    )
    return "".join([script("json"), told, script("memo"), script("gzip"), script("lists"), script("events")])
